"""What several test files stand on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.calibrations import CALIBRATION
from weigh.bench.here import Here, here
from weigh.engines import default_engine
from weigh.machine import probe
from weigh.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of its own, and scratch files beside it."""
    monkeypatch.setenv("WEIGH_STORE", str(tmp_path / "weigh.db"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WEIGH_ENGINE", "embedded")
    return Store()


@pytest.fixture
def calibrated(store: Store) -> Here:
    """This machine with the round numbers of `tests.calibrations`, found in the store as usual."""
    engine = default_engine()
    store.save_calibration(
        replace(
            CALIBRATION,
            engine=engine.name,
            engine_version=engine.version(),
            fingerprint=probe().fingerprint,
        )
    )
    found = here(calibrate=False)
    assert found.calibration is not None
    return found


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, here and in children: of models this small, threads wait longer than they work."""
    import torch

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)
