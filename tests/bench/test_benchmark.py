"""Benchmarks of real files and servers: estimated, measured, kept; in the same words and figures as a test-drive."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.tiny_models import tiny_llama
from weigh.bench.benchmark import Beside, benchmark, own_files
from weigh.bench.benchmark_url import benchmark_url
from weigh.bench.figures import UNITS
from weigh.bench.here import Here, gpus_left_alone, scratch_folder
from weigh.bench.measure import Asked
from weigh.bench.trial import Way, run_trial
from weigh.engines import served_model
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.errors import BadFile, BadInput, EngineMissing, NotSupported, OutOfMemory
from weigh.estimate.setup import weigh
from weigh.estimate.speed import Workload
from weigh.figure import Basis, Figure
from weigh.machine import Gpu
from weigh.model.gguf import read_gguf
from weigh.model.resolve import resolve
from weigh.model.spec import ModelSpec
from weigh.store import Store
from weigh.store.ledger import runs
from weigh.store.measurement import Measured, measurements
from weigh.store.run import Kind
from weigh.synth import write_gguf

SETTINGS = Settings(context_tokens=512, threads=1)
ASKED = Asked(prompts=(16, 32), output_tokens=8, depths=(0, 40), parallel=(1, 2), most_s=1e-6, starts=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "mine.gguf"
    write_gguf(tiny_llama(), path)
    return path


@pytest.fixture
def spec(file: Path) -> ModelSpec:
    return read_gguf(file)


@pytest.fixture(scope="module")
def url(file: Path) -> Iterator[str]:
    with EmbeddedLlamaCpp().start(file, replace(SETTINGS, parallel=2), Limits()) as session:
        yield f"http://127.0.0.1:{session._port}"


def row(rows: tuple[Beside, ...], name: str, **conditions: object) -> Beside:
    (found,) = [
        one
        for one in rows
        if one.measured.name == name
        and all(one.measured.conditions.get(key) == value for key, value in conditions.items())
    ]
    return found


def test_everything_is_measured_kept_and_stands_beside_its_estimate(
    calibrated: Here, store: Store, spec: ModelSpec
) -> None:
    found = benchmark(spec, calibrated, ASKED, SETTINGS)
    assert found.ended is None
    (kept,) = measurements(store)
    assert kept.id == found.measurement.id
    assert kept.measured == found.measurement.measured
    assert (kept.kind, kept.model, kept.fingerprint) == ("bench", spec.name, calibrated.machine.fingerprint)
    assert len(kept.raw["turns"]) == 2 * 2 * 3
    assert {one.name for one in kept.measured} <= set(UNITS)
    estimate = weigh(spec, calibrated, SETTINGS, Workload(16, 8))
    assert estimate.speed is not None
    decode = row(found.rows, "decode_tokens_per_s", depth_tokens=0, parallel=1, clock="engine")
    assert decode.estimated == estimate.speed.decode_tokens_per_s
    prefill = row(found.rows, "prefill_tokens_per_s", prompt_tokens=16, depth_tokens=0, clock="engine")
    assert prefill.estimated == estimate.speed.prefill_tokens_per_s
    assert row(found.rows, "peak_memory_bytes", parallel=1).estimated == estimate.peak_memory_bytes
    assert row(found.rows, "load_cached_s").estimated == estimate.speed.load_s
    gaps = row(found.rows, "tpot_s", depth_tokens=0, parallel=1).estimated
    assert gaps is not None
    assert gaps.value == pytest.approx(1 / estimate.speed.decode_tokens_per_s.value)
    assert gaps.low < gaps.value < gaps.high
    assert decode.ratio == pytest.approx(
        decode.measured.figure.value / estimate.speed.decode_tokens_per_s.value
    )


def test_a_gpu_that_is_left_alone_is_named_with_the_way_to_measure_it(
    calibrated: Here, store: Store, spec: ModelSpec
) -> None:
    card = Gpu("NVIDIA A2", "NVIDIA", 16 << 30, 15 << 30)
    machine = replace(calibrated.machine, gpus=(card,))
    found = benchmark(spec, replace(calibrated, machine=machine), ASKED, SETTINGS)
    assert "run on the processor, without NVIDIA A2, which llama.cpp has no code for here" in found.notes[0]
    assert "give its URL" in found.notes[0]
    for none in ((), (replace(card, problem="its driver is too old"),)):
        assert gpus_left_alone("llama.cpp", replace(machine, gpus=none)) == ()


def test_the_ledger_learns_of_each_workload_and_of_nothing_twice(
    calibrated: Here, store: Store, spec: ModelSpec
) -> None:
    found = benchmark(spec, calibrated, ASKED, SETTINGS)
    kept = {(run.prompt_tokens, run.depth_tokens, run.parallel): run for run in runs(store)}
    first = kept[(16, 0, 1)]
    assert first.kind is Kind.MEASURED
    decode = row(found.rows, "decode_tokens_per_s", depth_tokens=0, parallel=1, clock="engine")
    assert first.decode_tokens_per_s.measured == decode.measured.samples
    assert first.decode_tokens_per_s.estimated == decode.estimated
    assert first.load_s.measured
    assert first.peak_memory_bytes.measured
    assert kept[(32, 0, 1)].prefill_tokens_per_s.measured
    assert kept[(32, 0, 1)].decode_tokens_per_s.measured == ()
    every = [run.decode_tokens_per_s.measured for run in kept.values()]
    assert sum(bool(samples) for samples in every) == 4  # two depths, one and two sequences
    assert sum(bool(run.load_s.measured) for run in kept.values()) == 1


def test_it_agrees_with_a_test_drive_of_the_same_file_and_settings(calibrated: Here, spec: ModelSpec) -> None:
    """Of the same kind, beside the same estimates, in the same memory; how near speeds are is docs/bench.md's."""
    asked = Asked(prompts=(64,), output_tokens=32, most_s=1.0, starts=1)
    measured = benchmark(spec, calibrated, asked, SETTINGS)
    driven = run_trial(weigh(spec, calibrated, SETTINGS, Workload(64, 32)), calibrated, Way(None, 1.0))
    assert driven.kind is Kind.MEASURED
    for one in driven.compared:
        name = "load_cached_s" if one.name == "load_s" else one.name
        clock = {"clock": "engine"} if name.endswith("tokens_per_s") else {}
        found = row(measured.rows, name, **clock)
        assert found.estimated == one.estimated
        assert one.found is not None
        assert found.measured.figure.unit == one.found.unit
    peak = row(measured.rows, "peak_memory_bytes").measured.figure
    assert peak.value == pytest.approx(driven.peak_memory_bytes.value, rel=0.1)


def test_a_model_that_is_no_file_here_is_refused(calibrated: Here, spec: ModelSpec) -> None:
    with pytest.raises(BadInput, match="no GGUF file on this machine"):
        benchmark(resolve("llama-3.2-1b"), calibrated, ASKED, SETTINGS)
    with pytest.raises(BadInput, match="is a GGUF file, and this engine runs a safetensors checkpoint"):
        own_files(spec, "safetensors")
    with pytest.raises(EngineMissing):
        benchmark(spec, replace(calibrated, engine=None), ASKED, SETTINGS)
    with pytest.raises(NotSupported, match="embedding"):
        benchmark(replace(spec, architecture="bert"), calibrated, ASKED, SETTINGS)


def test_a_split_file_is_all_its_parts(tmp_path: Path, spec: ModelSpec) -> None:
    parts = [tmp_path / f"m[1]-0000{n}-of-00002.gguf" for n in (1, 2)]
    for part in (*parts, tmp_path / "m[1].gguf", tmp_path / "other-00001-of-00002.gguf"):
        part.touch()
    assert own_files(replace(spec, file=parts[0]), "gguf") == tuple(parts)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    (folder / "config.json").touch()
    found = own_files(replace(spec, file=folder, format="safetensors"), "safetensors")
    assert found == (folder / "model.safetensors",)


def test_what_was_measured_before_a_failure_is_kept(calibrated: Here, store: Store, spec: ModelSpec) -> None:
    """One sequence fits into the limit; the caches of 64 do not."""
    limits = Limits(memory_bytes=80 << 20)
    asked = replace(ASKED, parallel=(1, 64), depths=(0,))
    found = benchmark(spec, calibrated, asked, replace(SETTINGS, context_tokens=4096), limits=limits)
    assert isinstance(found.ended, OutOfMemory)
    (kept,) = measurements(store)
    assert kept.problems[-1].startswith("ended early: llama.cpp needs more memory")
    assert {run.parallel for run in runs(store)} == {1}
    assert list(scratch_folder().iterdir()) == []


def test_a_file_that_went_away_is_said(
    calibrated: Here, store: Store, spec: ModelSpec, tmp_path: Path
) -> None:
    with pytest.raises(BadFile):
        benchmark(replace(spec, file=tmp_path / "none.gguf"), calibrated, replace(ASKED, starts=0), SETTINGS)
    assert measurements(store) == []


def test_ratio_and_inside_by_hand() -> None:
    one = Measured("decode_tokens_per_s", "tokens/s", (8.0, 10.0, 12.0))
    beside = Beside(one, Figure(8.0, 7.0, 9.0, "tokens/s", Basis.CALIBRATED))
    assert beside.ratio == 1.25
    assert not beside.inside
    assert replace(beside, estimated=Figure(9.0, 8.0, 11.0, "tokens/s", Basis.CALIBRATED)).inside
    assert Beside(one, None).ratio is None
    assert not Beside(one, None).inside


# --- servers -----------------------------------------------------------------------------------------


def test_a_server_is_measured_from_outside_and_by_its_own_clock(
    store: Store, url: str, spec: ModelSpec
) -> None:
    with served_model(url) as served:
        found = benchmark_url(served, replace(ASKED, most_s=0.5))
    (kept,) = measurements(store)
    assert kept.id == found.measurement.id
    assert kept.engine == "openai"
    assert urlsplit(kept.command[1]).port == urlsplit(url).port
    names = {one.name for one in kept.measured}
    assert {"ttft_s", "itl_s", "tpot_s", "peak_memory_bytes", "decode_tokens_per_s"} <= names
    assert not {"load_cold_s", "load_cached_s"} & names  # it was there before
    clocks = {one.conditions.get("clock") for one in kept.measured if one.name == "decode_tokens_per_s"}
    assert clocks == {"engine", "client"}
    peak = row(found.rows, "peak_memory_bytes", parallel=1).measured.figure.value
    assert 5 << 20 < peak < 1 << 30
    prompts = [
        turn["requests"][0]["prompt_tokens"] for turn in kept.raw["turns"] if turn["prompt_tokens"] == 32
    ]
    assert statistics.median(prompts) == 32
    assert runs(store) == []  # nothing was estimated, so that nothing is learned
    assert all(one.estimated is None for one in found.rows)


def test_what_a_server_refuses_keeps_what_it_did_before(store: Store, url: str) -> None:
    """Its context holds 512 tokens."""
    with served_model(url) as served:
        found = benchmark_url(served, replace(ASKED, most_s=0.5, parallel=(1,), depths=(0, 600)))
    assert isinstance(found.ended, BadInput)
    (kept,) = measurements(store)
    assert {one.conditions.get("depth_tokens", 0) for one in kept.measured} == {0}
    assert kept.problems[-1].startswith("ended early")
