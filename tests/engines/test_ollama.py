"""The adapter against a stand-in that replays the messages Ollama publishes; no real server was at hand.

Source: docs/api.md of github.com/ollama/ollama at 01e52d24, the sections "Generate a completion", "Load a model",
"Unload a model", "List Local Models", "Show Model Information" and "List Running Models". Fields it leaves out
("...") are left out here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engines.stand_in import Handler, StandIn, in_turn, say, stream
from weigh.engines import served_model
from weigh.engines.engine import Limits, Settings
from weigh.engines.ollama import Loaded, OllamaModel, is_ollama, server_url
from weigh.engines.openai_api import OpenAiModel
from weigh.engines.token_arrivals import Counted
from weigh.errors import BadInput, EngineCrashed, EngineTimeout, UnknownName

PIECE = '{"model": "llama3.2", "created_at": "2023-08-04T08:52:19.385406455-07:00", "response": "The", "done": false}'
LAST = """{"model": "llama3.2", "created_at": "2023-08-04T19:22:45.499127Z", "response": "", "done": true,
"context": [1, 2, 3], "total_duration": 10706818083, "load_duration": 6338219291, "prompt_eval_count": 26,
"prompt_eval_duration": 130079000, "eval_count": 259, "eval_duration": 4232710000}""".replace("\n", "")
LOADED = {"model": "llama3.2", "created_at": "2023-12-18T19:52:07.071755Z", "response": "", "done": True}
UNLOADED = LOADED | {"created_at": "2024-09-12T03:54:03.516566Z", "done_reason": "unload"}
TAGS = {
    "models": [
        {
            "name": "codellama:13b",
            "modified_at": "2023-11-04T14:56:49.277302595-07:00",
            "size": 7365960935,
            "digest": "9f438cb9cd581fc025612d27f7c1a6669ff83a8bb0ed86c94fcf4c5440555697",
            "details": {"format": "gguf", "family": "llama", "families": None, "parameter_size": "13B"},
        },
        {
            "name": "llama3:latest",
            "modified_at": "2023-12-07T09:32:18.757212583-08:00",
            "size": 3825819519,
            "digest": "fe938a131f40e6f6d40083c9f0f430a515233eb2edaa6d72eb85c50d64f2300e",
            "details": {"format": "gguf", "family": "llama", "families": None, "parameter_size": "7B"},
        },
    ]
}
SHOW = {
    "parameters": 'num_keep                       24\nstop                           "<|start_header_id|>"',
    "details": {
        "parent_model": "",
        "family": "llama",
        "parameter_size": "8.0B",
        "quantization_level": "Q4_0",
    },
    "model_info": {"general.architecture": "llama", "llama.block_count": 32, "llama.context_length": 8192},
}
RUNNING = {
    "models": [
        {
            "name": "llama3:latest",
            "model": "llama3:latest",
            "size": 5137025024,
            "expires_at": "2024-06-04T14:38:31.83753-07:00",
            "size_vram": 5137025024,
        }
    ]
}
NONE = {"models": []}


def lines(*messages: str) -> bytes:
    return "".join(f"{message}\n" for message in messages).encode()


def answer(*pieces: bytes) -> Any:
    """To prompts with pieces, to the rest as to a load or an unload."""

    def write(handler: Handler) -> None:
        if handler.asked.get("prompt"):
            return stream(*pieces, kind="application/x-ndjson")(handler)
        return say(UNLOADED if handler.asked.get("keep_alive") == 0 else LOADED)(handler)

    return write


@pytest.fixture
def ollama() -> Iterator[StandIn]:
    answers = {
        "/api/version": say({"version": "0.5.1"}),
        "/api/tags": say(TAGS),
        "/api/show": say(SHOW),
        "/api/ps": in_turn(say(RUNNING), say(NONE), say(RUNNING)),
        "/api/generate": answer(lines(PIECE), lines(PIECE, PIECE), lines(LAST)),
    }
    with StandIn(answers) as server:
        yield server


def test_it_is_told_from_other_servers_by_its_answers(ollama: StandIn) -> None:
    found = served_model(ollama.url, model="llama3")
    assert isinstance(found, OllamaModel)
    assert (found.engine, found.version, found.model) == ("ollama", "ollama 0.5.1", "llama3:latest")
    models = {
        "/v1/models": say({"data": [{"id": "one"}]}),
        "/api/version": say({"error": "no such endpoint"}),
    }
    with StandIn(models) as other:
        assert isinstance(served_model(other.url), OpenAiModel)
        assert not is_ollama(other.url)


def test_a_model_is_unloaded_so_that_its_loading_takes_place(ollama: StandIn) -> None:
    settings = Settings(context_tokens=1024, threads=8)
    found = OllamaModel(ollama.url, model="llama3:latest", settings=settings)
    unload, load = ollama.bodies("/api/generate")
    assert (unload["model"], unload["keep_alive"]) == ("llama3:latest", 0)
    assert load["options"] == {"num_ctx": 1024, "num_thread": 8}
    assert "prompt" not in load
    asked = [one.path for one in ollama.received]
    # it looks until the model is gone
    assert asked[asked.index("/api/generate") :] == ["/api/generate", "/api/ps", "/api/ps", "/api/generate"]
    assert found.load_s is not None
    assert found.load_s > 0


def test_the_time_of_loading_is_ollamas_own_where_it_says_so(ollama: StandIn) -> None:
    ollama.answers["/api/generate"] = say(LOADED | {"load_duration": 6338219291})
    assert OllamaModel(ollama.url, model="llama3").load_s == pytest.approx(6.338219291)


def test_a_model_that_others_keep_in_memory_is_said_so(ollama: StandIn) -> None:
    ollama.answers["/api/ps"] = say(RUNNING)
    with pytest.raises(EngineTimeout, match="somebody else"):
        OllamaModel(ollama.url, model="llama3", limits=Limits(start_s=0.2))


def test_its_clock_and_its_counts_are_taken(ollama: StandIn) -> None:
    found = OllamaModel(ollama.url, model="llama3", load=False)
    made = found.generate("Why is the sky blue?", 300)
    assert (made.text, made.finish) == ("TheTheThe", "stop")
    assert (made.prompt_tokens, made.output_tokens) == (26, 259)
    assert (made.prefill_s, made.decode_s, made.load_s) == (0.130079, 4.23271, pytest.approx(6.338219291))
    assert made.own_clock
    assert (made.counted, sum(made.piece_tokens), len(made.piece_tokens)) == (Counted.SHARED, 259, 3)
    # its decode clock starts when the first token is there: runner/ollamarunner/runner.go, startGenerationTime
    assert made.decode_tokens_per_s == pytest.approx(258 / 4.23271)
    asked = ollama.bodies("/api/generate")[-1]
    assert (asked["raw"], asked["stream"], asked["prompt"]) == (True, True, "Why is the sky blue?")
    assert asked["options"]["num_predict"] == 300


def test_prompts_come_out_better_once_it_has_counted_one(ollama: StandIn) -> None:
    found = OllamaModel(ollama.url, model="llama3", load=False)
    first = found.prompt(260, seed=1)
    assert len(first.split()) == 260
    found.generate(" ".join(["word"] * 13), 5)  # 26 tokens, as it says
    assert len(found.prompt(260, seed=1).split()) == 130
    with pytest.raises(BadInput, match="no token ids"):
        found.generate([1, 2], 1)


def test_what_it_says_of_a_model_and_of_its_memory(ollama: StandIn) -> None:
    found = OllamaModel(ollama.url, model="llama3", load=False)
    details = found.details()
    assert (details.family, details.parameters, details.quantization) == ("llama", "8.0B", "Q4_0")
    assert (details.context_tokens, details.file_bytes) == (8192, 3825819519)
    assert found.loaded() == Loaded(5137025024, 5137025024)
    assert found.loaded() is None


def test_a_model_that_is_not_there_is_named(ollama: StandIn) -> None:
    with pytest.raises(UnknownName, match="mistral"):
        OllamaModel(ollama.url, model="mistral")
    with pytest.raises(BadInput, match="2 models") as error:
        OllamaModel(ollama.url)
    assert "codellama:13b" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([lines(PIECE), lines(PIECE)], "broke off after 2 pieces"),
        ([lines(LAST)], "wrote no token"),
        ([lines(PIECE), b"{broken\n"], "not JSON"),
        ([lines('{"error": "model runner has unexpectedly stopped"}')], "unexpectedly stopped"),
        ([lines(PIECE)] * 3000, "does not stop"),
        ([b"x" * (1 << 20)] * 20, "without end"),
    ],
)
def test_a_server_that_fails_is_one_clear_line(ollama: StandIn, pieces: list[bytes], said: str) -> None:
    ollama.answers["/api/generate"] = answer(*pieces)
    found = OllamaModel(ollama.url, model="llama3", load=False)
    with pytest.raises(EngineCrashed, match=said) as error:
        found.generate("Why?", 5)
    assert "\n" not in error.value.message


def test_durations_that_cannot_be_leave_the_arrivals(ollama: StandIn) -> None:
    strange = json.loads(LAST) | {"prompt_eval_duration": -5, "eval_duration": "long", "eval_count": 3}
    ollama.answers["/api/generate"] = answer(lines(PIECE), lines(PIECE, PIECE), lines(json.dumps(strange)))
    made = OllamaModel(ollama.url, model="llama3", load=False).generate("Why?", 5)
    assert not made.own_clock
    assert made.prefill_s == made.token_times_s[0]


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box:1234", "http://box:1234"),
        ("http://box", "http://box:80"),
        ("https://box/way/", "https://box:443/way"),
        ("[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_the_variable_says_where_it_is(monkeypatch: pytest.MonkeyPatch, said: str, url: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", said)
    assert server_url() == url


@pytest.mark.parametrize("said", ["[::1", "box:port", "http://box:99999"])
def test_a_variable_that_says_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", said)
    with pytest.raises(BadInput, match="OLLAMA_HOST is no address"):
        server_url()
