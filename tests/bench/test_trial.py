"""A test-drive on the real engine, with a model small enough to run in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from weigh.bench import probes
from weigh.bench.drive import prompt_ids, relative_spread
from weigh.bench.here import Here, scratch_folder
from weigh.bench.trial import expected_seconds, run_trial
from weigh.engines.engine import Settings
from weigh.errors import EngineMissing
from weigh.estimate.setup import weigh
from weigh.estimate.speed import Workload
from weigh.figure import Basis
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.store import Store
from weigh.store.ledger import runs
from weigh.store.run import Kind
from weigh.synth import write_gguf

SMALL = probes.dense(
    "small", GgmlType.Q8_0, layers=2, hidden=256, feed_forward=512, heads=4, kv_heads=2, head_dim=64
)
SETTINGS, WORKLOAD = Settings(context_tokens=512), Workload(prompt_tokens=32, output_tokens=8)


def test_a_trial_measures_keeps_and_cleans_up(calibrated: Here, store: Store) -> None:
    found = weigh(SMALL, calibrated, SETTINGS, WORKLOAD)
    seconds = expected_seconds(found, 2)
    assert seconds is not None
    assert seconds > 0
    trial = run_trial(found, calibrated, repetitions=2)
    assert trial.basis is Basis.TEST_DRIVEN
    assert [g.prompt_tokens for g in trial.drive.prefills] == [32, 32]
    assert [g.output_tokens for g in trial.drive.decodes] == [8, 8]
    assert trial.decode_tokens_per_s.low <= trial.decode_tokens_per_s.value <= trial.decode_tokens_per_s.high
    assert len(trial.drive.step_times_s) == 2 * 7
    assert 10 << 20 < trial.peak_memory_bytes.value < 2 << 30
    assert list(scratch_folder().iterdir()) == []
    (kept,) = runs(store)
    assert (kept.model, kept.kind) == ("small", Kind.TEST_DRIVEN)
    assert len(kept.decode_tokens_per_s.measured) == 2
    assert found.speed is not None
    assert kept.decode_tokens_per_s.estimated == found.speed.decode_tokens_per_s


def test_a_trial_at_depth_prefills_only_what_is_new(calibrated: Here) -> None:
    found = weigh(SMALL, calibrated, SETTINGS, replace(WORKLOAD, depth_tokens=100))
    trial = run_trial(found, calibrated)
    (prefill,) = trial.drive.prefills
    assert (prefill.prompt_tokens, prefill.cached_tokens) == (32, 100)


def test_a_file_of_the_users_own_is_run_as_it_is_and_stays(calibrated: Here, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    write_gguf(SMALL, path)
    found = weigh(read_gguf(path), calibrated, SETTINGS, WORKLOAD)
    trial = run_trial(found, calibrated)
    assert trial.basis is Basis.MEASURED
    assert path.exists()


def test_without_an_engine_the_error_says_how_to_get_one(calibrated: Here) -> None:
    found = weigh(SMALL, calibrated, SETTINGS, WORKLOAD)
    with pytest.raises(EngineMissing, match="no engine is installed"):
        run_trial(found, replace(calibrated, engine=None))


def test_prompts_stay_inside_the_vocabulary_and_differ_by_seed() -> None:
    for vocab in (300, 2048, 128_256):
        ids = prompt_ids(vocab, 500, seed=1)
        assert len(ids) == 500
        assert all(0 <= token < vocab - 8 for token in ids)
        assert ids != prompt_ids(vocab, 500, seed=2)


def test_spread_is_the_half_width_that_holds_four_in_five() -> None:
    assert relative_spread([1.0] * 20) == 0
    assert relative_spread([0.9, 1.0, 1.1] * 10) == pytest.approx(0.1, abs=0.01)
