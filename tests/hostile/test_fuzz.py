"""A few hundred executions of every fuzz target; `fuzz/run.py` does millions."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from fuzz import run
from fuzz.targets import SPLIT, TARGETS
from weigh.errors import WeighError


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_read_or_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HERE", tmp_path)  # where inputs that fail are kept
    target = TARGETS[name]
    guarded = run.guarded(name, target)
    for data in islice(run.mutations(target, seed=7), 300):
        guarded(data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_begins_with_an_input_that_is_read(name: str) -> None:
    target = TARGETS[name]
    assert any(_is_read(name, data) for data in target.seeds())
    assert all(len(data) <= target.most_bytes for data in target.seeds())


def _is_read(name: str, data: bytes) -> bool:
    try:
        TARGETS[name].run(data)
    except WeighError:
        return False
    return True


def test_the_same_seed_makes_the_same_changes() -> None:
    first, again, other = (list(islice(run.mutations(TARGETS["gguf"], seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_what_is_no_clean_refusal_fails_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HERE", tmp_path)
    breaks = run.guarded("gguf", run.Target(lambda data: data[9], lambda: [], ()))
    breaks(b"0123456789")
    with pytest.raises(IndexError):
        breaks(SPLIT)
    assert [path.read_bytes() for path in (tmp_path / "crashes").iterdir()] == [SPLIT]
