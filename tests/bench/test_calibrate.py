"""Calibration on the real engine, cut short: two probes of a few MiB instead of two hundred."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from weigh.bench import calibrate as module
from weigh.bench.calibrate import calibrate
from weigh.bench.here import here
from weigh.engines import default_engine
from weigh.estimate.calibration import Calibration
from weigh.machine import probe
from weigh.store import Store


def test_a_machine_is_calibrated_and_leaves_nothing_behind(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "probe_bytes", lambda machine: 8 << 20)
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
        found.expert_decode,
        found.expert_prefill,
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
    assert list(folder.iterdir()) == []
    assert stages == sorted(stages)
    assert stages[-1] == 1.0
    assert Calibration.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_the_second_call_finds_the_calibration_of_the_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def once(*args: object, **kwargs: object) -> Calibration:
        from dataclasses import replace

        from tests.calibrations import CALIBRATION

        calls.append(args)
        engine = default_engine()
        return replace(
            CALIBRATION,
            engine=engine.name,
            engine_version=engine.version(),
            fingerprint=probe().fingerprint,
        )

    monkeypatch.setattr(module, "calibrate", once)
    first, second = here(), here()
    assert len(calls) == 1
    assert first.calibration == second.calibration
    here(again=True)
    assert len(calls) == 2
