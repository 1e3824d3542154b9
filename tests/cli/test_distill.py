"""`weigh shrink distill`: a real run of few steps, and how it is shown."""

import json
from pathlib import Path

import pytest

from tests.shrink.teachers import TEXTS, make_teacher
from weigh.cli import main
from weigh.cli.distill_document import distill_document
from weigh.cli.screens.distill import show_taught
from weigh.model.resolve import resolve
from weigh.quality.text import Texts
from weigh.shrink import taught
from weigh.shrink.recipe import Recipe, Shape
from weigh.shrink.taught import Taught, teach

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def found(teacher: Path) -> Taught:
    recipe = Recipe(Shape(layers=3), steps=20, windows=4, window_tokens=32)
    return teach(
        resolve(str(teacher)),
        Texts(tuple(TEXTS), 0),
        teacher / "out",
        recipe,
        threads=1,
        progress=lambda stage, done: None,
    )


def test_students_are_measured_beside_their_teacher(found: Taught) -> None:
    distilled, alone, master = found.contenders
    assert (distilled.name, alone.name, master.name) == ("distilled", "alone", "teacher")
    assert distilled.spec.parameters == alone.spec.parameters < master.spec.parameters
    assert distilled.quality is not None
    assert master.quality is not None
    assert master.quality.bits_per_byte.value < distilled.quality.bits_per_byte.value < 8
    assert distilled.diverged is not None
    assert distilled.diverged.found.kl.value > 0
    assert found.pair("distilled", "alone") is not None
    assert found.error is None
    assert {score.name for score in found.run.candidates[0].scores} == {
        text.name for text in found.run.texts.texts
    }


def test_the_screen_says_which_student_is_better_by_how_much(
    found: Taught, capsys: pytest.CaptureFixture[str]
) -> None:
    show_taught(found)
    said = capsys.readouterr().out
    for word in ("teacher", "distilled", "alone", "bits per byte (95 %: ", "20 steps of 128 tokens", "Made"):
        assert word in said
    assert "teacher is better than distilled by " in said


def test_json(found: Taught) -> None:
    said = json.loads(json.dumps(distill_document(found)))
    assert [one["role"] for one in said["models"]] == ["distilled", "alone", "teacher"]
    distilled, _, master = said["models"]
    assert 0 < distilled["size_bytes"] < master["size_bytes"]
    assert distilled["divergence"]["kl"]["unit"] == "nats"
    assert master["divergence"] is None
    assert said["held_out"]["pairs"][0]["bits_per_byte_difference"]["clusters"] > 0
    assert said["recipe"]["shape"]["layers"] == 3


def test_options_become_the_recipe(
    found: Taught, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Recipe, tuple[str, ...]]] = []

    def noted(_spec: object, _texts: object, _out: Path, recipe: Recipe, **more: object) -> Taught:
        asked.append((recipe, more["arms"]))
        return found

    monkeypatch.setattr(taught, "teach", noted)
    text = teacher / "config.json"
    command = ["shrink", "distill", str(teacher), "--text", str(text), "--out", str(teacher / "out")]
    assert main(command) == 0
    assert main([*command, "--layers", "2", "--random", "--share", "0.9", "--not-alone", "--json"]) == 0
    assert asked == [
        (Recipe(), ("distilled", "alone")),
        (Recipe(Shape(layers=2), from_teacher=False, share=0.9), ("distilled",)),
    ]
    assert '"role": "distilled"' in capsys.readouterr().out


def test_ctrl_c_says_how_to_go_on(
    teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Taught:
        raise KeyboardInterrupt

    monkeypatch.setattr(taught, "teach", interrupted)
    text = str(teacher / "config.json")
    assert main(["shrink", "distill", str(teacher), "--text", text, "--out", "new"]) == 130
    assert "kept in new; the same command goes on from there" in capsys.readouterr().err


def test_without_torch_one_line_says_what_to_install(
    teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(taught, "find_spec", lambda name: None)
    text = str(teacher / "config.json")
    assert main(["shrink", "distill", str(teacher), "--text", text, "--out", "new"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].endswith("pip install 'weigh[transformers]'")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share", "0"], "above 0"),
        (["--learning-rate", "nan"], "learning rate"),
        (["--layers", "0"], "not in the range"),
        (["--kv-heads", "3"], "teacher's is 2"),
        (["--text", "nowhere"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.txt").write_text(f"{number} text\n")
    command = ["shrink", "distill", str(teacher), "--text", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*command, *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_gguf_file_is_no_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.shrink.models import gaussian_model

    model = gaussian_model(tmp_path / "m.gguf", num_hidden_layers=1, vocab_size=320)
    command = ["shrink", "distill", str(model), "--text", str(tmp_path), "--out", str(tmp_path / "out")]
    (tmp_path / "a.txt").write_text("a")
    assert main(command) == 2
    assert "is no folder of safetensors files" in capsys.readouterr().err
