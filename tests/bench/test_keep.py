"""A real run kept in the ledger, and what the next estimate makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tiny_models import tiny_llama
from weigh.bench.here import Here, here, scratch_folder
from weigh.bench.keep import keep
from weigh.bench.turns import Driven, in_turns
from weigh.engines.engine import Limits, Settings
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.speed import Workload
from weigh.figure import Basis
from weigh.store import Store
from weigh.store.fields import MOST_LETTERS
from weigh.store.ledger import learned, runs
from weigh.store.run import Kind, Run
from weigh.synth import synthetic_file

SPEC = tiny_llama(name="tiny/own")
SETTINGS, WORKLOAD = Settings(context_tokens=512), Workload(prompt_tokens=32, output_tokens=8)


def run_it(estimated: SetupEstimate, at: Here, kind: Kind = Kind.TEST_DRIVEN) -> Run:
    assert at.engine is not None
    with (
        synthetic_file(estimated.spec, scratch_folder()) as file,
        at.engine.start(file, estimated.settings, Limits()) as session,
    ):
        asked = estimated.workload
        driven = Driven(session, estimated.spec.vocab, asked.prompt_tokens, asked.output_tokens)
        (seen,) = in_turns([driven], rounds=2)
    assert seen.memory is not None
    return keep(
        estimated,
        at,
        kind,
        decode_tokens_per_s=[1 / step for step in seen.step_medians_s],
        prefill_tokens_per_s=[asked.prompt_tokens / seconds for seconds in seen.prefills_s],
        load_s=[seen.load_s],
        peak_memory_bytes=[seen.memory.peak_bytes],
        noise=seen.spread,
    )


def test_a_disturbed_run_is_kept_and_teaches_nothing(calibrated: Here, store: Store) -> None:
    estimated = weigh(SPEC, calibrated, SETTINGS, WORKLOAD)
    kept = keep(
        estimated,
        calibrated,
        Kind.MEASURED,
        decode_tokens_per_s=[1.0],
        prefill_tokens_per_s=[1.0],
        load_s=[],
        peak_memory_bytes=[],
        noise=0.1,
        disturbed=True,
    )
    assert runs(store) == [kept]
    assert kept.decode_tokens_per_s.estimated is not None
    key = kept.fingerprint, kept.engine, kept.engine_version
    assert learned(store, *key) is None


def test_estimate_run_compare_and_learn(calibrated: Here, store: Store) -> None:
    """The loop: what ran is kept beside its estimate, and the next estimate of it is nearer."""
    first = weigh(SPEC, calibrated, SETTINGS, WORKLOAD)
    assert first.speed is not None
    kept = run_it(first, calibrated)
    assert runs(store) == [kept]
    assert (kept.model, kept.family, kept.quantization) == ("tiny/own", "llama", "Q4_K")
    assert kept.calibration == calibrated.calibration.created  # type: ignore[union-attr]
    assert kept.decode_tokens_per_s.estimated == first.speed.decode_tokens_per_s
    assert kept.decode_tokens_per_s.uncorrected == first.speed.decode_tokens_per_s
    assert len(kept.decode_tokens_per_s.measured) == len(kept.prefill_tokens_per_s.measured) == 2

    wiser = here(calibrate=False)
    second = weigh(SPEC, wiser, SETTINGS, WORKLOAD)
    assert second.speed is not None
    for name in ("decode_tokens_per_s", "prefill_tokens_per_s"):
        measured = kept.quantities[name].value
        before, after = getattr(first.speed, name), getattr(second.speed, name)
        assert measured is not None
        assert abs(after.value - measured) < abs(before.value - measured)  # how much depends on the noise
        assert after.basis is Basis.CALIBRATED

    again = run_it(second, wiser)
    assert again.decode_tokens_per_s.estimated == second.speed.decode_tokens_per_s
    assert (
        again.decode_tokens_per_s.uncorrected == first.speed.decode_tokens_per_s
    )  # never of a corrected one


def test_what_was_predicted_from_less_teaches_nothing(calibrated: Here) -> None:
    found = weigh(SPEC, calibrated, SETTINGS, WORKLOAD)
    run_it(found, calibrated, Kind.TRUNCATED)
    assert here(calibrate=False).learned is None


def test_names_and_samples_of_any_kind_are_kept(calibrated: Here, store: Store) -> None:
    spec = replace(SPEC, name="\x1b[2J" + "x" * 1000, quantization="")
    keep(
        weigh(spec, calibrated, SETTINGS, WORKLOAD),
        calibrated,
        Kind.MEASURED,
        decode_tokens_per_s=[0.0, 5.0],
        prefill_tokens_per_s=[],
        load_s=[1],
        peak_memory_bytes=[1 << 30],
        noise=0.1,
    )
    (found,) = runs(store)
    assert found.model == "?[2J" + "x" * (MOST_LETTERS - 4)
    assert found.decode_tokens_per_s.measured == (5.0,)
    assert found.prefill_tokens_per_s.error is None
    assert found.peak_memory_bytes.error == pytest.approx(
        weigh(spec, calibrated, SETTINGS, WORKLOAD).peak_memory_bytes.value / (1 << 30) - 1
    )
