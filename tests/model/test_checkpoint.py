"""Checkpoints of transformers: what they hold, to the byte, and how bad ones are refused."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest

from tests.model.checkpoint_files import (
    LLAMA_CONFIG,
    Tensors,
    llama_tensors,
    write_checkpoint_of,
    write_recorded,
    write_safetensors,
    write_shards,
)
from weigh.errors import BadFile, BadInput, NotSupported
from weigh.model.breakdown import kv_bytes_per_token
from weigh.model.checkpoint import read_checkpoint
from weigh.model.config import read_config, spec_from_config
from weigh.model.resolve import resolve
from weigh.model.safetensors import DTYPE_BITS
from weigh.model.spec import MixerKind, ModelSpec
from weigh.model.stored_types import StoredType

PARAMETERS = 2 * 300 * 64 + 64 + 2 * (4 * 64 * 64 - 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64)


def bytes_of(tensors: Tensors) -> int:
    return sum(prod(shape) * DTYPE_BITS[dtype] // 8 for dtype, shape in tensors.values())


def shapes_of(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    return {group.name: group.shape for group in spec.tensors}


def test_a_folder_is_read_to_the_byte_in_ggufs_words(tmp_path: Path) -> None:
    spec = read_checkpoint(write_checkpoint_of(tmp_path / "Tiny-Llama", llama_tensors(), LLAMA_CONFIG))
    assert (spec.name, spec.format, spec.basis, spec.quantization) == (
        "Tiny-Llama",
        "safetensors",
        "file",
        "BF16",
    )
    assert spec.parameters == PARAMETERS
    assert spec.tensor_bytes == 2 * PARAMETERS == bytes_of(llama_tensors())
    assert spec.file_bytes == (tmp_path / "Tiny-Llama" / "model.safetensors").stat().st_size
    assert spec.file == tmp_path / "Tiny-Llama"
    assert spec.contradictions == ()
    described = read_config(tmp_path / "Tiny-Llama")
    assert shapes_of(spec) == shapes_of(described)
    assert spec.mixers == described.mixers


def test_a_single_file_brings_the_config_beside_it(tmp_path: Path) -> None:
    folder = write_checkpoint_of(tmp_path / "m", llama_tensors(), LLAMA_CONFIG)
    assert read_checkpoint(folder / "model.safetensors").tensor_bytes == 2 * PARAMETERS


def test_shards_are_one_model(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", llama_tensors(), LLAMA_CONFIG, 3, total_size=2 * PARAMETERS)
    spec = read_checkpoint(folder)
    assert spec.tensor_bytes == 2 * PARAMETERS
    assert spec.file_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert spec.contradictions == ()


def test_shards_without_index_are_found_by_name(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", llama_tensors(), LLAMA_CONFIG)
    (folder / "model.safetensors.index.json").unlink()
    assert read_checkpoint(folder).tensor_bytes == 2 * PARAMETERS
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadFile, match="1 of its 2 files are missing, first `model-00002-of-00002"):
        read_checkpoint(folder)


def test_experts_are_stacked(tmp_path: Path) -> None:
    """Mixtral names them w1, w2, w3; four of them in one layer."""
    tensors = llama_tensors(1)
    for role in ("gate", "up", "down"):
        del tensors[f"model.layers.0.mlp.{role}_proj.weight"]
    moe = "model.layers.0.block_sparse_moe"
    tensors[f"{moe}.gate.weight"] = ("BF16", (4, 64))
    for expert in range(4):
        for name, shape in (("w1", (128, 64)), ("w2", (64, 128)), ("w3", (128, 64))):
            tensors[f"{moe}.experts.{expert}.{name}.weight"] = ("BF16", shape)
    config = LLAMA_CONFIG | {
        "model_type": "mixtral",
        "num_hidden_layers": 1,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    spec = read_checkpoint(write_checkpoint_of(tmp_path / "m", tensors, config))
    assert shapes_of(spec)["blk.{}.ffn_down_exps.weight"] == (128, 64, 4)
    assert spec.parameters - spec.active_parameters == 2 * 3 * 128 * 64
    assert spec.tensor_bytes == bytes_of(tensors)


def test_a_matrix_that_gguf_splits_is_split(tmp_path: Path) -> None:
    """MLA's second expansion: heads x (plain key + value) rows, 32 columns."""
    attention = "model.layers.0.self_attn"
    tensors = {n: t for n, t in llama_tensors(1).items() if "self_attn" not in n} | {
        f"{attention}.q_proj.weight": ("BF16", (4 * 24, 64)),
        f"{attention}.kv_a_proj_with_mqa.weight": ("BF16", (32 + 8, 64)),
        f"{attention}.kv_a_layernorm.weight": ("BF16", (32,)),
        f"{attention}.kv_b_proj.weight": ("BF16", (4 * (16 + 16), 32)),
        f"{attention}.o_proj.weight": ("BF16", (64, 64)),
    }
    mla = {"kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = LLAMA_CONFIG | mla | experts | {"model_type": "deepseek_v2", "num_hidden_layers": 1}
    spec = read_checkpoint(write_checkpoint_of(tmp_path / "m", tensors, config | {"num_key_value_heads": 4}))
    assert shapes_of(spec)["blk.{}.attn_k_b.weight"] == (16, 32, 4)
    assert shapes_of(spec)["blk.{}.attn_v_b.weight"] == (32, 16, 4)
    assert spec.tensor_bytes == bytes_of(tensors)
    assert {m.kind for m in spec.mixers} == {MixerKind.LATENT}


def test_what_only_images_and_further_tokens_need_lies_beside(tmp_path: Path) -> None:
    beside = {
        "vision_tower.encoder.layers.0.mlp.fc1.weight": ("BF16", (96, 32)),
        "multi_modal_projector.linear_1.weight": ("BF16", (64, 32)),
        "model.layers.2.eh_proj.weight": ("BF16", (64, 128)),
    }
    inner = {f"language_model.{name}": tensor for name, tensor in llama_tensors().items()}
    outer = {"model_type": "llama", "text_config": LLAMA_CONFIG, "vision_config": {}}
    spec = read_checkpoint(write_checkpoint_of(tmp_path / "m", inner | beside, outer))
    assert {group.name for group in spec.beside} == {
        "v.vision_tower.encoder.layers.{}.mlp.fc1.weight",
        "mm.multi_modal_projector.linear_1.weight",
        "mtp.model.layers.{}.eh_proj.weight",
    }
    assert sum(group.total_bytes for group in spec.beside) == bytes_of(beside)
    assert spec.tensor_bytes == 2 * PARAMETERS


def test_a_stored_copy_of_tied_embeddings_counts_as_no_parameter(tmp_path: Path) -> None:
    config = LLAMA_CONFIG | {"tie_word_embeddings": True}
    spec = read_checkpoint(write_checkpoint_of(tmp_path / "m", llama_tensors(), config))
    assert spec.tied_embeddings
    assert spec.parameters == PARAMETERS - 300 * 64
    assert [group.name for group in spec.beside] == ["output.weight"]
    assert "the output matrix is stored although it is the token embedding" in spec.notes


@pytest.mark.parametrize(
    ("recorded", "quantization", "kind", "q_bytes"),
    [
        # the query matrix is 256 x 256: 65,536 weights
        # 4 bits, float32 for each 64, 16 values, 80 bytes of JSON
        ("llama-nf4", "NF4", StoredType.NF4, 32768 + 1024 * 4 + 64 + 80),
        # 4 bits; two groups of 128: float16 scales, zeros of 4 bits; the group of each input in int32
        ("llama-gptq-int4", "GPTQ-INT4", StoredType.INT4, 32768 + 2 * 256 * 2 + 2 * 256 // 2 + 256 * 4),
        # the same without groups
        ("qwen3-moe-awq", "AWQ-INT4", StoredType.INT4, 32768 + 2 * 256 * 2 + 2 * 256 // 2),
        # bfloat16 for each 128 x 128
        ("qwen3-moe-fp8", "FP8", StoredType.FP8_E4M3, 65536 + 4 * 2),
        # 4 bits, FP8 for each 16, one float32
        ("llama-nvfp4", "NVFP4", StoredType.FP4, 32768 + 65536 // 16 + 4),
    ],
)
def test_what_real_quantizers_wrote_is_understood(
    tmp_path: Path, recorded: str, quantization: str, kind: StoredType, q_bytes: int
) -> None:
    """Written by bitsandbytes 0.50.2, AutoRound 0.15.1 and llm-compressor 0.14.0 with random weights."""
    folder = write_recorded(tmp_path / "m", recorded)
    spec = read_checkpoint(folder)
    query = next(group for group in spec.tensors if group.name == "blk.{}.attn_q.weight")
    assert (query.shape, query.type, query.tensor_bytes) == ((256, 256), kind, q_bytes)
    assert (spec.quantization, spec.contradictions) == (quantization, ())
    described = read_config(folder)
    assert shapes_of(spec) == shapes_of(described)
    assert spec.parameters == described.parameters
    assert spec.file_bytes is not None
    header_bytes = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little") + 8
    assert spec.tensor_bytes == spec.file_bytes - header_bytes


def test_gpt_oss_experts_are_mxfp4(tmp_path: Path) -> None:
    """Blocks of 16 bytes for 32 weights and a byte of scale; gate and up in one tensor that GGUF splits."""
    mlp = "model.layers.0.mlp"
    tensors = llama_tensors(1)
    for role in ("gate", "up", "down"):
        del tensors[f"{mlp}.{role}_proj.weight"]
    tensors |= {
        f"{mlp}.router.weight": ("BF16", (4, 64)),
        f"{mlp}.router.bias": ("BF16", (4,)),
        f"{mlp}.experts.gate_up_proj_blocks": ("U8", (4, 256, 2, 16)),
        f"{mlp}.experts.gate_up_proj_scales": ("U8", (4, 256, 2)),
        f"{mlp}.experts.gate_up_proj_bias": ("BF16", (4, 256)),
        f"{mlp}.experts.down_proj_blocks": ("U8", (4, 64, 4, 16)),
        f"{mlp}.experts.down_proj_scales": ("U8", (4, 64, 4)),
        f"{mlp}.experts.down_proj_bias": ("BF16", (4, 64)),
        "model.layers.0.self_attn.sinks": ("BF16", (4,)),
    }
    config = LLAMA_CONFIG | {
        "model_type": "gpt_oss",
        "num_hidden_layers": 1,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "quantization_config": {"quant_method": "mxfp4"},
    }
    spec = read_checkpoint(write_checkpoint_of(tmp_path / "m", tensors, config))
    gate = next(group for group in spec.tensors if group.name == "blk.{}.ffn_gate_exps.weight")
    assert (gate.shape, gate.type) == ((64, 128, 4), StoredType.FP4)
    assert gate.tensor_bytes == 4 * 128 * 2 * 17
    assert spec.quantization == "MXFP4"
    assert spec.tensor_bytes == bytes_of(tensors)


def test_mlx_weights_are_told_by_their_groups(tmp_path: Path) -> None:
    """Eight 4-bit weights in a uint32, a bfloat16 scale and bias for each 64."""
    tensors = llama_tensors()
    for name, (_, shape) in list(tensors.items()):
        if len(shape) == 2:
            base = name.removesuffix(".weight")
            tensors[name] = ("U32", (shape[0], shape[1] // 8))
            tensors[f"{base}.scales"] = tensors[f"{base}.biases"] = ("BF16", (shape[0], shape[1] // 64))
    config = LLAMA_CONFIG | {"quantization": {"group_size": 64, "bits": 4}}
    spec = read_checkpoint(write_checkpoint_of(tmp_path / "m", tensors, config))
    assert (spec.quantization, spec.parameters) == ("MLX-INT4", PARAMETERS)
    assert spec.tensor_bytes == bytes_of(tensors)


def test_an_unknown_architecture_is_read_from_its_weights(tmp_path: Path) -> None:
    """The cache is what the key and value matrices make: 2 layers x 2 x 32 values of 2 bytes."""
    folder = write_checkpoint_of(tmp_path / "m", llama_tensors(), LLAMA_CONFIG | {"model_type": "new_thing"})
    spec = read_checkpoint(folder)
    assert (spec.architecture, spec.layers, spec.hidden, spec.vocab) == ("new_thing", 2, 64, 300)
    assert spec.parameters == PARAMETERS
    assert kv_bytes_per_token(spec) == 2 * 2 * 32 * 2
    assert "architecture `new_thing` is not known to weigh yet" in spec.notes[0]


def test_a_file_without_config_says_what_is_missing(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "tiny.safetensors", llama_tensors(dtype="F16"))
    spec = read_checkpoint(path)
    assert (spec.name, spec.parameters, spec.quantization, spec.context_train) == (
        "tiny",
        PARAMETERS,
        "F16",
        0,
    )
    assert kv_bytes_per_token(spec) == 2 * 2 * 32 * 2
    assert "there is no config.json" in spec.notes[0]


@pytest.mark.parametrize(
    ("config", "without", "problem"),
    [
        ({"model_type": "new_thing", "kv_lora_rank": 512}, "", "`new_thing` is not known to weigh yet"),
        ({"model_type": "new_thing"}, "k_proj", "`new_thing` is not known to weigh yet"),
        (None, "layers", "there is no config.json"),
    ],
)
def test_what_cannot_be_made_out_is_not_guessed(
    tmp_path: Path, config: dict[str, object] | None, without: str, problem: str
) -> None:
    tensors = {n: t for n, t in llama_tensors().items() if not without or without not in n}
    full = None if config is None else LLAMA_CONFIG | config
    with pytest.raises(NotSupported, match=problem) as caught:
        read_checkpoint(write_checkpoint_of(tmp_path / "m", tensors, full))
    assert "parameters in its files" in caught.value.message


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(NotSupported, match=r"only pickled weights \(`pytorch_model.bin`\)"):
        read_checkpoint(tmp_path)


def test_beside_pickles_the_config_still_tells_the_shapes(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    spec = resolve(str(tmp_path))
    assert (spec.basis, spec.parameters) == ("config", PARAMETERS)
    assert (
        spec.notes[-1] == "its weights are in a format that weigh does not open: shapes from its config.json"
    )
    (tmp_path / "config.json").unlink()
    with pytest.raises(NotSupported, match="only pickled weights"):
        resolve(str(tmp_path))


def test_a_folder_and_a_file_are_taken_by_their_paths(tmp_path: Path) -> None:
    folder = write_checkpoint_of(tmp_path / "m", llama_tensors(), LLAMA_CONFIG)
    for path in (folder, folder / "model.safetensors"):
        assert resolve(str(path)).format == "safetensors"
    (folder / "config.json").unlink()
    assert "there is no config.json" in resolve(str(folder)).notes[0]


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    lora = {"base_model.model.layers.0.q_proj.lora_A.weight": ("F32", (8, 64))}
    write_safetensors(tmp_path / "adapter_model.safetensors", lora)
    with pytest.raises(NotSupported, match=r"is a LORA adapter of `meta-llama/Llama-3\.1-8B`"):
        read_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(NotSupported, match="LoRA adapter"):
        read_checkpoint(tmp_path / "adapter_model.safetensors")


# --- files that mean harm ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("../m.safetensors", "/etc/m.safetensors", "a/m.safetensors", "a\\m.safetensors", "C:m.safetensors"),
        *(".m.safetensors", "m.bin", "m\n.safetensors", "x" * 300 + ".safetensors", 7, None),
    ],
)
def test_an_index_names_plain_files_beside_it_only(tmp_path: Path, name: object) -> None:
    folder = write_shards(tmp_path / "m", llama_tensors(), LLAMA_CONFIG)
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadFile, match="which is no safetensors file beside it") as caught:
        read_checkpoint(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "index", ['{"weight_map":{}}', "{}", '{"weight_map":[]}', "[]", "{", '{"a":1,"a":2}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: str) -> None:
    folder = write_shards(tmp_path / "m", llama_tensors(), LLAMA_CONFIG)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BadFile, match=r"index\.json"):
        read_checkpoint(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", llama_tensors(), LLAMA_CONFIG, 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BadFile, match="1 of its 3 files are missing, first `model-00002-of-00003"):
        read_checkpoint(folder)


def test_a_tensor_is_in_one_file_only(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", llama_tensors(), LLAMA_CONFIG)
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(BadInput, match=r"tensor `model\.embed_tokens\.weight` is in two of its files"):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint_of(tmp_path / "m", llama_tensors(), LLAMA_CONFIG)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(BadFile, match="is a link that leads out of its folder"):
        read_checkpoint(folder)


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    write_checkpoint_of(snapshot, llama_tensors(), LLAMA_CONFIG)
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.stem)
        path.symlink_to(f"../../blobs/{path.stem}")
    assert read_checkpoint(snapshot).tensor_bytes == 2 * PARAMETERS


def test_several_models_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", llama_tensors())
    with pytest.raises(BadInput, match=r"holds 2 safetensors files and no index: `a.safetensors`"):
        read_checkpoint(tmp_path)


# --- configs as transformers 5 writes them -------------------------------------------------------------


def test_layers_of_nemotron_h_may_be_words() -> None:
    mixer = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1}
    common = {k: v for k, v in LLAMA_CONFIG.items() if k != "num_hidden_layers"} | mixer
    common |= {"model_type": "nemotron_h"}
    words = spec_from_config("m", common | {"layers_block_type": ["linear_attention", "attention", "mlp"]})
    letters = spec_from_config("m", common | {"num_hidden_layers": 3, "hybrid_override_pattern": "M*-"})
    assert words == letters


def test_attention_of_granite_4_may_be_full_attention() -> None:
    mixer = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "shared_intermediate_size": 128}
    common = LLAMA_CONFIG | mixer | {"model_type": "granitemoehybrid"}
    new = spec_from_config("m", common | {"layer_types": ["linear_attention", "full_attention"]})
    old = spec_from_config("m", common | {"layer_types": ["mamba", "attention"]})
    assert new == old
    assert {mixer.kind for mixer in new.mixers} == {MixerKind.RECURRENT, MixerKind.FULL}
