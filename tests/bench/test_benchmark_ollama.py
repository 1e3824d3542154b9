"""A benchmark of a stand-in that speaks Ollama's published protocol (see tests/engines/test_ollama.py)."""

from __future__ import annotations

import pytest

from tests.engines.stand_in import StandIn, in_turn, say, stream
from tests.engines.test_ollama import LAST, LOADED, NONE, PIECE, RUNNING, TAGS, UNLOADED, lines
from weigh.bench.benchmark_url import benchmark_url
from weigh.bench.measure import Asked
from weigh.engines.ollama import OllamaModel
from weigh.store import Store


def test_loading_and_ollamas_own_clock_are_in_the_benchmark(store: Store) -> None:
    answer = stream(lines(PIECE), lines(PIECE), lines(LAST), kind="application/x-ndjson")
    answers = {
        "/api/version": say({"version": "0.5.1"}),
        "/api/tags": say(TAGS),
        "/api/ps": in_turn(say(NONE), say(RUNNING)),
        "/api/generate": in_turn(say(UNLOADED), say(LOADED | {"load_duration": 6338219291}), answer),
    }
    with StandIn(answers) as server:
        served = OllamaModel(server.url, model="llama3")
        asked = Asked(prompts=(26,), output_tokens=259, precision=0.9, most_s=5.0)
        found = benchmark_url(served, asked)
    by = {(one.name, one.conditions.get("clock")): one for one in found.measurement.measured}
    assert by["load_s", None].samples == pytest.approx((6.338219291,))
    # its decode clock starts at the first token: 258 steps
    assert by["decode_tokens_per_s", "engine"].figure.value == pytest.approx(258 / 4.23271, rel=1e-3)
    assert by["prefill_tokens_per_s", "engine"].figure.value == pytest.approx(26 / 0.130079, rel=1e-3)
    assert found.measurement.engine_version == "ollama 0.5.1"
