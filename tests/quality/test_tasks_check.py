"""`python -m weigh.quality.tasks.check` names what does not check what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quality.test_tasks_format import STRUCTURED, written
from weigh.quality.tasks.check import main


def test_faults_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written(tmp_path, STRUCTURED)
    assert main(["--folder", str(tmp_path)]) == 0
    assert "1 tasks, 0 faults" in capsys.readouterr().out
    written(tmp_path, STRUCTURED.replace("ANSWER: B", "ANSWER: C").replace("ANSWER: A", "ANSWER: b"))
    assert main(["--folder", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "review/one: right answer 1 fails: it answers `C`" in out
    assert "review/one: wrong answer 1 passes (the first)" in out
    assert "1 tasks, 2 faults" in out


def test_files_that_are_no_tasks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written(tmp_path, STRUCTURED)
    written(tmp_path, "id =", "review/two")
    assert main(["--folder", str(tmp_path), "--format-only"]) == 1
    assert "is not TOML" in capsys.readouterr().out
    assert main(["--folder", str(tmp_path), "revue"]) == 2
    assert "did you mean `review`" in capsys.readouterr().err
