"""`weigh quality --tasks`, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.quality.test_tasks_run import REVIEW, knows, server
from tests.quality.vocabularies import write_model
from tests.sandboxes import needs_sandbox
from weigh.cli.app import main

OWN = """
id = "review/own"
need = "review"
difficulty = 1
language = ""
kind = "structured"
prompt = "Say B. Last line: ANSWER: <letter>"
answer = "B"
[[right_answers]]
text = "ANSWER: B"
[[wrong_answers]]
text = "ANSWER: A"
why = "not B"
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIGH_STORE", str(tmp_path / "weigh.db"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WEIGH_ENGINE", "embedded")
    return tmp_path / "answers"


@pytest.fixture
def own_tasks(tmp_path: Path) -> str:
    folder = tmp_path / "mine" / "review"
    folder.mkdir(parents=True)
    (folder / "own.toml").write_text(OWN)
    return str(folder.parent)


def test_a_served_model(kept: Path, capsys: pytest.CaptureFixture[str]):
    names = ",".join(task.id for task in REVIEW)
    with server(lambda request: knows(REVIEW, request)) as url:
        assert main(["quality", url, "--tasks", names, "--samples", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("stand-in passes 100 % (")
    assert "of 4 tasks" in out
    assert "pass@2" in out
    assert "8 answers" in out
    assert "temperature 0.8" in out
    (file,) = kept.glob("*.jsonl")
    assert str(file) in out
    assert len(file.read_text().splitlines()) == 8


def test_two_models_beside_each_other(kept: Path, capsys: pytest.CaptureFixture[str]):
    names = ",".join(task.id for task in REVIEW)
    with server(lambda r: knows(REVIEW, r)) as good, server(lambda r: "no idea") as bad:
        assert main(["quality", good, bad, "--tasks", names, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    first, second = document["models"]
    assert first["pass_at"]["1"]["value"] == 1.0
    assert second["pass_at"]["1"]["value"] == 0.0
    assert first["by_need"]["1"]["review"]["tasks"] == 4
    assert {one["task"] for one in first["tasks"]} == {task.id for task in REVIEW}
    assert document["pairs"][0]["difference"]["value"] == 1.0


def test_the_first_model_is_shown_when_the_second_fails(
    kept: Path, own_tasks: str, capsys: pytest.CaptureFixture[str]
):
    with server(lambda request: "ANSWER: B") as url:
        gone = url.rpartition(":")[0] + ":1/v1"
        assert main(["quality", url, gone, "--tasks", "--tasks-from", own_tasks]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("stand-in passes 100 %")
    assert "cannot be reached" in said.err


@needs_sandbox
def test_a_model_file(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_model(tmp_path / "tiny.gguf")
    words = [
        "--tasks",
        "completion/count-words",
        "--max-tokens",
        "16",
        "--answers",
        str(tmp_path / "mine.jsonl"),
    ]
    assert main(["quality", str(tmp_path / "tiny.gguf"), *words]) == 0
    assert "asked as a base model, to fill gaps" in capsys.readouterr().out
    assert json.loads((tmp_path / "mine.jsonl").read_text())["task"] == "completion/count-words"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m.gguf", "--samples", "3"], "--samples is of tasks; add --tasks"),
        (["m.gguf", "--tasks", "--text", "x"], "say what to measure on"),
        (["m.gguf", "--tasks", "revue"], "unknown task `revue`; did you mean `review`?"),
        (["none.gguf", "--tasks", "review"], "none.gguf"),
        (["m.gguf", "--tasks", "--tasks-from", "/nowhere"], "/nowhere holds no tasks"),
    ],
)
def test_what_is_asked_wrongly(kept: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["quality", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
