"""Folders rounded by weigh, held against the package that defines the format, and loaded by transformers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weigh.cli import main
from weigh.errors import BadFile, BadInput, NoSpace, NotSupported
from weigh.model.checkpoint import read_checkpoint
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.safetensors import read_header
from weigh.model.source import LocalFile
from weigh.model.stored_quantization import checkpoint_bytes, stored
from weigh.shrink import compressed
from weigh.shrink.compressed import ROUNDINGS, rounded, rounding_named, write

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tensors_of = pytest.importorskip("compressed_tensors.quantization")

IDS = [[5, 9, 200, 31, 7, 7, 120, 64, 3, 250, 18, 90]]
SMALL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=32),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SMALL, head_dim=32, query_pre_attn_scalar=32),
    "phi3": lambda: transformers.Phi3Config(**SMALL, pad_token_id=0),
    "granite": lambda: transformers.GraniteConfig(**SMALL),
}


def save(folder: Path, family: str = "llama", dtype: Any = None, **config: Any) -> Any:
    torch.manual_seed(0)
    made = CONFIGS[family]()
    made.update(config)
    model = transformers.AutoModelForCausalLM.from_config(made).to(dtype or torch.bfloat16).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def load(folder: Path) -> Any:
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(found.values())  # nothing is missing, left over or of another shape
    return model.eval()


def divergence(before: Any, after: Any) -> float:
    with torch.inference_mode():
        was, now = (model(torch.tensor(IDS)).logits.log_softmax(-1) for model in (before, after))
    return float((was.exp() * (was - now)).sum(-1).mean())


def tensors_in(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_the_package_that_defines_the_format_makes_the_same_bits(
    name: str, source: Path, tmp_path: Path
) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    write(read_checkpoint(source), ROUNDINGS[name], tmp_path / "made")
    before, made = tensors_in(source), tensors_in(tmp_path / "made")
    said = json.loads((tmp_path / "made" / "config.json").read_text())["quantization_config"]
    config = tensors_of.QuantizationConfig.model_validate(said)
    scheme = config.config_groups["group_0"]
    weight = before["model.layers.1.mlp.down_proj.weight"].float()
    ours = {
        key.removeprefix("model.layers.1.mlp.down_proj."): tensor
        for key, tensor in made.items()
        if key.startswith("model.layers.1.mlp.down_proj.")
    }
    scale = ours["weight_scale"].float()
    theirs = BaseCompressor.get_value_from_registry(said["format"]).compress(
        {"weight": weight, "weight_scale": scale}, scheme
    )
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert torch.equal(tensor.float(), ours[key].float()), key
    if not ROUNDINGS[name].grouped:
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        widest, _ = calculate_qparams(low, high, scheme.weights)
        assert torch.equal(widest.bfloat16(), ours["weight_scale"])
    kept = before.keys() & made.keys()
    assert {key for key in kept if "_proj" not in key} == {key for key in before if "_proj" not in key}
    assert all(torch.equal(before[key], made[key]) for key in kept if "_proj" not in key)


@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_loads_what_is_made_and_it_says_nearly_the_same(family: str, tmp_path: Path) -> None:
    model = save(tmp_path / "model", family, torch.float32)
    nats = {}
    for name, rounding in ROUNDINGS.items():
        write(read_checkpoint(tmp_path / "model"), rounding, tmp_path / name)
        nats[name] = divergence(model, load(tmp_path / name))
    assert 0 < nats["W8A16"] < nats["W8A8"] < nats["FP8-DYNAMIC"] < nats["W4A16"] < 0.2


@pytest.mark.parametrize("name", ROUNDINGS)
def test_what_comes_out_is_as_large_as_was_foretold(name: str, source: Path, tmp_path: Path) -> None:
    write(read_checkpoint(source), ROUNDINGS[name], tmp_path / "made")
    made = read_checkpoint(tmp_path / "made")
    config = json.loads((source / "config.json").read_text())
    foretold = stored(spec_from_config("small", config), name)
    assert made.tensor_bytes == foretold.tensor_bytes
    assert made.bits_per_weight == foretold.bits_per_weight
    assert made.file_bytes == pytest.approx(checkpoint_bytes(foretold), rel=0.01)
    assert not made.contradictions
    assert (tmp_path / "made" / "tokenizer_config.json").read_text() == "{}"


def test_scales_are_chosen_for_the_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    rounding = ROUNDINGS["W4A16"]

    def error() -> float:
        packed, scales = rounded(weights, rounding, 128, GgmlType.BF16)
        by = (scales.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        numbers = np.stack([packed & 15, packed >> 4], axis=2).reshape(64, 256).astype(np.float32) - 8
        return float(np.square(numbers * by.repeat(128, axis=1) - weights).mean())

    chosen = error()
    monkeypatch.setattr(compressed, "_SHARES", (1.0,))
    assert chosen < 0.9 * error()


def test_rows_that_are_no_whole_groups_have_smaller_ones_or_one_scale(tmp_path: Path) -> None:
    for width, group in ((96, 32), (64, 64), (40, None)):
        folder, out = tmp_path / str(width), tmp_path / f"{width}-made"
        model = save(folder, hidden_size=width, intermediate_size=2 * width, head_dim=width // 4)
        write(read_checkpoint(folder), ROUNDINGS["W4A16"], out)
        said = json.loads((out / "config.json").read_text())["quantization_config"]
        weights = said["config_groups"]["group_0"]["weights"]
        assert (weights["group_size"], weights["strategy"]) == (group, "group" if group else "channel")
        assert 0 < divergence(model.float(), load(out)) < 0.1


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    numbers = np.concatenate(
        [
            np.random.default_rng(0).standard_normal(50_000) * 30,
            np.linspace(-0.05, 0.05, 20_001),
            [448, -448, 0],
        ]
    ).astype(np.float32)
    theirs = torch.from_numpy(numbers).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(compressed._e4m3(numbers), theirs)
    wide = np.array([1e-40, 3e38, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875], dtype=np.float32)
    theirs = torch.from_numpy(wide).bfloat16().float().numpy()
    ours = (compressed._bfloat16(wide).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_slabs_do_not_show(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(read_checkpoint(source), ROUNDINGS["W4A16"], tmp_path / "a")
    monkeypatch.setattr(compressed, "_SLAB_WEIGHTS", 5 * 128)
    monkeypatch.setattr(compressed, "_CHUNK_BYTES", 1000)
    write(read_checkpoint(source), ROUNDINGS["W4A16"], tmp_path / "b")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == other


def test_a_folder_of_many_files_stays_one(tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    model.save_pretrained(tmp_path / "many", max_shard_size="300KB")
    write(read_checkpoint(tmp_path / "many"), ROUNDINGS["W4A16"], tmp_path / "made")
    names = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(names) > 2
    assert sorted(path.name for path in (tmp_path / "made").glob("*.safetensors")) == names
    assert divergence(model.float(), load(tmp_path / "made")) < 0.1
    for name in names:  # every number lies at a multiple of its width, as mapped files are read
        with LocalFile(tmp_path / "made" / name) as file:
            header = read_header(file)
        widths = {"I64": 8, "I32": 4, "BF16": 2}
        assert not any((header.header_bytes + t.start) % widths[t.dtype] for t in header.tensors)


@pytest.mark.parametrize("left", ["Ctrl-C", "a full disk", "a weight that is none"])
def test_nothing_is_left_of_what_was_not_finished(
    left: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_checkpoint(source)

    def stop(done: int, of: int) -> None:
        if left == "Ctrl-C" and done > of // 2:
            raise KeyboardInterrupt
        if left == "a full disk" and done > of // 2:
            raise OSError(28, "No space left on device")

    if left == "a weight that is none":
        with LocalFile(source / "model.safetensors") as file:
            header = read_header(file)
        tensor = next(t for t in header.tensors if t.name == "model.layers.1.mlp.up_proj.weight")
        with (source / "model.safetensors").open("r+b") as damaged:
            damaged.seek(header.header_bytes + tensor.start + 10)
            damaged.write(b"\xc0\x7f")
    with pytest.raises((BadInput, NoSpace, KeyboardInterrupt)) as raised:
        write(spec, ROUNDINGS["W8A8"], tmp_path / "made", stop)
    words = {
        "Ctrl-C": "",
        "a full disk": "free",
        "a weight that is none": "`model.layers.1.mlp.up_proj.weight`",
    }
    assert isinstance(raised.value, KeyboardInterrupt) == (left == "Ctrl-C")
    assert words[left] in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_not_known_to_come_out_right_is_refused(source: Path, tmp_path: Path) -> None:
    spec = read_checkpoint(source)
    with pytest.raises(NotSupported, match="has experts"):
        write(replace(spec, experts=4), ROUNDINGS["W4A16"], tmp_path / "made")
    write(spec, ROUNDINGS["W4A16"], tmp_path / "made")
    with pytest.raises(BadInput, match=r"quantized already \(INT4\)"):
        write(read_checkpoint(tmp_path / "made"), ROUNDINGS["W8A8"], tmp_path / "again")
    with pytest.raises(NotSupported, match="folders in NF4 are not made"):
        rounding_named("nf4")
    assert rounding_named("int4") is ROUNDINGS["W4A16"]
    assert rounding_named("Q4_K_M") is rounding_named("bf16") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "model"]


def test_parts_that_see_are_refused(source: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(source / "model.safetensors")
    found["vision_tower.layers.0.self_attn.q_proj.weight"] = torch.zeros(128, 128)
    save_file(found, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotSupported, match="more than a text's part"):
        write(read_checkpoint(source), ROUNDINGS["W4A16"], tmp_path / "made")


def test_damaged_folders_are_told_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    (source / "secret.json").symlink_to("/etc/hostname")
    with pytest.raises(BadFile, match="leads out of its folder"):
        write(read_checkpoint(source), ROUNDINGS["W4A16"], tmp_path / "made")
    (source / "secret.json").unlink()
    (source / "config.json").rename(source / "other.json")
    with pytest.raises(BadInput):
        write(read_checkpoint(source), ROUNDINGS["W4A16"], tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_makes_a_folder_and_says_what_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder, text = tmp_path / "model", tmp_path / "text.py"
    save(folder)
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    text.write_text("a token for each letter, and four windows of them\n" * 30)
    words = ["shrink", "quantize", str(folder), "int4", "--text", str(text), "--threads", "1", "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["made"]["file"] == str(tmp_path / "model-W4A16")
    assert said["made"]["formats"]["blk.1.ffn_up.weight"] == "INT4"
    assert said["made"]["size_bytes"] < 0.6 * said["source"]["size_bytes"]
    assert 0 < said["divergence"]["kl"]["value"] < 0.2
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*words[:3], "w8a8", "--force"]) == 2
    assert "go with GGUF files" in capsys.readouterr().err


def test_a_gguf_file_does_not_become_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.shrink.models import gaussian_model

    path = gaussian_model(tmp_path / "model.gguf", num_hidden_layers=1)
    assert main(["shrink", "quantize", str(path), "W4A16"]) == 2
    assert "is no folder of safetensors files" in capsys.readouterr().err


def test_a_missing_package_is_told_before_anything_is_made(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from weigh.engines import packages

    there = packages.package_version
    monkeypatch.setattr(
        packages, "package_version", lambda name: None if name == "compressed_tensors" else there(name)
    )
    text = source.with_name("text")
    text.write_text("some text")
    assert main(["shrink", "quantize", str(source), "W4A16", "--text", str(text)]) != 0
    assert "`compressed-tensors` is not installed" in capsys.readouterr().err
    assert sorted(path.name for path in source.parent.iterdir()) == ["model", "text"]
