"""Checkpoints for tests: headers of safetensors files, with a hole where the weights would be."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from weigh.model.safetensors import DTYPE_BITS

Tensors = Mapping[str, tuple[str, Sequence[int]]]
RECORDED = Path(__file__).parent / "data" / "checkpoints"

LLAMA_CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def llama_tensors(layers: int = 2, dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """64 wide, 4 heads of 16 that share 2, 128 wide inside: 36,992 weights a layer, 38,464 outside."""
    tensors = {
        "model.embed_tokens.weight": (300, 64),
        "model.norm.weight": (64,),
        "lm_head.weight": (300, 64),
    }
    for layer in range(layers):
        shapes = {
            "input_layernorm": (64,),
            "post_attention_layernorm": (64,),
            "self_attn.q_proj": (64, 64),
            "self_attn.k_proj": (32, 64),
            "self_attn.v_proj": (32, 64),
            "self_attn.o_proj": (64, 64),
            "mlp.gate_proj": (128, 64),
            "mlp.up_proj": (128, 64),
            "mlp.down_proj": (64, 128),
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    return {name: (dtype, shape) for name, shape in tensors.items()}


def header(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> dict[str, object]:
    """Tensors one after the other, as the library writes them."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + prod(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    return entries


def write_raw(path: Path, text: bytes, data_bytes: int, *, length: int | None = None) -> Path:
    """A file of this header, whatever it says, and so many bytes of data."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text) if length is None else length) + text)
        file.truncate(file.tell() + data_bytes)
    return path


def write_safetensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    data_bytes = sum(prod(shape) * DTYPE_BITS[dtype] // 8 for dtype, shape in tensors.values())
    return write_raw(path, json.dumps(header(tensors, metadata)).encode(), data_bytes)


def write_checkpoint_of(folder: Path, tensors: Tensors, config: Mapping[str, object] | None) -> Path:
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_shards(
    folder: Path, tensors: Tensors, config: Mapping[str, object], count: int = 2, **metadata: object
) -> Path:
    """The tensors dealt out over `count` files, and their index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    places = {tensor: names[i % count] for i, tensor in enumerate(tensors)}
    for name in names:
        write_safetensors(folder / name, {t: tensors[t] for t in tensors if places[t] == name})
    index = {"metadata": metadata, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_recorded(folder: Path, name: str) -> Path:
    """A checkpoint that a real quantizer wrote: its own header and config."""
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(recorded["config"]))
    end = max(e["data_offsets"][1] for n, e in recorded["header"].items() if n != "__metadata__")
    write_raw(folder / "model.safetensors", json.dumps(recorded["header"]).encode(), end)
    return folder
