"""Students of a tiny teacher that was really trained for a moment: they are made, taught, resumed and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shrink.teachers import TEXTS, make_teacher
from weigh.errors import BadFile, BadInput, NoSpace
from weigh.quality.text import Text

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen3Config  # noqa: E402

from weigh.shrink.distill import distill  # noqa: E402
from weigh.shrink.recipe import Recipe, Shape  # noqa: E402
from weigh.shrink.student import from_teacher, kept_layers, student_config  # noqa: E402
from weigh.shrink.training_text import held_out, training_windows  # noqa: E402

BOTH = ("distilled", "alone")
STEP = {"windows": 4, "window_tokens": 32}
THIRTY_STEPS = Recipe(Shape(layers=2), steps=30, **STEP)

pytestmark = pytest.mark.usefixtures("one_thread")


def silent(stage: str, done: float) -> None:
    pass


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher"))


def test_layers_kept_hold_the_first_and_the_last() -> None:
    assert kept_layers(12, 4) == [0, 4, 7, 11]
    assert kept_layers(5, 5) == [0, 1, 2, 3, 4]
    assert kept_layers(9, 1) == [0]


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_a_student_of_the_teachers_own_shape_is_the_teacher(config: Callable[..., object]) -> None:
    made = config(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    master = AutoModelForCausalLM.from_config(made).eval()
    student = AutoModelForCausalLM.from_config(student_config(made, Shape(layers=3))).eval()
    ids = torch.randint(0, 100, (2, 16))
    from_teacher(master, student, ids)
    with torch.no_grad():
        assert torch.allclose(master(ids).logits, student(ids).logits, atol=1e-5)


def test_what_is_cut_away_is_what_mattered_least() -> None:
    """Channels, neurons and groups of nought in the teacher are those a narrower student leaves out."""
    made = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(5)
    master = LlamaForCausalLM(made).eval()
    with torch.no_grad():
        for layer in master.model.layers:
            layer.mlp.up_proj.weight[::2] = 0  # every second neuron is silent
            layer.self_attn.v_proj.weight[8:] = 0  # the second group says nothing
    student = LlamaForCausalLM(student_config(made, Shape(feed_forward=20, kv_heads=1))).eval()
    ids = torch.randint(0, 50, (2, 12))
    from_teacher(master, student, ids)
    with torch.no_grad():
        assert torch.allclose(master(ids).logits, student(ids).logits, atol=1e-5)


def test_both_arms_learn_and_the_taught_one_comes_nearer_to_its_teacher(
    teacher: Path, tmp_path: Path
) -> None:
    recipe = Recipe(Shape(layers=2, hidden=48), from_teacher=False, steps=40, share=0.9, hidden=0.1, **STEP)
    taught, alone = distill(teacher, TEXTS, tmp_path / "out", recipe, arms=BOTH, progress=silent)
    assert taught.parameters == alone.parameters < 150_000
    logs = {
        arm: json.loads((tmp_path / "out" / arm / "training.json").read_text())["log"]
        for arm in ("distilled", "alone")
    }
    assert all(logs[arm][-1]["text"] < 0.8 * logs[arm][0]["text"] for arm in logs)
    assert logs["distilled"][-1]["hidden"] < logs["distilled"][0]["hidden"]
    master, students = LlamaForCausalLM.from_pretrained(teacher), {}
    ids = torch.randint(0, 300, (4, 32))
    with torch.no_grad():
        aim = master(ids).logits.log_softmax(-1)
        for arm in logs:
            made = LlamaForCausalLM.from_pretrained(tmp_path / "out" / arm)(ids).logits.log_softmax(-1)
            students[arm] = float((aim.exp() * (aim - made)).sum(-1).mean())
    assert students["distilled"] < students["alone"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["alone", "distilled"]


def test_a_second_call_finds_the_students_and_other_settings_are_refused(
    teacher: Path, tmp_path: Path
) -> None:
    recipe = Recipe(Shape(layers=1), steps=2, **STEP)
    first = distill(teacher, TEXTS, tmp_path / "out", recipe, arms=["alone"], progress=silent)
    stages: list[str] = []
    again = distill(
        teacher,
        TEXTS,
        tmp_path / "out",
        recipe,
        arms=["alone"],
        progress=lambda stage, _: stages.append(stage),
    )
    assert first == again
    assert not any("step" in stage for stage in stages)
    with pytest.raises(BadInput, match="other settings"):
        distill(
            teacher,
            TEXTS,
            tmp_path / "out",
            Recipe(Shape(layers=2), steps=2, **STEP),
            arms=["alone"],
            progress=silent,
        )


_KILLED = """
import sys, time
from pathlib import Path
from tests.shrink.teachers import TEXTS
from tests.shrink.test_distill import THIRTY_STEPS
from weigh.shrink import training
from weigh.shrink.distill import distill
training.KEEP_S = 0.0
def slowly(stage, done):
    print(stage, flush=True); time.sleep(0.05)
distill(Path(sys.argv[1]), TEXTS, Path(sys.argv[2]), THIRTY_STEPS, arms=["distilled"], progress=slowly)
"""


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The weights of a student that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    distill(teacher, TEXTS, out, THIRTY_STEPS, arms=["distilled"], progress=silent)
    return load_file(out / "distilled" / "model.safetensors")


def test_killed_and_gone_on_with_it_has_the_same_weights(
    teacher: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _KILLED, str(teacher), str(tmp_path)]
    here = {"cwd": Path(__file__).parents[2], "env": os.environ | {"PYTHONPATH": "."}}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **here)
    assert child.stdout is not None
    for line in child.stdout:
        if "step 12 " in line:
            child.send_signal(signal.SIGKILL)
            break
    child.wait(60)
    child.stdout.close()
    assert_goes_on(teacher, tmp_path, whole)


def test_interrupted_and_gone_on_with_it_has_the_same_weights(
    teacher: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    def stop(stage: str, done: float) -> None:
        if "step 12 " in stage:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it would be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, TEXTS, tmp_path, THIRTY_STEPS, arms=["distilled"], progress=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert_goes_on(teacher, tmp_path, whole)


def assert_goes_on(teacher: Path, out: Path, whole: dict[str, object]) -> None:
    assert not (out / "distilled").exists()
    steps: list[float] = []
    distill(
        teacher,
        TEXTS,
        out,
        THIRTY_STEPS,
        arms=["distilled"],
        progress=lambda _, done: steps.append(done),
    )
    assert 5 < len(steps) < 25
    cut = load_file(out / "distilled" / "model.safetensors")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_step_that_ctrl_c_falls_into_is_finished(teacher: Path, tmp_path: Path) -> None:
    """Half a step would be no state to go on from."""
    recipe = Recipe(Shape(layers=1), steps=6, **STEP)

    def stop(stage: str, done: float) -> None:
        if "step 2 " in stage:
            signal.raise_signal(signal.SIGINT)
            told.append(stage)

    told: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, TEXTS, tmp_path, recipe, arms=["alone"], progress=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told  # the signal did not cut the call short
    assert torch.load(tmp_path / "alone.training", weights_only=True)["step"] == 2


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), SafetensorError("I/O error: No space left")])
def test_a_student_half_written_is_written_anew(
    stopped: BaseException, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(Shape(layers=1), steps=2, **STEP)

    def breaks_off(_model: object, folder: Path) -> None:
        folder.mkdir()
        raise stopped

    with monkeypatch.context() as patched:
        patched.setattr(LlamaForCausalLM, "save_pretrained", breaks_off)
        with pytest.raises((KeyboardInterrupt, NoSpace)):
            distill(teacher, TEXTS, tmp_path, recipe, arms=["alone"], progress=silent)
    steps: list[str] = []
    made = distill(
        teacher, TEXTS, tmp_path, recipe, arms=["alone"], progress=lambda stage, _: steps.append(stage)
    )
    assert load_file(made[0].folder / "model.safetensors")
    assert not any("step" in stage for stage in steps)
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]


def test_parts_of_a_step_add_up_to_it(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large vocabulary takes the windows of a step in parts; what is learned is the same but for rounding."""
    recipe = Recipe(Shape(layers=2), steps=5, hidden=0.5, **STEP)
    whole, *_ = distill(teacher, TEXTS, tmp_path / "whole", recipe, arms=["distilled"], progress=silent)
    monkeypatch.setattr("weigh.shrink.distill.LOGITS_BYTES", 1)
    parts, *_ = distill(teacher, TEXTS, tmp_path / "parts", recipe, arms=["distilled"], progress=silent)
    assert parts.last_loss == pytest.approx(whole.last_loss, rel=1e-2)


def test_files_are_held_out_by_name() -> None:
    train, apart = held_out(TEXTS)
    assert apart
    assert {text.name for text in train}.isdisjoint(text.name for text in apart)
    assert held_out(TEXTS[::-1])[1][0].name in {text.name for text in apart}
    copy = Text("copy.py", 9, apart[0].text)
    assert copy not in held_out([*TEXTS, copy])[0]


def test_of_a_single_file_the_end_is_held_out() -> None:
    parts = [Text("all.txt", 0, f"part {number}", number) for number in range(16)]
    assert held_out(parts) == (parts[:14], parts[14:])
    with pytest.raises(BadInput, match="too short"):
        held_out(parts[:1])


def test_windows_are_all_text_each_after_the_token_a_text_is_judged_after(teacher: Path) -> None:
    texts = [Text("a", 0, "a <|endoftext|> b\n"), Text("a", 0, "c\n", 1), Text("b", 1, "d\n")]
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    windows = training_windows(teacher, texts, window_tokens=3, least=1)
    assert windows[:, 0].tolist() == [0] * len(windows)  # the end token, for there is no other
    read = tokenizer.decode(windows[:, 1:].flatten().tolist(), skip_special_tokens=False)
    assert "a <|endoftext|> b\nc\n<|endoftext|>d\n<|endoftext|>".startswith(read)
    assert windows[:, 1:].flatten().tolist().index(0) > 10  # words in the text are no end


def test_bad_teachers_and_settings_say_what_is_wrong(teacher: Path, tmp_path: Path) -> None:
    def ask(folder: Path, recipe: Recipe) -> None:
        distill(folder, TEXTS, tmp_path / "out", recipe, arms=BOTH, progress=silent)

    with pytest.raises(BadInput, match="num_hidden_layers would be 9"):
        ask(teacher, Recipe(Shape(layers=9), **STEP))
    with pytest.raises(BadInput, match=r"config\.json"):
        ask(tmp_path, Recipe(Shape(layers=1)))
    with pytest.raises(BadInput, match="one step takes"):
        ask(teacher, Recipe(Shape(layers=1), windows=4000, window_tokens=32))
    with pytest.raises(BadInput, match="above 0"):
        Recipe(Shape(), share=0)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((teacher / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    shutil.copy(teacher / "tokenizer.json", broken)
    with pytest.raises(BadFile, match="cannot be loaded"):
        ask(broken, Recipe(Shape(layers=1), **STEP))
    tensors = load_file(teacher / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadFile, match=r"up_proj\.weight` is not in its weights"):
        ask(broken, Recipe(Shape(layers=1), **STEP))
    config = json.loads((teacher / "config.json").read_text()) | {
        "hidden_size": 1 << 16,
        "intermediate_size": 1 << 20,
    }
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 99}))
    with pytest.raises(BadInput, match="are free"):
        ask(broken, Recipe(Shape(layers=1), **STEP))
    with pytest.raises(BadInput, match="teacher reads 512 tokens"):
        ask(teacher, Recipe(windows=1, window_tokens=513))
    (tmp_path / "out" / "alone").mkdir(parents=True)
    with pytest.raises(BadInput, match="is no student"):
        ask(teacher, Recipe(Shape(layers=1), **STEP))
