"""Keys go nowhere else, and servers that fail or mean harm end in one clear line."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.engines.openai_stand_in import CHAT, COMPLETIONS, MODELS, listing, text_piece, used
from tests.engines.stand_in import Handler, StandIn, event, in_turn, say, send_piece, start_stream, stream
from weigh.engines.endpoint import Endpoint, Refused, checked_url, key_for
from weigh.engines.engine import Limits
from weigh.engines.openai_api import OpenAiModel
from weigh.errors import BadInput, EngineCrashed, EngineTimeout, Unreachable, WeighError

SECRET = "sk-something-nobody-may-see"


@pytest.fixture
def other() -> Iterator[StandIn]:
    with StandIn({MODELS: listing("gpt-4o")}) as server:
        yield server


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
