"""Checkpoints of true shapes with random weights, which transformers and vLLM load like the real thing.

The `config.json` is the model's own; the tensors are those that its shapes say, under the names that
transformers gives them in the common dense and mixture families.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from weigh import units
from weigh.errors import NoSpace, NotSupported
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec, TensorGroup
from weigh.model.stored_quantization import stored

INDEX_NAME = "model.safetensors.index.json"

_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    **{f"attn_{role}": f"self_attn.{role}_proj" for role in ("q", "k", "v", "qkv")},
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    **{f"ffn_{role}": f"mlp.{role}_proj" for role in ("gate", "up", "down")},
    **{f"ffn_{role}_exps": f"mlp.experts.*.{role}_proj" for role in ("gate", "up", "down")},
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
_BALANCE = ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias")
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.*.w1",
    "ffn_down_exps": "block_sparse_moe.experts.*.w2",
    "ffn_up_exps": "block_sparse_moe.experts.*.w3",
}
_OWN_NAMES: Mapping[str, Mapping[str, str]] = {  # by `model_type`
    "gemma2": {"ffn_norm": "pre_feedforward_layernorm"},
    "gemma3_text": {"ffn_norm": "pre_feedforward_layernorm"},
    "glm4": {
        "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
        "ffn_up": "mlp.gate_up_proj",
    },
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "mixtral": _MIXTRAL,
}
FAMILIES = frozenset(
    (
        *(
            "llama",
            "mistral",
            "ministral3",
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "phi3",
            "glm4",
        ),
        *("olmo2", "olmo3", "granite", "smollm3", "seed_oss", "ernie4_5", "exaone4"),
        *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe", "dots1", "deepseek_v2", "deepseek_v3"),
    )
)
"""The `model_type`s whose checkpoints transformers was seen to load (benchmarks/checkpoints.py)."""

_DTYPES = {GgmlType.BF16: "BF16", GgmlType.F16: "F16", GgmlType.F32: "F32"}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of a file; `shape` has the rows first."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.type.block_bytes


def write_checkpoint(
    folder: Path,
    config: Mapping[str, object],
    *,
    scheme: str = "BF16",
    weights: bool = True,
    shard_bytes: int = 5_000_000_000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a config and its model into `folder`, which is made, and return the bytes of its tensors.

    Args:
        scheme: BF16, F16 or F32.
        weights: False leaves holes where the weights would be: the files take a few KiB on disk.
        shard_bytes: most bytes of tensors in one file, one tensor at least.
        progress: called with the bytes written and the bytes in all.

    Raises:
        BadInput: the config describes no model.
        NoSpace: the disk is too small.
        NotSupported: a family whose names are not known here.
    """
    spec = stored(spec_from_config(folder.name, config), scheme)
    tensors = list(_tensors(spec, str(config.get("model_type"))))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shards = list(_shards(tensors, shard_bytes))
    names = [_file_name(number, len(shards)) for number in range(1, len(shards) + 1)]
    total_bytes = sum(tensor.bytes for tensor in tensors)
    if weights:
        _require_space(folder, total_bytes)
    written = 0
    for name, shard in zip(names, shards, strict=True):
        for size in _write_file(folder / name, shard, seed if weights else None):
            written += size
            if progress is not None:
                progress(written, total_bytes)
    if len(shards) > 1:
        places = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": total_bytes}, "weight_map": places}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=1))
    return total_bytes


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _shards(tensors: list[_Tensor], most_bytes: int) -> Iterator[list[_Tensor]]:
    shard: list[_Tensor] = []
    held = 0
    for tensor in tensors:
        if shard and held + tensor.bytes > most_bytes:
            yield shard
            shard, held = [], 0
        shard.append(tensor)
        held += tensor.bytes
    yield shard


# --- names ---------------------------------------------------------------------------------------------


def _tensors(spec: ModelSpec, model_type: str) -> Iterator[_Tensor]:
    if model_type not in FAMILIES:
        raise NotSupported(f"{spec.name}: checkpoints of `{model_type}` cannot be written yet")
    names = {**_INSIDE, **_shared_names(model_type), **_OWN_NAMES.get(model_type, {})}
    expansions: dict[int, TensorGroup] = {}  # MLA's keys, until their values come
    for group in spec.tensors:
        for layer in group.layers or (None,):
            if group.name == "blk.{}.attn_k_b.weight" and layer is not None:
                expansions[layer] = group
            elif group.name == "blk.{}.attn_v_b.weight" and layer is not None:
                yield _expansion(layer, expansions.pop(layer), group)
            else:
                yield from _named(group, layer, names)


def _shared_names(model_type: str) -> dict[str, str]:
    shared = "shared_expert" if model_type == "qwen2_moe" else "shared_experts"
    return {f"ffn_{role}_shexp": f"mlp.{shared}.{role}_proj" for role in ("gate", "up", "down")}


def _expansion(layer: int, keys: TensorGroup, values: TensorGroup) -> _Tensor:
    plain, latent, heads = keys.shape
    name = f"model.layers.{layer}.self_attn.kv_b_proj.weight"
    return _Tensor(name, (heads * (plain + values.shape[1]), latent), _plain(keys))


def _named(group: TensorGroup, layer: int | None, names: Mapping[str, str]) -> Iterator[_Tensor]:
    role, ending = group.name.removeprefix("blk.{}.").rsplit(".", 1)
    if layer is None:
        yield _Tensor(f"{_OUTSIDE[role]}.{ending}", group.shape[::-1], _plain(group))
        return
    start = f"model.layers.{layer}."
    if f"{role}.{ending}" == _BALANCE[0]:
        yield _Tensor(start + _BALANCE[1], group.shape, _plain(group))
        return
    name = f"{start}{names[role]}.{ending}"
    shape = group.shape[1::-1]
    if role == "ffn_gate_inp_shexp":
        shape = (1, *group.shape)
    for expert in range(group.experts) if "*" in name else (0,):
        yield _Tensor(name.replace("*", str(expert)), shape, _plain(group))


def _plain(group: TensorGroup) -> GgmlType:
    if not isinstance(group.type, GgmlType) or group.type not in _DTYPES:
        raise NotSupported(f"tensors of {group.type.name} cannot be written yet")
    return group.type


# --- files ---------------------------------------------------------------------------------------------

_POOL = 1 << 16  # weights that are repeated: speed and memory do not depend on what they say


def _require_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise NoSpace(
            f"{folder} has {units.gib(free_bytes)} free; a checkpoint of {units.gib(needed_bytes)} does not fit"
        )


def _write_file(path: Path, tensors: list[_Tensor], seed: int | None) -> Iterator[int]:
    """Write one file, and tell the bytes of each tensor that is done."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.bytes
        shape = list(tensor.shape)
        entries[tensor.name] = {"dtype": _DTYPES[tensor.type], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors if seed is not None else ():
            for chunk in _chunks(tensor, _pool(tensor.type, seed or 0)):
                file.write(chunk)
            yield tensor.bytes
        file.truncate(8 + len(text) + end)


@lru_cache(maxsize=4)
def _pool(kind: GgmlType, seed: int) -> bytes:
    """Weights from -0.04 to 0.04, as trained ones are."""
    choose = random.Random(seed)
    return b"".join(_number(choose.uniform(-0.04, 0.04), kind) for _ in range(_POOL))


def _number(value: float, kind: GgmlType) -> bytes:
    if kind is GgmlType.F16:
        return struct.pack("<e", value)
    wide = struct.pack("<f", value)
    return wide[2:] if kind is GgmlType.BF16 else wide


def _chunks(tensor: _Tensor, pool: bytes) -> Iterator[bytes | memoryview]:
    """The bytes of one tensor: ones for a norm, else the pool over and over."""
    if "norm" in tensor.name and tensor.name.endswith(".weight"):
        yield _number(1.0, tensor.type) * prod(tensor.shape)
        return
    left = tensor.bytes
    while left > 0:
        yield memoryview(pool)[: min(left, len(pool))]
        left -= len(pool)
