"""Test-drives on the real engine, with models small enough to run in seconds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_models import tiny_llama
from weigh.bench import probes
from weigh.bench.here import Here, scratch_folder
from weigh.bench.trial import Way, choose_way, run_trial
from weigh.bench.turns import prompt_ids, relative_spread
from weigh.engines.engine import Settings
from weigh.errors import EngineCrashed, EngineMissing, NotSupported
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.speed import Workload
from weigh.figure import Basis, Figure
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.quantization import quantize
from weigh.model.resolve import resolve
from weigh.store import Store
from weigh.store.ledger import runs
from weigh.store.run import Kind
from weigh.synth import shortened, write_gguf

SMALL = probes.dense(
    "small", GgmlType.Q8_0, layers=12, hidden=256, feed_forward=512, heads=4, kv_heads=2, head_dim=64
)
SETTINGS, WORKLOAD = Settings(context_tokens=512), Workload(prompt_tokens=32, output_tokens=8)
WHOLE = Way(None, 1.0)


def setup(here: Here, workload: Workload = WORKLOAD, settings: Settings = SETTINGS) -> SetupEstimate:
    return weigh(SMALL, here, settings, workload)


def sound(figure: Figure | None) -> bool:
    return figure is not None and 0 < figure.low <= figure.value <= figure.high < math.inf


def test_a_whole_run_measures_keeps_and_cleans_up(calibrated: Here, store: Store) -> None:
    found = setup(calibrated)
    way = choose_way(found, calibrated)
    assert way.plan is None
    assert 0 < way.seconds < 30
    trial = run_trial(found, calibrated, way, repetitions=3)
    assert (trial.kind, trial.shorts) == (Kind.TEST_DRIVEN, ())
    assert all(sound(one.found) and one.found.basis is Basis.TEST_DRIVEN for one in trial.compared)  # type: ignore[union-attr]
    assert 10 << 20 < trial.peak_memory_bytes.value == trial.took_bytes < 2 << 30
    assert list(scratch_folder().iterdir()) == []
    (kept,) = runs(store)
    assert (kept.model, kept.kind) == ("small", Kind.TEST_DRIVEN)
    assert len(kept.decode_tokens_per_s.measured) == len(kept.prefill_tokens_per_s.measured) == 3
    assert found.speed is not None
    assert kept.decode_tokens_per_s.estimated == found.speed.decode_tokens_per_s


def test_short_models_tell_of_the_whole(calibrated: Here, store: Store) -> None:
    found = setup(calibrated)
    way = choose_way(found, calibrated, full=False)
    assert way.plan is not None
    assert all(spec.layers < SMALL.layers for spec in way.plan.shorts)
    trial = run_trial(found, calibrated, way)
    assert trial.kind is Kind.TRUNCATED
    assert trial.shorts == tuple(spec.layers for spec in way.plan.shorts)
    assert all(sound(one.found) and one.found.basis is Basis.TEST_DRIVEN for one in trial.compared)  # type: ignore[union-attr]
    assert list(scratch_folder().iterdir()) == []
    (kept,) = runs(store)
    assert (kept.kind, len(kept.decode_tokens_per_s.measured)) == (Kind.TRUNCATED, 1)


@pytest.mark.parametrize("workload", [replace(WORKLOAD, depth_tokens=100), replace(WORKLOAD, parallel=3)])
def test_depth_and_several_sequences_are_run(calibrated: Here, workload: Workload) -> None:
    settings = replace(SETTINGS, parallel=workload.parallel, kv_type_k=GgmlType.Q8_0, threads=1)
    found = setup(calibrated, workload, settings)
    for full in (True, False):
        trial = run_trial(found, calibrated, choose_way(found, calibrated, full=full))
        assert sound(trial.decode_tokens_per_s)
        assert sound(trial.prefill_tokens_per_s)


def test_what_does_not_fit_is_told_from_short_models(calibrated: Here) -> None:
    whole = quantize(catalog().by_id["meta-llama/Llama-3.1-405B-Instruct"].spec(), "Q4_0")
    way = choose_way(weigh(whole, calibrated, SETTINGS, WORKLOAD), calibrated)
    assert way.plan is not None
    assert way.why == "it does not fit"
    assert way.plan.memory_bytes < 3 << 30


def test_the_whole_is_run_where_the_engine_refuses_fewer_layers(calibrated: Here) -> None:
    """llama.cpp knows DeepSeek-V2-Lite by its 27 layers."""
    lite = catalog().by_id["deepseek-ai/DeepSeek-V2-Lite"].spec()
    small = quantize(shortened(lite, 27, vocab=2048, experts=12), "IQ1_S")
    found = weigh(small, calibrated, SETTINGS, WORKLOAD)
    way = replace(choose_way(found, calibrated, full=False), why="the whole would take long")
    trial = run_trial(found, calibrated, way, repetitions=1)
    assert trial.kind is Kind.TEST_DRIVEN
    assert "refuses" in trial.why
    with pytest.raises(EngineCrashed):
        run_trial(found, calibrated, replace(way, why=""))


def test_a_file_of_the_users_own_is_run_as_it_is_and_stays(calibrated: Here, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    write_gguf(SMALL, path)
    found = weigh(read_gguf(path), calibrated, SETTINGS, WORKLOAD)
    trial = run_trial(found, calibrated)
    assert trial.kind is Kind.MEASURED
    assert trial.decode_tokens_per_s is not None
    assert trial.decode_tokens_per_s.basis is Basis.MEASURED
    short = run_trial(found, calibrated, choose_way(found, calibrated, full=False))
    assert short.kind is Kind.TRUNCATED
    assert path.exists()


def test_a_checkpoint_is_told_from_short_ones_on_transformers(calibrated: Here, store: Store) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from weigh.estimate.serving import serve

    there = calibrated.under("transformers")
    spec = resolve("smollm2-135m", checkpoint=True)
    found = serve("transformers", spec, there, SETTINGS, WORKLOAD)
    trial = run_trial(found, there, choose_way(found, there, full=False))
    assert trial.engine == "transformers"
    assert trial.load_s is None
    assert sound(trial.decode_tokens_per_s)
    assert sound(trial.prefill_tokens_per_s)
    (kept,) = runs(store)
    assert (kept.engine, kept.decode_tokens_per_s.estimated) == ("transformers", None)


def test_without_an_engine_the_error_says_how_to_get_one(calibrated: Here) -> None:
    with pytest.raises(EngineMissing, match="no engine is installed"):
        choose_way(setup(calibrated), replace(calibrated, engine=None))


def test_what_cannot_be_shortened_is_said(calibrated: Here) -> None:
    one_layer = tiny_llama()
    one_layer = shortened(one_layer, 1)
    found = weigh(one_layer, calibrated, SETTINGS, WORKLOAD)
    with pytest.raises(NotSupported, match="cannot be shortened"):
        choose_way(found, calibrated, full=False)


def test_prompts_stay_inside_the_vocabulary_and_differ_by_seed() -> None:
    for vocab in (300, 2048, 128_256):
        ids = prompt_ids(vocab, 500, seed=1)
        assert len(ids) == 500
        assert all(0 <= token < vocab - 8 for token in ids)
        assert ids != prompt_ids(vocab, 500, seed=2)


def test_spread_is_the_half_width_that_holds_four_in_five() -> None:
    assert relative_spread([1.0] * 20) == 0
    assert relative_spread([0.9, 1.0, 1.1] * 10) == pytest.approx(0.1, abs=0.01)
