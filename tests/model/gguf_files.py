"""Builds GGUF files byte by byte, sound ones and broken ones, independently of weigh's own writer."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weigh.model.ggml_types import GgmlType

U32, I32, F32, BOOL, STRING, ARRAY, U16 = 4, 5, 6, 7, 8, 9, 2
_CODES = {
    0: "B",
    1: "b",
    U16: "H",
    3: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True)
class Typed:
    """A metadata value with its type said: a scalar, or an array when `items` are given."""

    kind: int
    value: object = None
    items: Sequence[object] | None = None


@dataclass(frozen=True)
class TensorInfo:
    name: str
    shape: tuple[int, ...]
    type_id: int = GgmlType.F32.id
    bytes: int = 0  # worked out when 0
    offset: int | None = None  # where it follows the one before, when None

    @property
    def data_bytes(self) -> int:
        if self.bytes:
            return self.bytes
        kind = next(t for t in GgmlType if t.id == self.type_id)
        elements = 1
        for n in self.shape:
            elements *= n
        return elements // kind.block_weights * kind.block_bytes


@dataclass(frozen=True)
class GgufFile:
    """What goes into a file; the counts may lie."""

    values: Mapping[str, object]
    tensors: Sequence[TensorInfo]
    version: int = 3
    order: str = "<"
    alignment: int = 32
    tensor_count: int | None = None
    pair_count: int | None = None
    extra: bytes = field(default=b"")  # after the metadata, before the tensors

    def header(self) -> bytes:
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.values) if self.pair_count is None else self.pair_count,
        )
        head = b"GGUF" + struct.pack(self.order + "IQQ", self.version, *counts)
        pairs = b"".join(self._string(key) + self._value(value) for key, value in self.values.items())
        return head + pairs + self.extra + self._infos()

    def data_start(self) -> int:
        return self._padded(len(self.header()))

    def data_bytes(self) -> int:
        """Up to the last tensor's last byte, without padding behind it."""
        stored = 0
        for tensor in self.tensors[:-1]:
            stored += self._padded(tensor.data_bytes)
        return stored + (self.tensors[-1].data_bytes if self.tensors else 0)

    def write(self, path: Path, *, size: int | None = None) -> Path:
        """The header and a hole for the weights; `size` cuts or stretches the file."""
        path.write_bytes(self.header())
        with path.open("r+b") as file:
            file.truncate(self.data_start() + self.data_bytes() if size is None else size)
        return path

    def _infos(self) -> bytes:
        infos, stored = b"", 0
        for t in self.tensors:
            shape = struct.pack(f"{self.order}I{len(t.shape)}Q", len(t.shape), *t.shape)
            offset = stored if t.offset is None else t.offset
            infos += self._string(t.name) + shape + struct.pack(self.order + "IQ", t.type_id, offset)
            stored += self._padded(t.data_bytes)
        return infos

    def _padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment

    def _string(self, text: str | bytes) -> bytes:
        raw = text.encode() if isinstance(text, str) else text
        return struct.pack(self.order + "Q", len(raw)) + raw

    def _value(self, value: object) -> bytes:
        typed = value if isinstance(value, Typed) else _typed(value)
        if typed.items is None:
            return struct.pack(self.order + "I", typed.kind) + self._scalar(typed.kind, typed.value)
        head = struct.pack(self.order + "IIQ", ARRAY, typed.kind, len(typed.items))
        return head + b"".join(self._scalar(typed.kind, item) for item in typed.items)

    def _scalar(self, kind: int, value: object) -> bytes:
        if isinstance(value, bytes) and kind != STRING:
            return value  # raw, for what no sound file holds
        if kind == STRING:
            assert isinstance(value, str | bytes)
            return self._string(value)
        return struct.pack(self.order + _CODES[kind], value)


def _typed(value: object) -> Typed:
    if isinstance(value, bool):
        return Typed(BOOL, value)
    if isinstance(value, str):
        return Typed(STRING, value)
    return Typed(F32, value) if isinstance(value, float) else Typed(U32, value)


def strings(*items: str | bytes) -> Typed:
    return Typed(STRING, items=items)


def numbers(*items: int) -> Typed:
    return Typed(I32, items=items)


def llama_values(layers: int = 2, **more: object) -> dict[str, object]:
    """Metadata of a llama with 4 query heads and 2 KV heads of 64; keys of `more` have `__` for a dot."""
    values: dict[str, object] = {
        "general.architecture": "llama",
        "general.name": "Tiny Llama",
        "llama.block_count": layers,
        "llama.context_length": 4096,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 500000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": strings(*(f"t{i}" for i in range(300))),
        "tokenizer.ggml.merges": strings("a b", "c d"),
        "tokenizer.ggml.bos_token_id": 1,
    }
    return values | {key.replace("__", "."): value for key, value in more.items()}


def llama_tensors(layers: int = 2, kind: GgmlType = GgmlType.Q4_K) -> list[TensorInfo]:
    """Its tensors; the embedding is Q6_K, and the values of layer 0 are too, as in a mix."""
    tensors = [TensorInfo("token_embd.weight", (256, 300), GgmlType.Q6_K.id)]
    for layer in range(layers):
        value = GgmlType.Q6_K if layer == 0 else kind
        tensors += [
            TensorInfo(f"blk.{layer}.attn_norm.weight", (256,)),
            TensorInfo(f"blk.{layer}.attn_q.weight", (256, 256), kind.id),
            TensorInfo(f"blk.{layer}.attn_k.weight", (256, 128), kind.id),
            TensorInfo(f"blk.{layer}.attn_v.weight", (256, 128), value.id),
            TensorInfo(f"blk.{layer}.attn_output.weight", (256, 256), kind.id),
            TensorInfo(f"blk.{layer}.ffn_norm.weight", (256,)),
            TensorInfo(f"blk.{layer}.ffn_gate.weight", (256, 512), kind.id),
            TensorInfo(f"blk.{layer}.ffn_up.weight", (256, 512), kind.id),
            TensorInfo(f"blk.{layer}.ffn_down.weight", (512, 256), kind.id),
        ]
    return [*tensors, TensorInfo("output_norm.weight", (256,))]


def llama_file(**more: object) -> GgufFile:
    return GgufFile(llama_values(**more), llama_tensors())
