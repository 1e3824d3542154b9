"""What `weigh quality` measured stays: of real runs on the ladder's trained models, whatever ends them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import answer, ask
from tests.quality.repositories import Repository, program
from tests.quality.scoring import ENGLISH
from weigh.cli.screens import quality_text
from weigh.quality.scorer import ChildScorer
from weigh.store import Store
from weigh.store.quality_result import QualityResult, Way, quality_results

LADDER = sorted(
    (Path(__file__).parents[2] / "ladder" / "models").glob("*.gguf"), key=lambda path: path.stat().st_size
)
SMALL, LARGE = (str(path) for path in LADDER[:2])
ONE_THREAD = ("--threads", "1")
TASK = """
id = "review/{name}"
need = "review"
difficulty = {level}
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


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secret-client") / "prose"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_text(ENGLISH[number * 300 : number * 300 + 400])
    return folder


def _same(kept: QualityResult, name: str, shown: dict[str, Any]) -> None:
    measure = kept.measure(name)
    assert measure is not None
    assert {**shown, "basis": "measured"} == measure.figure.to_json()


def test_a_text_is_kept_with_the_bits_of_each_piece(
    capsys: pytest.CaptureFixture[str], store: Store, texts: Path
) -> None:
    shown = answer(capsys, "quality", SMALL, LARGE, "--text", str(texts), *ONE_THREAD)
    kept = {one.model.name: one for one in quality_results(store, pieces=True)}
    assert len(kept) == 2
    for model in shown["models"]:
        one = kept[model["model"].split()[0]]
        _same(one, "bits_per_byte", model["bits_per_byte"])
        _same(one, "perplexity", model["perplexity"])
        assert sum(float(piece[3] or 0) for piece in one.pieces) == pytest.approx(
            sum(text["bits"] for text in model["texts"])
        )
        assert one.way is Way.TEXT
        assert (one.material.name, one.material.text_bytes) == ("prose", 4000)
        assert one.engine == "llama.cpp"
        assert one.engine_version
        assert len(one.model.fingerprint) == 16
    assert len({one.material.digest for one in kept.values()}) == 1  # so that they can be paired later
    assert len({one.model.fingerprint for one in kept.values()}) == 2
    assert "secret-client" not in Path(store.path).read_bytes().decode("latin-1")


def test_of_few_files_it_is_said_that_pieces_are_counted(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text(ENGLISH)
    ask(capsys, "quality", SMALL, "--text", str(tmp_path / "long.txt"), *ONE_THREAD)
    assert "bits per byte (3 pieces)" in ask(capsys, "history")[1]


def test_windows_and_divergence_are_kept_window_by_window(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path
) -> None:
    text = tmp_path / "long.txt"
    text.write_text(ENGLISH)
    answer(capsys, "quality", SMALL, "--text", str(text), "--llama-windows", *ONE_THREAD)
    shown = answer(capsys, "quality", LARGE, "--text", str(text), "--against", SMALL, *ONE_THREAD)
    diverged, windows = quality_results(store, pieces=True)
    (model,) = shown["models"]
    _same(diverged, "kl_nats", model["kl"])
    _same(diverged, "log_perplexity_ratio", model["log_perplexity_ratio"])
    assert diverged.reference is not None
    assert diverged.reference.fingerprint == windows.model.fingerprint
    assert len(diverged.pieces) == len(windows.pieces) == model["windows"]
    tokens, nats = (sum(float(piece[place] or 0) for piece in diverged.pieces) for place in (0, 1))
    assert nats / tokens == pytest.approx(model["kl"]["value"])


def test_a_repository_is_kept_without_the_names_of_its_files(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path
) -> None:
    made = Repository(tmp_path / "mine")
    made.commit({f"secret_{letter}.py": program(f"part_{letter}") for letter in "abcdefghij"})
    shown = answer(
        capsys, "quality", SMALL, LARGE, "--repo", str(made.folder), "--budget", "6KiB", *ONE_THREAD
    )
    large, small = quality_results(store, pieces=True)
    assert {small.model.name, large.model.name} == {model["model"].split()[0] for model in shown["models"]}
    for one in (small, large):
        (model,) = (model for model in shown["models"] if model["model"].startswith(one.model.name))
        _same(one, "bits_per_byte", model["bits_per_byte"])
        _same(one, "next_line_exact", model["next_line_exact"])
        assert (one.material.name, one.material.digest) == ("mine", shown["repository"]["commit"])
    assert [piece[0] for piece in small.pieces] == [piece[0] for piece in large.pieces]
    assert "secret_" not in json.dumps([one.to_json() for one in (small, large)])


def test_tasks_are_kept_with_every_outcome(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path
) -> None:
    (tmp_path / "own" / "review").mkdir(parents=True)
    for name, level in (("one", 1), ("two", 2)):
        (tmp_path / "own" / "review" / f"{name}.toml").write_text(TASK.format(name=name, level=level))
    words = ("--tasks", "--tasks-from", str(tmp_path / "own"), "--style", "chat", "--max-tokens", "16")
    code, out, err = ask(capsys, "quality", SMALL, *words, "--samples", "2")
    assert code == 0, err
    (kept,) = quality_results(store, pieces=True)
    assert kept.material.name == "own"
    assert kept.material.needs == ("review",)
    assert kept.material.settings["samples"] == 2
    assert {(measure.name, measure.of) for measure in kept.measures} == {
        (f"pass@{k}", of) for k in (1, 2) for of in ("", "review", "difficulty 1", "difficulty 2")
    }
    assert {piece[0]: piece[4] for piece in kept.pieces} == {"review/one": 2, "review/two": 2}
    whole = kept.measure("pass@1")
    assert whole is not None
    assert f"passes {100 * whole.figure.value:.0f} %" in out


def test_what_was_finished_when_it_was_interrupted_is_kept(
    capsys: pytest.CaptureFixture[str], store: Store, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = ChildScorer.score, [4]

    def interrupted(self: ChildScorer, *given: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *given)

    monkeypatch.setattr(ChildScorer, "score", interrupted)
    code, _, _ = ask(capsys, "quality", SMALL, "--text", str(texts), *ONE_THREAD)
    assert code == 130
    (kept,) = quality_results(store, pieces=True)
    assert kept.ended == "interrupted"
    assert kept.material.text_bytes == 3 * 400
    assert len({piece[0] for piece in kept.pieces}) == 3


def test_it_is_on_the_disk_before_it_is_shown(
    capsys: pytest.CaptureFixture[str], store: Store, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(quality_text, "show_text", lambda found: seen.append(len(quality_results(store))))
    code, _, _ = ask(capsys, "quality", SMALL, "--text", str(texts), *ONE_THREAD)
    assert (code, seen) == (0, [1])


def test_what_cannot_be_kept_is_shown_and_said(
    capsys: pytest.CaptureFixture[str],
    store: Store,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGH_STORE", "/proc/weigh.db")
    code, out, err = ask(capsys, "quality", SMALL, "--text", str(texts), *ONE_THREAD)
    assert code != 0
    assert "10 of 10 files" in out
    (aside,) = tmp_path.glob("weigh-*.json")
    assert aside.name in err
    monkeypatch.setenv("WEIGH_STORE", str(store.path))
    assert answer(capsys, "history", "--import", str(aside), "--mine")["quality"] == 1
    (line,) = (line for line in ask(capsys, "history")[1].splitlines() if "text prose" in line)
    assert "bits per byte (10 files)" in line
