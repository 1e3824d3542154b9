"""`weigh quality --text` and `--against` as a person meets them: real (untrained) models and files."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import answer, ask, figures
from tests.quality.scoring import ENGLISH, synthetic
from weigh.model.ggml_types import GgmlType
from weigh.quality.scorer import ChildScorer

pytestmark = pytest.mark.usefixtures("store")
ONE_THREAD = ("--threads", "1")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return str(synthetic(folder / "f16.gguf")), str(synthetic(folder / "q8.gguf", GgmlType.Q8_0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("texts")
    for number in range(10):
        (made / f"{number}.txt").write_text(ENGLISH[number * 100 : number * 100 + 200])
    (made / "picture.png").write_bytes(b"\0")
    return str(made)


def test_models_side_by_side_on_a_folder(
    capsys: pytest.CaptureFixture[str], models: tuple[str, str], folder: str
) -> None:
    found = answer(capsys, "quality", *models, "--text", folder, *ONE_THREAD)
    assert found["text"] == {"files": 10, "text_bytes": 2000, "skipped": 1}
    assert found["ended"] == "all read"
    for model in found["models"]:
        assert len(figures(model)) == 2
        assert 9 < model["bits_per_byte"]["value"] < 11
        assert (model["text_bytes"], model["tokens"], model["files"]) == (2000, 2000, 10)
        assert model["interval_of"] == "files"
        assert {text["path"] for text in model["texts"]} == {f"{n}.txt" for n in range(10)}
    (pair,) = found["pairs"]
    assert pair["models"] == [model["model"] for model in found["models"]]
    difference = found["models"][0]["bits_per_byte"]["value"] - found["models"][1]["bits_per_byte"]["value"]
    assert pair["bits_per_byte_difference"]["value"] == pytest.approx(difference)
    code, out, _ = ask(capsys, "quality", *models, "--text", folder, *ONE_THREAD)
    assert code == 0
    assert "10 of 10 files, 2 KiB of 2 KiB: all there is was read" in out
    assert "1 files are no UTF-8 text" in out
    assert ("is better than" in out) == (pair["better"] is not None)


def test_perplexity_to_be_held_against_llama_perplexity(
    capsys: pytest.CaptureFixture[str], models: tuple[str, str], tmp_path: Path
) -> None:
    text = tmp_path / "english.txt"
    text.write_text(ENGLISH)
    found = answer(capsys, "quality", models[0], "--text", str(text), "--llama-windows", *ONE_THREAD)
    assert found["models"][0]["perplexity"]["value"] == pytest.approx(1194.981, rel=5e-3)


def test_divergence_from_a_reference(
    capsys: pytest.CaptureFixture[str], models: tuple[str, str], tmp_path: Path
) -> None:
    text = tmp_path / "english.txt"
    text.write_text(ENGLISH)
    asked = ("quality", models[1], "--against", models[0], "--text", str(text), *ONE_THREAD)
    found = answer(capsys, *asked)
    (model,) = found["models"]
    assert model["kl"]["value"] == pytest.approx(0.127157, rel=5e-3)
    assert (model["windows"], model["windows_planned"]) == (6, 6)
    code, out, _ = ask(capsys, *asked)
    assert code == 0
    assert out.startswith("divergence from tiny F16")
    assert "6 of 6 windows: all there is was read" in out


@pytest.mark.parametrize("method", ["score", "compare"])
def test_an_interrupt_keeps_what_was_read(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    models: tuple[str, str],
    tmp_path: Path,
    method: str,
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(ENGLISH)
    real, left = getattr(ChildScorer, method), [4]

    def interrupted(self: ChildScorer, *given: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, *given)

    monkeypatch.setattr(ChildScorer, method, interrupted)
    against = ("--against", models[0]) if method == "compare" else ()
    code, out, err = ask(capsys, "quality", models[1], *against, "--text", str(tmp_path), *ONE_THREAD)
    assert code == 130
    assert "interrupted; this is what was measured until then" in out
    assert ("3 of 20 windows" if against else "1 of 3 files") in out
    assert err.endswith("interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("m.gguf",), "say what to measure on: --text FILE|FOLDER"),
        (("m.gguf", "--text", "a", "--repo", "b"), "say what to measure on"),
        (("m.gguf", "--against", "r.gguf"), "--against is of a text; add --text"),
        (("m.gguf", "--all", "--repo", "."), "--all is of a text; add --text"),
        (("m.gguf", "--text", "nowhere"), "`nowhere` does not exist"),
        (("m.gguf", "--text", "."), "`m.gguf` does not exist"),
        (("http://127.0.0.1:1", "--text", "."), "127.0.0.1:1 cannot be reached"),
        (
            ("http://127.0.0.1:1", "--text", ".", "--against", "http://127.0.0.1:1"),
            "divergence needs them all",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(ENGLISH)
    code, out, err = ask(capsys, "quality", *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") <= 2  # a line of progress may stand before it
    assert not out
