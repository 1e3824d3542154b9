"""Results of different days are compared on the pieces that both have, and on nothing else."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.store.quality import DIVERGED, MODEL, ON_CODE, ON_TASKS, REFERENCE
from weigh.advise.paired_results import gap
from weigh.store.quality_result import Material, QualityResult, Way

TEXT = replace(ON_CODE, way=Way.TEXT, material=Material("prose", "d" * 32, 1000))


def _text(bits: float, files: range = range(20), seed: int = 1) -> QualityResult:
    """Two blocks a file, as hard as the file is for everybody, and noise of each model's own."""
    noise = random.Random(seed)
    pieces = tuple(
        (file, 0, block, 1024 * (bits + 0.5 * (file % 5) + noise.gauss(0, 0.02)), 1024)
        for file in files
        for block in range(2)
    )
    return replace(TEXT, pieces=pieces)


def _tasks(passed: int, tasks: int = 40, version: str = "1") -> QualityResult:
    pieces = tuple(
        (f"debugging/{number}", version * 16, "debugging", 1, 1, int(number < passed))
        for number in range(tasks)
    )
    return replace(ON_TASKS, pieces=pieces)


def _diverged(nats: float) -> QualityResult:
    return replace(
        DIVERGED, pieces=tuple((255, 255 * (nats + 0.1 * (window % 3)), 200, 0.0) for window in range(10))
    )


def test_what_is_hard_for_both_drops_out() -> None:
    found = gap(_text(2.0), _text(1.95, seed=2))
    assert found is not None
    assert found.better == 1
    assert found.difference.value == pytest.approx(-0.05, abs=0.01)
    assert found.difference.high - found.difference.low < 0.03  # files themselves differ by 2
    assert found.count == 20 * 2 * 1024
    back = gap(_text(1.95, seed=2), _text(2.0))
    assert back is not None
    assert back.better == 0
    assert back.difference.value == pytest.approx(-found.difference.value)


def test_only_what_both_have_read_is_compared() -> None:
    found = gap(_text(2.0, range(20)), _text(1.9, range(10, 30), seed=2))
    assert found is not None
    assert found.count == 10 * 2 * 1024
    assert gap(_text(2.0, range(10)), _text(1.9, range(10, 20))) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_text(2.0), replace(_text(1.9), material=replace(TEXT.material, digest="e" * 32))),
        (_text(2.0), replace(ON_CODE, pieces=())),
        (_text(2.0, range(1)), replace(_text(1.9), pieces=_text(1.9).pieces[:1])),
        (_diverged(0.1), replace(_diverged(0.2), reference=replace(REFERENCE, fingerprint="0" * 16))),
        (_diverged(0.1), replace(_diverged(0.2), reference=None)),
        (_tasks(30), _tasks(20, version="2")),
        (
            _tasks(30),
            replace(_tasks(20), material=replace(ON_TASKS.material, settings={"style": "completion"})),
        ),
    ],
    ids=[
        "other text",
        "other way",
        "one piece",
        "other reference",
        "no reference",
        "changed tasks",
        "asked otherwise",
    ],
)
def test_what_cannot_be_paired_is_not(first: QualityResult, second: QualityResult) -> None:
    assert gap(first, second) is None


def test_divergences_are_paired_by_window() -> None:
    found = gap(_diverged(0.2), replace(_diverged(0.15), model=replace(MODEL, quantization="Q5_K_M")))
    assert found is not None
    assert found.better == 1
    assert found.difference.value == pytest.approx(-0.05)
    assert found.count == 10


def test_tasks_are_paired_by_task_and_equal_models_are_not_told_apart() -> None:
    found = gap(_tasks(20), _tasks(30))
    assert found is not None
    assert (found.better, found.count) == (1, 40)
    assert found.difference.value == pytest.approx(0.25)
    even = gap(_tasks(20), _tasks(20))
    assert even is not None
    assert even.better is None
