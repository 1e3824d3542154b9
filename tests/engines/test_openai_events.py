"""What servers stream: recorded chunks of llama.cpp, vLLM, OpenAI and Ollama, cut anywhere."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weigh.engines.openai_events import DONE, EventLines, Usage, parse_event, refusal

# llama.cpp's server through xllamacpp 2026.10.11549, `timings_per_token`, shortened where it does not matter
LLAMA_CPP = (
    b'{"choices":[{"text":"<t46>","index":0,"logprobs":null,"finish_reason":null}],"model":"tiny","object":'
    b'"text_completion","id":"chatcmpl-x","timings":{"cache_n":0,"prompt_n":4,"prompt_ms":68.0,"predicted_n":3,'
    b'"predicted_ms":28.377}}'
)
CHAT_ROLE = b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}'
# in the layout of vLLM's chunks with `continuous_usage_stats`
VLLM = (
    b'{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" a b c",'
    b'"logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":{"prompt_tokens":7,'
    b'"total_tokens":10,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}'
)
FINAL_USAGE = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9,"total_tokens":14}}'
STREAM = b"data: " + LLAMA_CPP + b"\r\n\r\n: ping\n\ndata:" + VLLM + b"\n\nevent: x\ndata: [DONE]\n\n"


def test_llama_cpp_counts_in_its_timings() -> None:
    event = parse_event(LLAMA_CPP)
    assert (event.text, event.tokens_so_far, event.usage, event.finish) == ("<t46>", 3, None, None)


def test_a_prefill_that_took_no_time_is_no_clock() -> None:
    assert parse_event(LLAMA_CPP).timings is not None
    assert parse_event(LLAMA_CPP.replace(b'"prompt_ms":68.0', b'"prompt_ms":0')).timings is None


def test_vllm_counts_in_its_usage() -> None:
    event = parse_event(VLLM)
    assert event.usage == Usage(prompt_tokens=7, output_tokens=3, cached_tokens=4)
    assert (event.text, event.tokens_so_far, event.finish) == (" a b c", 3, "length")


def test_the_final_usage_comes_without_choices() -> None:
    event = parse_event(FINAL_USAGE)
    assert (event.text, event.usage) == ("", Usage(5, 9))


def test_a_role_alone_is_no_text() -> None:
    assert parse_event(CHAT_ROLE).text == ""


@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning"])
def test_reasoning_is_text_too(name: str) -> None:
    chunk = {"choices": [{"index": 0, "delta": {name: "hm"}}]}
    assert parse_event(json.dumps(chunk).encode()).text == "hm"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": {"code": 400, "message": "too long", "type": "x"}}, "too long"),
        ({"object": "error", "message": "no such model", "code": 404}, "no such model"),
        ({"error": "model 'x' not found"}, "model 'x' not found"),
        ({"code": 500, "message": "context full"}, "context full"),
        ({"detail": "Not Found"}, "Not Found"),
    ],
)
def test_errors_are_said_in_many_ways(answer: dict[str, object], said: str) -> None:
    data = json.dumps(answer).encode()
    assert parse_event(data).error == said
    assert refusal(data) == said


def test_a_page_is_quoted_in_one_short_line() -> None:
    said = refusal(b"<html>\n  bad\ngateway " + b"x" * 9000)
    assert said.startswith("<html> bad gateway")
    assert len(said) <= 300


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=12))
def test_events_are_the_same_wherever_the_pieces_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    lines = EventLines()
    found = [data for start, end in pairwise(edges) for data in lines.feed(STREAM[start:end])]
    assert found == [LLAMA_CPP, VLLM, DONE]


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_chunk_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's, UTF-8's or ours
        parse_event(data)


def test_an_endless_line_ends_in_an_error() -> None:
    with pytest.raises(ValueError, match="no end"):
        EventLines().feed(b"data: " + b"x" * (17 << 20))
