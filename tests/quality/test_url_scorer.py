"""Servers as scorers: a stand-in that echoes log-probabilities as vLLM does, and ones that do not."""

from __future__ import annotations

import http.server
import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from weigh.errors import EngineCrashed, NotSupported
from weigh.quality.text import Text, score_text
from weigh.quality.url_scorer import UrlScorer

BOS = 256


class StandIn:
    """A model of bytes: an `e` has the probability 1/2 and is the likeliest, others share the rest."""

    def __init__(self) -> None:
        self.bos: int | None = BOS
        self.echoes, self.tokenizes = True, True
        self.broken: float | None = None
        self.tops: Any = None
        self.asked: list[dict[str, Any]] = []

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize" and self.tokenizes:
            added = [self.bos] if self.bos is not None and body["add_special_tokens"] else []
            return {"tokens": [*added, *body["prompt"].encode()]}
        if path == "/v1/completions" and len(body["prompt"]) + body["max_tokens"] <= 64:
            self.asked.append(body)
            tokens = [*(body["prompt"] if self.echoes else []), 0]
            return {"choices": [{"text": "", "logprobs": self._logprobs(tokens)}]}
        return None

    def _logprobs(self, tokens: list[int]) -> dict[str, Any]:
        judged = [math.log(0.5 if token == ord("e") else 0.5 / 255) for token in tokens]
        if self.broken is not None:
            judged[-2:] = [self.broken] * 2
        tops = [{"e": math.log(0.5), "?": judged[n]} for n in range(len(tokens))]
        if self.echoes:
            tops = [None, *tops[1:]] if self.tops is None else self.tops
            return {"token_logprobs": [None, *judged[1:]], "top_logprobs": tops}
        return {"token_logprobs": judged, "top_logprobs": tops}


@pytest.fixture
def server() -> Iterator[tuple[str, StandIn]]:
    model = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 64}]}
            self.say(listed if self.path == "/v1/models" else None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.say(model.answer(self.path, body))

        def say(self, answer: Any) -> None:
            data = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", model
        running.shutdown()


def test_every_byte_of_a_text_is_scored_within_the_servers_context(server: tuple[str, StandIn]) -> None:
    url, model = server
    with UrlScorer(url) as scorer:
        assert (scorer.model, scorer.start, scorer.adds_bos, scorer.context_tokens) == ("m", BOS, True, 62)
        found = score_text(scorer, Text("t", 0, "eels " * 40))
    assert found.tokens == found.text_bytes == 200
    assert found.top_tokens == 80
    assert found.bits == pytest.approx(80 + 120 * (1 + math.log2(255)))
    assert len(found.pieces) == 1  # where tokens end it does not say
    assert max(len(one["prompt"]) for one in model.asked) == 63  # and one is written
    assert all(one["prompt"][0] == BOS for one in model.asked)


def test_a_model_without_bos_begins_after_a_line_break(server: tuple[str, StandIn]) -> None:
    url, model = server
    model.bos = None
    with UrlScorer(url) as scorer:
        assert (scorer.start, scorer.adds_bos) == (ord("\n"), False)
        assert score_text(scorer, Text("t", 0, "ee")).bits == pytest.approx(2)


def test_a_server_without_log_probabilities_of_prompts_is_refused(server: tuple[str, StandIn]) -> None:
    url, model = server
    model.echoes = False
    with pytest.raises(NotSupported, match="gives no log-probabilities of a prompt's tokens") as error:
        UrlScorer(url)
    assert "vLLM" in str(error.value.hint)


def test_a_server_without_a_tokenizer_is_refused(server: tuple[str, StandIn]) -> None:
    url, model = server
    model.tokenizes = False
    with pytest.raises(NotSupported, match="does not say how it cuts text into tokens"):
        UrlScorer(url)


def test_log_probabilities_that_are_none_are_not_believed(server: tuple[str, StandIn]) -> None:
    url, model = server
    with UrlScorer(url) as scorer:
        for broken in (0.5, math.nan, -math.inf):
            model.broken = broken
            with pytest.raises(EngineCrashed, match="log-probabilities that are none"):
                scorer.score([1, 2, 3], 1)


@pytest.mark.parametrize("tops", [{}, "tops", [None, {"e": "high"}], [None, [0.5]], 7])
def test_likeliest_tokens_that_are_none_are_not_counted(server: tuple[str, StandIn], tops: Any) -> None:
    url, model = server
    with UrlScorer(url) as scorer:
        model.tops = tops
        assert not scorer.score([1, ord("e"), ord("e")], 1).top.any()
