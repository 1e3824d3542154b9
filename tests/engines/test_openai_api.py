"""The adapter against a real llama.cpp server, and against stand-ins for what others say or should not say."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engines.conftest import SETTINGS
from tests.engines.stand_in import Handler, StandIn, event, in_turn, say, send_piece, start_stream, stream
from tests.engines.test_vllm import folder_with
from tests.engines.test_vllm import installed as vllm_installed
from weigh.engines import served_model
from weigh.engines.endpoint import Endpoint, Refused, checked_url, key_for
from weigh.engines.engine import Limits, Session, Settings
from weigh.engines.http_session import HttpSession
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.engines.openai_api import OpenAiModel
from weigh.engines.openai_events import DONE, EventLines, parse_event
from weigh.engines.token_arrivals import Counted, TokenArrivals, shared_out
from weigh.engines.vllm import Vllm
from weigh.errors import BadInput, EngineCrashed, EngineTimeout, UnknownName, Unreachable, WeighError

SECRET = "sk-something-nobody-may-see"
COMPLETIONS, CHAT, MODELS = "/v1/completions", "/v1/chat/completions", "/v1/models"


def address(session: Session) -> str:
    assert isinstance(session, HttpSession)
    return f"http://127.0.0.1:{session._port}"


@pytest.fixture(scope="module")
def served(session: Session) -> OpenAiModel:
    found = served_model(address(session))
    assert isinstance(found, OpenAiModel)
    return found


# --- a real llama.cpp server -------------------------------------------------------------------------


def test_the_server_says_what_it_is(served: OpenAiModel, model: Path) -> None:
    assert served.version.startswith("llama.cpp ")
    assert served.model == str(model)
    assert served.context_tokens == 2048
    assert served.load_s is None


def test_tokens_come_with_their_times_and_the_servers_own_clock(served: OpenAiModel) -> None:
    made = served.generate(served.prompt(100, seed=1), 40)
    assert (made.prompt_tokens, made.cached_tokens, made.output_tokens) == (100, 0, 40)
    assert made.counted is Counted.EACH
    assert made.own_clock
    assert made.finish == "length"
    assert len(made.token_times_s) == sum(made.piece_tokens) == 40
    assert len(made.step_times_s) == 39
    assert sum(made.step_times_s) == pytest.approx(made.decode_s, abs=1e-4)
    assert list(made.token_times_s) == sorted(made.token_times_s)
    assert made.token_times_s[0] >= made.prefill_s > 0
    assert served.command[1].endswith(COMPLETIONS)


def test_its_figures_are_those_of_the_engines_own_session(served: OpenAiModel, session: Session) -> None:
    prompt = served.prompt(200, seed=2)
    assert isinstance(prompt, list)
    there, here = served.generate(prompt, 3), session.generate(prompt, 3)
    assert (there.prompt_tokens, there.output_tokens) == (here.prompt_tokens, here.output_tokens)
    assert served.memory() == session.memory()


def test_a_prompt_in_the_cache_is_found_only_when_asked_for(served: OpenAiModel) -> None:
    prompt = served.prompt(100, seed=3)
    served.generate(prompt, 2)
    again = served.generate(prompt, 2, reuse_cache=True)
    assert (again.prompt_tokens, again.cached_tokens) == (1, 99)
    assert served.generate(prompt, 2).cached_tokens == 0


def test_text_and_chats_are_taken_too(session: Session, served: OpenAiModel) -> None:
    text = served.generate("some words", 5)
    counted = served.count_tokens("some words")
    assert counted is not None
    # the model's beginning token comes on top
    assert (text.output_tokens, text.prompt_tokens) == (5, counted + 1)
    chat = OpenAiModel(address(session), chat=True)
    asked = chat.prompt(100, seed=4)
    assert isinstance(asked, str)
    made = chat.generate(asked, 20)
    assert made.output_tokens == 20
    # the template's own tokens come on top
    assert 100 < made.prompt_tokens < 200
    with pytest.raises(BadInput, match="no token ids"):
        OpenAiModel(address(session), chat=True).generate([1, 2, 3], 1)


def test_without_counts_in_each_piece_the_total_is_shared_out(session: Session) -> None:
    plain = OpenAiModel(address(session))
    plain._ways = plain._ways[1:2]  # as a server that refuses all extras
    made = plain.generate("some words", 12)
    assert made.output_tokens <= 12  # end tokens count here
    assert made.output_tokens == sum(made.piece_tokens)


def test_tokens_count_when_they_come_though_their_text_is_held_back(session: Session) -> None:
    """What looks like the beginning of a stop word is kept by the server; it streams counts meanwhile."""
    api = Endpoint(address(session))
    word = OpenAiModel(address(session)).generate([7] * 20, 1).text
    asked: dict[str, Any] = {"prompt": [7] * 20, "max_tokens": 40, "stream": True, "ignore_eos": True}
    asked |= {"samplers": ["top_k"], "top_k": 1, "stop": [word * 4 + "?"], "timings_per_token": True}
    arrivals, lines = TokenArrivals(), EventLines()
    with api.open("POST", COMPLETIONS, asked) as reply:
        for at_s, piece in reply:
            for data in lines.feed(piece):
                if data != DONE:
                    arrivals.take(at_s, parse_event(data))
    assert arrivals.text == ""
    assert sum(arrivals.piece_tokens) == len(arrivals.token_times_s) == 40
    assert len(arrivals.own_steps_s) == 39
    assert arrivals.timings is not None
    assert sum(arrivals.own_steps_s) == pytest.approx(arrivals.timings.decode_s, abs=1e-4)


def test_a_request_beyond_the_context_is_refused_and_the_next_one_answered(session: Session) -> None:
    fresh = OpenAiModel(address(session))
    for _ in range(2):
        with pytest.raises(Refused, match=r"3000 tokens.*2048") as refusal:
            fresh.generate([7] * 3000, 1)
        assert "\n" not in refusal.value.message
        assert fresh.generate([7] * 30, 2).output_tokens == 2


def test_a_model_that_is_not_there_is_named(session: Session) -> None:
    with pytest.raises(UnknownName, match="gpt-4"):
        OpenAiModel(address(session), model="gpt-4")


def test_two_requests_at_once(model: Path) -> None:
    settings = Settings(context_tokens=512, parallel=2, threads=1)
    made: list[int] = []
    with EmbeddedLlamaCpp().start(model, settings, Limits()) as session:
        served = OpenAiModel(address(session))
        ask = lambda: made.append(served.generate([7] * 50, 20).output_tokens)  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert made == [20, 20]


def test_a_server_that_is_killed_meanwhile_is_one_clear_line(slow_model: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with EmbeddedLlamaCpp().start(slow_model, SETTINGS, Limits()) as session:
        served = OpenAiModel(address(session))
        (pid,) = {child.pid for child in psutil.Process().children()} - before
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(EngineCrashed, match="broke off") as error:
            served.generate([7] * 50, 1900)
        assert "\n" not in error.value.message
        assert served.memory() is None


def test_a_server_that_hangs_is_given_up(slow_model: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with EmbeddedLlamaCpp().start(slow_model, SETTINGS, Limits()) as session:
        served = OpenAiModel(address(session), limits=Limits(silence_s=0.5))
        (pid,) = {child.pid for child in psutil.Process().children()} - before
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(EngineTimeout, match="silent for 500 ms"):
                served.generate([7] * 50, 10)
        finally:
            os.kill(pid, signal.SIGCONT)


# --- a real vLLM, where there is one -----------------------------------------------------------------


@pytest.mark.skipif(not vllm_installed(), reason="no vLLM here: `weigh engines add vllm`")
def test_a_real_vllm_is_asked_and_counted_right(tmp_path: Path) -> None:
    settings = Settings(context_tokens=1024, parallel=2, threads=1)
    with Vllm().start(folder_with(tmp_path / "m"), settings, Limits()) as session:
        served = served_model(address(session))
        assert served.version.startswith("vllm ")
        assert served.context_tokens == 1024
        prompt = list(range(5, 205))
        made = served.generate(prompt, 20)
        assert (made.prompt_tokens, made.cached_tokens, made.output_tokens) == (200, 0, 20)
        assert (made.counted, made.own_clock, made.finish) == (Counted.EACH, False, "length")
        assert served.generate(prompt, 1).cached_tokens == 0  # a salt keeps requests apart
        served.generate(prompt, 1, reuse_cache=True)
        assert served.generate(prompt, 1, reuse_cache=True).cached_tokens > 0
        with pytest.raises(Refused, match="1024"):
            served.generate([7] * 1900, 5)
        assert served.memory() is not None


# --- stand-ins for other servers ---------------------------------------------------------------------


def listing(*names: str, owner: str = "system", **more: Any) -> Any:
    entries = [{"id": name, "object": "model", "owned_by": owner, **more} for name in names]
    return say({"object": "list", "data": entries})


def text_piece(text: str, usage: Any = None, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}], "usage": usage})


def chat_piece(finish: str | None = None, **delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def used(prompt: int, output: int, **details: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **details}


@pytest.fixture
def other() -> Iterator[StandIn]:
    with StandIn({MODELS: listing("gpt-4o")}) as server:
        yield server


def test_vllms_running_counts_are_taken_for_each_piece(other: StandIn) -> None:
    """As vLLM 0.32 sends them with `continuous_usage_stats`."""
    other.answers |= {
        MODELS: listing("model", owner="vllm", max_model_len=1024),
        "/version": say({"version": "0.32.0+cpu"}),
        COMPLETIONS: stream(
            text_piece("a", used(9, 1)),
            text_piece("bcd", used(9, 4)),
            text_piece("e", used(9, 5), "length"),
            event({"choices": [], "usage": used(9, 5, prompt_tokens_details={"cached_tokens": 4})}),
            b"data: [DONE]\n\n",
        ),
    }
    served = OpenAiModel(other.url)
    assert (served.version, served.context_tokens) == ("vllm 0.32.0+cpu", 1024)
    made = served.generate([1] * 9, 5)
    assert made.piece_tokens == (1, 3, 1)
    assert (made.prompt_tokens, made.cached_tokens, made.output_tokens) == (5, 4, 5)
    assert (made.counted, made.own_clock) == (Counted.EACH, False)
    assert made.prefill_s == made.token_times_s[0]
    served.generate([1] * 9, 5)
    salts = [body["cache_salt"] for body in other.bodies(COMPLETIONS)]
    assert len(set(salts)) == 2  # each request has a cache of its own
    served.generate([1] * 9, 5, reuse_cache=True)
    assert "cache_salt" not in other.bodies(COMPLETIONS)[-1]


def refuse_extras(handler: Handler) -> None:
    """As api.openai.com answers to what it does not know."""
    if "ignore_eos" in handler.asked:
        message = "Unrecognized request argument supplied: ignore_eos"
        return say({"error": {"message": message, "type": "invalid_request_error"}}, 400)(handler)
    return stream(
        chat_piece(role="assistant", content=""),
        chat_piece(content="Hello"),
        chat_piece(content=" my dear"),
        chat_piece("stop"),
        event({"choices": [], "usage": used(8, 4)}),
        b"data: [DONE]\n\n",
    )(handler)


def test_what_a_server_does_not_take_is_tried_once_and_remembered(other: StandIn) -> None:
    message = "This is a chat model and not supported in the v1/completions endpoint."
    other.answers |= {COMPLETIONS: say({"error": {"message": message}}, 404), CHAT: refuse_extras}
    served = OpenAiModel(other.url)
    made = served.generate("one two three", 10)
    assert (made.text, made.finish, made.output_tokens) == ("Hello my dear", "stop", 4)
    assert (made.counted, made.piece_tokens) == (Counted.SHARED, (2, 2))
    assert served.command == ("POST", other.url + CHAT)
    before = len(other.received)
    served.generate("four five six", 10)
    assert len(other.received) == before + 1


def test_a_model_that_reasons_takes_its_limit_by_the_newer_name(other: StandIn) -> None:
    def answer(handler: Handler) -> None:
        if "max_tokens" in handler.asked or "temperature" in handler.asked:
            return say({"error": {"message": "Unsupported parameter: 'max_tokens'"}}, 400)(handler)
        hidden = used(8, 70, completion_tokens_details={"reasoning_tokens": 64})
        return stream(
            chat_piece(content="four"),
            chat_piece("stop", content=" it is"),
            event({"choices": [], "usage": hidden}),
        )(handler)

    other.answers[CHAT] = answer
    made = OpenAiModel(other.url).generate("two and two", 100)
    assert other.bodies(CHAT)[-1]["max_completion_tokens"] == 100
    assert (made.output_tokens, made.hidden_tokens) == (6, 64)


def test_nothing_but_hidden_reasoning_has_no_times(other: StandIn) -> None:
    hidden = used(8, 64, completion_tokens_details={"reasoning_tokens": 64})
    other.answers[CHAT] = stream(chat_piece("length"), event({"choices": [], "usage": hidden}))
    with pytest.raises(EngineCrashed, match="reasoning that it does not show"):
        OpenAiModel(other.url, chat=True).generate("two and two", 64)


def test_a_token_without_text_is_a_token(other: StandIn) -> None:
    """As vLLM sends a part of a letter, or an end token that is ignored."""
    other.answers[COMPLETIONS] = stream(text_piece("", used(3, 1), "length"), b"data: [DONE]\n\n")
    assert OpenAiModel(other.url).generate([1] * 3, 1).output_tokens == 1


def test_reasoning_that_is_shown_is_output(other: StandIn) -> None:
    counted = used(8, 5, completion_tokens_details={"reasoning_tokens": 3})
    other.answers[CHAT] = stream(
        chat_piece(reasoning_content="hm"),
        chat_piece("stop", content="4"),
        event({"choices": [], "usage": counted}),
    )
    made = OpenAiModel(other.url, chat=True).generate("two and two", 100)
    assert (made.output_tokens, made.hidden_tokens) == (5, 0)


def test_without_any_count_a_piece_is_a_token_and_said_to_be_a_guess(other: StandIn) -> None:
    other.answers[COMPLETIONS] = stream(text_piece("a"), text_piece("b", finish="stop"), b"data: [DONE]\n\n")
    made = OpenAiModel(other.url).generate("x", 5)
    assert (made.output_tokens, made.counted, made.prompt_tokens) == (2, Counted.PIECES, 0)


def test_pieces_may_be_cut_anywhere_on_their_way(other: StandIn) -> None:
    whole = text_piece("é", used(3, 1)) + text_piece("b", used(3, 2), "length") + b"data: [DONE]\n\n"
    other.answers[COMPLETIONS] = stream(*(whole[i : i + 1] for i in range(len(whole))))
    assert OpenAiModel(other.url).generate([1] * 3, 2).text == "éb"


def test_one_of_several_models_has_to_be_named(other: StandIn) -> None:
    other.answers[MODELS] = listing("gpt-4o", "gpt-4.1")
    with pytest.raises(BadInput, match="has 2 models") as error:
        OpenAiModel(other.url)
    assert "gpt-4.1" in (error.value.hint or "")
    assert OpenAiModel(other.url, model="gpt-4.1").model == "gpt-4.1"


def test_tokens_are_shared_out_without_losing_any() -> None:
    assert shared_out(10, [1, 1, 1]) == (3, 4, 3)
    assert shared_out(2, [5, 5, 5]) == (1, 0, 1)
    assert shared_out(0, [1]) == (0,)
    assert sum(shared_out(12345, list(range(1, 400)))) == 12345
    assert min(shared_out(400, [1000] + [1] * 299)) == 1


# --- keys --------------------------------------------------------------------------------------------


def test_a_key_goes_where_it_may_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("MY_KEY", "mine")
    assert key_for("http://192.0.2.7:8000") is None  # it would go in the clear
    for url in ("https://api.openai.com/v1", "http://127.0.0.1:8000"):
        key = key_for(url)
        assert key is not None
        assert key.value == SECRET
        assert SECRET not in repr(key)
    named = key_for("http://192.0.2.7:8000", "MY_KEY")
    assert named is not None
    assert named.value == "mine"
    with pytest.raises(BadInput, match="NO_KEY"):
        key_for("https://api.openai.com/v1", "NO_KEY")
    monkeypatch.setenv("MY_KEY", "two words")
    with pytest.raises(BadInput) as error:
        key_for("https://api.openai.com/v1", "MY_KEY")
    assert "two words" not in error.value.message


def test_a_key_that_the_server_repeats_is_in_no_message(
    other: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    echo = {"error": {"message": f"Incorrect API key provided: {SECRET}"}}
    other.answers |= {COMPLETIONS: say(echo, 401), CHAT: stream(event(echo))}
    served = OpenAiModel(other.url)
    assert other.received[0].headers["Authorization"] == f"Bearer {SECRET}"
    with pytest.raises(Refused, match="OPENAI_API_KEY") as error:
        served.generate("x", 1)
    assert SECRET not in f"{error.value.message} {error.value.hint} {served.command} {served.version}"
    with pytest.raises(EngineCrashed, match="Incorrect API key") as crash:
        OpenAiModel(other.url, chat=True).generate("x", 1)
    assert SECRET not in crash.value.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(other: StandIn, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with StandIn({MODELS: listing("x"), COMPLETIONS: stream(text_piece("a"))}) as elsewhere:
        location = {"Location": f"{elsewhere.url}{MODELS}?token={SECRET}"}
        other.answers[MODELS] = say({}, status, location)
        with pytest.raises(Unreachable, match="redirects to http://127") as error:
            OpenAiModel(other.url)
        assert SECRET not in f"{error.value.message} {error.value.hint}"
        assert elsewhere.received == []


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a b",
        "http://user:word@host/v1",
        "https://host/v1?key=abc",
        "ftp://host",
        "host:8000",
        "http://",
        "http://h:x/",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(BadInput) as error:
        checked_url(url)
    assert not {"word", "abc"} & set(error.value.message.replace("=", " ").split())


def test_a_proxy_is_asked_for_servers_elsewhere_alone(
    other: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("http_proxy", other.url.replace("http://", "http://me:word@"))
    monkeypatch.delenv("no_proxy", raising=False)
    other.answers[f"http://models.invalid:8000{MODELS}"] = listing("there")
    assert OpenAiModel("http://models.invalid:8000").model == "there"
    headers = other.received[-1].headers
    assert headers["Proxy-Authorization"] == "Basic bWU6d29yZA=="  # me:word
    assert "Authorization" not in headers  # in the clear
    assert OpenAiModel(other.url).model == "gpt-4o"
    assert other.received[-1].path == MODELS


# --- servers that fail, or mean harm -----------------------------------------------------------------


def failure(server: StandIn, **limits: float) -> WeighError:
    with pytest.raises(WeighError) as error:
        OpenAiModel(server.url, limits=Limits(**limits)).generate("x", 5)  # type: ignore[arg-type]
    assert "\n" not in error.value.message
    assert len(error.value.message) < 500
    return error.value


def test_a_wish_to_wait_is_honoured_a_few_times(other: StandIn) -> None:
    busy = say({"error": {"message": "Rate limit reached"}}, 429, {"Retry-After": "0"})
    other.answers[COMPLETIONS] = in_turn(busy, busy, stream(text_piece("a", finish="stop")))
    assert OpenAiModel(other.url).generate("x", 1).output_tokens == 1
    other.answers[COMPLETIONS] = busy
    other.received.clear()
    error = failure(other)
    assert isinstance(error, Refused)
    assert "429" in error.message
    assert "Rate limit reached" in error.message
    assert len(other.bodies(COMPLETIONS)) == 4  # and not for ever


def test_waits_are_as_long_as_asked_for_but_not_too_long(other: StandIn) -> None:
    slept: list[float] = []
    api = Endpoint(other.url, sleep=slept.append)
    other.answers["/busy"] = in_turn(
        say({}, 503, {"Retry-After": "7"}), say({}, 429, {"Retry-After": "86400"})
    )
    with pytest.raises(Refused, match="429"):
        api.get("/busy")
    assert slept == [7.0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (say({"error": {"message": "out of\nmemory" + "!" * 9000}}, 500), "500"),
        (say(b"<html>Bad gateway</html>", 502), "502"),
        (say({"choices": [{"text": "a"}]}), "does not stream"),
        (stream(b"data: {broken\n\n"), "no answer"),
        (stream(b"data: [1, 2]\n\n"), "no JSON object"),
        (stream(b"data: " + b"[" * 100_000 + b"\n\n"), "nests too deep"),
        (stream(event({"error": {"message": "CUDA out of memory"}})), "CUDA out of memory"),
        (stream(text_piece("a"), text_piece("b")), "broke off after 2 tokens"),
        (stream(b"data: [DONE]\n\n"), "wrote no token"),
        (stream(text_piece("", finish="stop")), "wrote no token"),
        (say(b"x", headers={"Content-Encoding": "gzip"}), "packed"),
    ],
)
def test_a_server_that_fails_is_one_clear_line(other: StandIn, answer: Any, said: str) -> None:
    other.answers[COMPLETIONS] = answer
    error = failure(other)
    assert isinstance(error, EngineCrashed)
    assert said in error.message


def test_counts_that_cannot_be_are_not_believed(other: StandIn) -> None:
    mad = [used(-1, 5), used(5, 10**30), used(True, 1), {"completion_tokens": "9"}, [], "x", used(3, 2)]
    other.answers[COMPLETIONS] = stream(
        *(text_piece("a", one) for one in mad), text_piece("", finish="stop"), b"data: [DONE]\n\n"
    )
    made = OpenAiModel(other.url).generate("x", 7)
    assert made.output_tokens == 2
    assert made.prompt_tokens == 3


def test_a_line_without_end_is_not_kept(other: StandIn) -> None:
    def endless(handler: Handler) -> None:
        start_stream(handler)
        for _ in range(64):
            send_piece(handler, b"x" * (1 << 20))

    other.answers[COMPLETIONS] = endless
    assert "no end" in failure(other).message


def test_a_model_that_does_not_stop_is_left(other: StandIn) -> None:
    def chatty(handler: Handler) -> None:
        start_stream(handler)
        for _ in range(100_000):
            send_piece(handler, text_piece("more"))

    other.answers[COMPLETIONS] = chatty
    assert "does not stop" in failure(other).message


def test_a_list_of_models_without_end_is_not_read(other: StandIn) -> None:
    other.answers[MODELS] = say(b'{"data": [' + b"1," * (9 << 20) + b"1]}")
    assert "more than" in failure(other).message


def drip(handler: Handler, what: bytes) -> None:
    for _ in range(1000):
        handler.wfile.write(what)
        handler.wfile.flush()
        time.sleep(0.05)


def test_a_head_that_drips_does_not_hold_us(other: StandIn) -> None:
    def headers(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        drip(handler, b"x")

    other.answers[COMPLETIONS] = headers
    assert isinstance(failure(other, silence_s=0.4), EngineTimeout)


def test_heads_without_end_are_not_read(other: StandIn) -> None:
    def headers(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000)

    other.answers[COMPLETIONS] = headers
    assert isinstance(failure(other), EngineCrashed)


def test_signs_of_life_are_no_tokens(other: StandIn) -> None:
    def pings(handler: Handler) -> None:
        start_stream(handler)
        for _ in range(1000):
            send_piece(handler, b": ping\n\n")
            time.sleep(0.05)

    other.answers[COMPLETIONS] = pings
    assert "silent for 400 ms" in failure(other, silence_s=0.4).message


@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        {"data": {}},
        {"data": [1, None, {"id": 5}, {"id": ""}]},
        {"data": [{"id": "\x1b[2J" * 99}] * 2},
    ],
)
def test_a_strange_list_of_models_is_one_clear_line(other: StandIn, said: Any) -> None:
    other.answers[MODELS] = say(said)
    with pytest.raises(BadInput) as error:
        OpenAiModel(other.url)
    assert "\x1b" not in f"{error.value.message} {error.value.hint}"


def test_nobody_at_a_port_is_said_so() -> None:
    with StandIn() as gone:
        url = gone.url
    with pytest.raises(Unreachable, match="Connection refused") as error:
        OpenAiModel(url)
    assert "running" in (error.value.hint or "")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_signed_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    made = subprocess.run(
        [*make.split(), "-keyout", key, "-out", certificate], capture_output=True, check=False
    )
    assert made.returncode == 0
    seen: list[str] = []

    class Listening(Handler):
        def _answer(self) -> None:
            seen.append(self.path)

        do_GET = do_POST = _answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with pytest.raises(Unreachable, match="certificate is not trusted"):
            OpenAiModel(f"https://localhost:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert seen == []
