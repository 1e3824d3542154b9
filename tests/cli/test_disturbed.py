"""Speeds from a calibration that something disturbed say so, on every screen and in JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from weigh.bench import calibrate as module
from weigh.bench.here import Here
from weigh.cli import main
from weigh.store import Store

PROBLEM = "other programs took 48% of the processors' time"
SAID = f"calibrated while {PROBLEM}: run `weigh machine --calibrate` when the machine is quiet"
COMMANDS = (
    ["machine"],
    ["recommend"],
    ["fit", "llama-3.2-1b"],
    ["curve", "llama-3.2-1b"],
    ["cost", "llama-3.2-1b", "--price", "500"],
)


@pytest.fixture
def disturbed(calibrated: Here, store: Store) -> Here:
    assert calibrated.calibration is not None
    store.save_calibration(replace(calibrated.calibration, problems=(PROBLEM,)))
    return calibrated


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_it_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], disturbed: Here, command: list[str]
) -> None:
    assert main(command) == 0
    assert capsys.readouterr().out.count(SAID) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_nothing_is_said_of_a_quiet_one(
    capsys: pytest.CaptureFixture[str], calibrated: Here, command: list[str]
) -> None:
    assert main(command) == 0
    assert "calibrated while" not in capsys.readouterr().out


def _answer(capsys: pytest.CaptureFixture[str], *command: str) -> dict:  # type: ignore[type-arg]
    assert main([*command, "--json"]) == 0
    found: dict = json.loads(capsys.readouterr().out)  # type: ignore[type-arg]
    return found


def test_documents_hold_the_problems(capsys: pytest.CaptureFixture[str], disturbed: Here) -> None:
    assert _answer(capsys, "machine")["calibration"]["problems"] == [PROBLEM]
    assert _answer(capsys, "recommend")["machine"]["calibration"]["problems"] == [PROBLEM]
    assert _answer(capsys, "fit", "llama-3.2-1b")["calibration_problems"] == [PROBLEM]
    assert _answer(capsys, "cost", "llama-3.2-1b")["calibration_problems"] == [PROBLEM]
    (curve,) = _answer(capsys, "curve", "llama-3.2-1b")["curves"]
    assert curve["calibration_problems"] == [PROBLEM]


def test_a_calibration_that_is_not_kept_is_told(
    capsys: pytest.CaptureFixture[str], calibrated: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = calibrated.calibration
    assert good is not None
    monkeypatch.setattr(module, "calibrate", lambda *_, **__: replace(good, problems=(PROBLEM,)))
    assert main(["machine", "--calibrate"]) == 0
    out = capsys.readouterr().out
    assert f"what was measured just now, since {PROBLEM}; that of 2026-01-01 00:00 UTC still counts" in out
    assert SAID not in out
    found = _answer(capsys, "machine", "--calibrate")
    assert found["calibration_rejected"] == [PROBLEM]
    assert found["calibration"]["problems"] == []
