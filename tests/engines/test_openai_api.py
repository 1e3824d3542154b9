"""The adapter against a real llama.cpp server and a real vLLM."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engines.conftest import SETTINGS
from tests.engines.openai_stand_in import COMPLETIONS
from tests.engines.test_vllm import folder_with
from tests.engines.test_vllm import installed as vllm_installed
from weigh.engines import served_model
from weigh.engines.endpoint import Endpoint, Refused
from weigh.engines.engine import Limits, Session, Settings
from weigh.engines.http_session import HttpSession
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.engines.openai_api import OpenAiModel
from weigh.engines.openai_events import DONE, EventLines, parse_event
from weigh.engines.token_arrivals import Counted, TokenArrivals
from weigh.engines.vllm import Vllm
from weigh.errors import BadInput, EngineCrashed, EngineTimeout, UnknownName


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
