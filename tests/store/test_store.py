"""The store keeps what was measured, and says plainly when it cannot."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.calibrations import CALIBRATION
from weigh.errors import BadFile, WeighError
from weigh.estimate import speed
from weigh.store import Store
from weigh.store.ledger import runs


def test_a_calibration_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "weigh.db")
    store.save_calibration(CALIBRATION)
    assert store.calibration("f00d", "llama.cpp", "1") == CALIBRATION


def test_the_newest_calibration_of_that_machine_and_version_counts(tmp_path: Path) -> None:
    store = Store(tmp_path / "weigh.db")
    store.save_calibration(CALIBRATION)
    store.save_calibration(replace(CALIBRATION, noise=0.5))
    store.save_calibration(replace(CALIBRATION, engine_version="2", noise=0.9))
    found = store.calibration("f00d", "llama.cpp", "1")
    assert found is not None
    assert found.noise == 0.5
    assert store.calibration("another", "llama.cpp", "1") is None


def test_a_calibration_of_another_formula_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "weigh.db")
    store.save_calibration(CALIBRATION)
    monkeypatch.setattr(speed, "FORMULA_VERSION", speed.FORMULA_VERSION + 1)
    assert store.calibration("f00d", "llama.cpp", "1") is None


def test_asking_an_absent_store_creates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    assert Store(path).calibration("f00d", "llama.cpp", "1") is None
    assert runs(Store(path)) == []
    assert not path.exists()


def test_a_file_that_is_no_store_is_left_alone_and_named(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    path.write_text("dear diary" * 100)
    with pytest.raises(BadFile, match=r"weigh\.db: not a weigh store"):
        Store(path).save_calibration(CALIBRATION)
    assert path.read_text().startswith("dear diary")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeighError, match="cannot be used"):
        Store(tmp_path / "file" / "weigh.db").save_calibration(CALIBRATION)


def test_a_calibration_of_another_layout_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "weigh.db")
    store.save_calibration(CALIBRATION)
    db = sqlite3.connect(store.path)
    db.execute("""UPDATE calibration SET body = '{"formats": {}}'""")
    db.commit()
    db.close()
    assert store.calibration("f00d", "llama.cpp", "1") is None
