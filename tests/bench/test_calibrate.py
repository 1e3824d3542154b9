"""Calibration on the real engine, cut short: probes of a few MiB instead of hundreds; then what is kept of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.busy import busy
from tests.calibrations import CALIBRATION
from weigh.bench import calibrate as module
from weigh.bench import probes
from weigh.bench.calibrate import calibrate
from weigh.bench.here import here
from weigh.bench.turns import Driven
from weigh.engines import default_engine
from weigh.engines.engine import Session
from weigh.estimate.calibration import Calibration
from weigh.machine import probe
from weigh.store import Store
from weigh.synth import shortened

PROBLEM = "other programs took 50% of the processors' time"


@pytest.fixture(scope="module")
def small_probes() -> Iterator[None]:
    """Everything that is run has the least size that still runs, and a few tokens to write."""
    dense, mixture = probes.dense, probes.mixture
    narrow = {"hidden": 512, "feed_forward": 1024, "heads": 4, "kv_heads": 2}

    def narrow_layers(name: str, kind: Any, **widths: Any) -> Any:
        return dense(name, kind, **{**narrow, **widths})

    def few_tokens(session: Session, vocab: int, prompt: int, output: int, *rest: int) -> Driven:
        return Driven(session, vocab, prompt, min(output, 6), *rest)

    def few_experts(name: str, kind: Any, *, layers: int, experts: int, **kept: Any) -> Any:
        return mixture(name, kind, layers=2, experts=8, **kept)

    def one_layer(spec: Any, layers: int, **kept: Any) -> Any:
        return shortened(spec, 1, vocab=probes.SMALL_VOCAB)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGH_ENGINE", "embedded")
        patch.setattr(module, "probe_bytes", lambda machine: 8 << 20)
        patch.setattr(module, "FORMATS", (module.FORMATS[0][:3], *module.FORMATS[1:]))
        patch.setattr(module, "DEPTH_TOKENS", 128)
        patch.setattr(module, "EXPERTS_PROMPT_TOKENS", 32)
        patch.setattr(module, "FEW_EXPERTS_PROMPT_TOKENS", 8)
        patch.setattr(module, "shortened", one_layer)
        patch.setattr(module, "Driven", few_tokens)
        patch.setattr(probes, "dense", narrow_layers)
        patch.setattr(probes, "mixture", few_experts)
        patch.setattr(probes, "LARGE_VOCAB", 8192)
        yield


@pytest.fixture(scope="module")
def disturbed(small_probes: None, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """Made while another program takes its half of the one processor that both may use."""
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/stat").exists():
        pytest.skip("this system does not tell what other programs do")
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    os.sched_setaffinity(0, {one})
    try:
        with busy(one):
            folder = tmp_path_factory.mktemp("scratch")
            return calibrate(probe(), default_engine(), folder=folder, budget_s=0)
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_machine_is_calibrated_and_leaves_nothing_behind(small_probes: None, tmp_path: Path) -> None:
    stages: list[float] = []
    folder = tmp_path / "scratch"
    found = calibrate(
        probe(),
        default_engine(),
        folder=folder,
        budget_s=0,
        progress=lambda stage, done: stages.append(done),
    )
    assert set(found.formats) == {kind.name for kind in module.FORMATS[0]}  # these are always run
    assert found.states == {}  # the rest is left out when there is no time
    assert all(0 < rate.decode <= 1 and 0 < rate.prefill <= 1 for rate in found.by_threads)
    rates = [
        found.formats["Q4_K"].decode_bytes_per_s,
        found.formats["Q4_K"].prefill_flops_per_s,
        found.expert_prefill,
        found.expert_stream,
        found.decode_attention_flops_per_s,
        found.prefill_attention_flops_per_s,
        found.load_bytes_per_s,
        found.repack_bytes_per_s,
        found.check_decode,
        found.check_prefill,
        *found.quantized_cache,
    ]
    assert all(0 < rate < math.inf for rate in rates)
    assert 0 <= found.batch_cost < math.inf
    assert 0 <= found.expert_s < math.inf
    assert 0 < found.layer_s < math.inf
    assert 0 <= found.value_s < math.inf
    assert list(folder.iterdir()) == []
    assert stages == sorted(stages)
    assert stages[-1] == 1.0
    assert Calibration.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


# --- what is kept ----------------------------------------------------------------------------------------


class Measured:
    """Stands for a calibration: gives one after the other, and counts."""

    def __init__(self, *found: Calibration) -> None:
        self.found = list(found)

    def __call__(self, *args: object, **kwargs: object) -> Calibration:
        return _of_here(self.found.pop(0))


def _of_here(known: Calibration) -> Calibration:
    engine = default_engine()
    return replace(
        known, engine=engine.name, engine_version=engine.version(), fingerprint=probe().fingerprint
    )


def test_the_second_call_finds_the_calibration_of_the_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Measured(CALIBRATION, replace(CALIBRATION, noise=0.5))
    monkeypatch.setattr(module, "calibrate", measured)
    first, second = here(), here()
    assert len(measured.found) == 1
    assert first.calibration == second.calibration == _of_here(CALIBRATION)
    assert here(again=True).calibration == _of_here(replace(CALIBRATION, noise=0.5))
    assert here().calibration == _of_here(replace(CALIBRATION, noise=0.5))


def test_a_busy_machine_is_noticed_and_does_not_spoil_what_is_known(
    disturbed: Calibration, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(problem.startswith("other programs took") for problem in disturbed.problems)
    monkeypatch.setattr(module, "calibrate", Measured(CALIBRATION, disturbed))
    good = here().calibration
    asked = here(again=True)
    assert asked.rejected == disturbed.problems
    assert asked.calibration == good == _of_here(CALIBRATION)
    later = here()
    assert later.calibration == good
    assert later.rejected == ()


def test_on_a_machine_that_is_always_busy_one_is_kept_until_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = replace(CALIBRATION, problems=(PROBLEM,))
    measured = Measured(noisy, replace(noisy, noise=0.5), CALIBRATION)
    monkeypatch.setattr(module, "calibrate", measured)
    for _ in range(3):
        assert here().calibration == _of_here(noisy)
    assert len(measured.found) == 2
    assert here(again=True).calibration == _of_here(replace(noisy, noise=0.5))
    assert here(again=True).calibration == _of_here(CALIBRATION)  # now it was quiet
