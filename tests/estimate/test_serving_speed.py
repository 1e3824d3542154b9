"""Speed of serving engines: sums worked by hand, and published runs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from weigh.estimate.device_rates import Rates
from weigh.estimate.device_terms import Peaks
from weigh.estimate.device_work import Part
from weigh.estimate.serving_speed import (
    LAUNCH_S,
    SEQUENCE_S,
    Server,
    serving_rates,
    serving_speed,
    step_terms,
)
from weigh.estimate.speed import Workload
from weigh.figure import Basis
from weigh.machine.devices import target_named
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize

SPEC = quantize(catalog().by_id["meta-llama/Meta-Llama-3-8B"].spec(), "BF16")
RUNS = Path(__file__).parents[2] / "benchmarks" / "data" / "serving_runs.csv"
SERVER = Server("vLLM", "NVIDIA", "Hopper", "", 1)


def at(parallel: int, on: str = "H100 SXM", cards: int = 1, room: float = 1e9) -> tuple[float, float, int]:
    workload = Workload(prompt_tokens=1024, output_tokens=1024, parallel=parallel)
    found = serving_speed(SPEC, "vLLM", target_named(on).gpus[0], cards, workload, room_tokens=room)
    assert found is not None
    return found.decode_tokens_per_s.value, found.total_tokens_per_s.value, found.at_once


def test_a_step_reads_weights_once_and_multiplies_them_for_every_sequence() -> None:
    part = Part(((GgmlType.F16, 1_000_000),), (), None, 0.0, 2, 0, ())
    terms = step_terms(part, SERVER, Peaks(2e6, 1e6, 1e6), 64, cached_tokens=0, sequences=3)
    expected = 1.0 + 2 * 1_000_000 * 3 / 1e6 + 3 * SEQUENCE_S + 2 * LAUNCH_S
    assert Rates({}, {}, {}).seconds(terms) == pytest.approx(expected)


def test_company_slows_each_and_speeds_up_all() -> None:
    one, eight, many = at(1), at(8), at(64)
    assert one[0] > eight[0] > many[0]
    assert one[1] < eight[1] < many[1]


def test_requests_without_room_wait() -> None:
    assert at(64, room=8 * 2048)[2] == 8
    assert at(64, room=8 * 2048)[1] == pytest.approx(at(8)[1])


def test_two_cards_are_faster_than_one_but_not_twice() -> None:
    one, two = at(16)[0], at(16, cards=2)[0]
    assert one < two < 2 * one


def test_basis_says_whether_anyone_measured_the_device() -> None:
    def basis(on: str) -> Basis:
        found = serving_speed(SPEC, "vLLM", target_named(on).gpus[0], 1, Workload(), room_tokens=1e6)
        assert found is not None
        return found.decode_tokens_per_s.basis

    assert basis("H100 SXM") is Basis.PUBLISHED
    assert basis("RTX 4090") is Basis.SPEC_SHEET


def test_nothing_is_said_of_processors() -> None:
    assert serving_speed(SPEC, "vLLM", target_named("EPYC 9554").host, 1, Workload(), room_tokens=1e6) is None


def test_every_published_run_names_what_the_tables_know() -> None:
    with RUNS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1000
    assert {row["device"] for row in rows} == set(serving_rates().devices)
    assert all(float(row["seconds"]) > 0 for row in rows)
