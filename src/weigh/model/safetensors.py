"""Headers of safetensors files: which tensors lie where, without reading any.

A header is trusted in nothing: its length is bounded before it is read, and every tensor has to take the
bytes its shape and type need, one after the other, to the last byte of the file.

Format: https://huggingface.co/docs/safetensors; the rules as the Rust crate checks them
(`safetensors/src/tensor.rs`, `Metadata::validate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

from weigh.errors import BadFile
from weigh.model.gguf import printable
from weigh.model.json_object import MOST_BYTES, json_object
from weigh.model.source import Source

LENGTH_BYTES = 8
FIRST_READ_BYTES = 64 << 10  # one remote request is then enough for most small files
MOST_TENSORS = 1 << 16  # of one file; models of 90,000 come in files of some 600
MOST_DIMENSIONS = 16
MOST_COUNT = 1 << 60  # of weights or of bytes

# Source: safetensors `Dtype::bitsize`.
DTYPE_BITS: Mapping[str, int] = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64},
}

_METADATA = "__metadata__"
_CONVERT = "load it where you trust it and save it as safetensors"
_PULL = "run `git lfs pull` in its folder"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        shape: as torch has it, rows first.
        start, end: its bytes, counted from the end of the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What one safetensors file says of itself.

    Attributes:
        header_bytes: before the first tensor, the length field with it.
        tensors: in the order of their bytes.
    """

    path: Path
    size_bytes: int
    header_bytes: int
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]


def read_header(source: Source) -> Header:
    """The header of a safetensors file; no byte of a tensor is looked at.

    Raises:
        BadFile: the file is none, is cut short, or its tensors do not fill it exactly.
    """
    first = source.read(0, min(source.size_bytes, FIRST_READ_BYTES))
    end = _header_end(source, first)
    data = first[:end] if end <= len(first) else first + source.read(len(first), end - len(first))
    if len(data) < end:
        raise BadFile(source.path, "shrank while it was read")
    entries = json_object(source.path, data[LENGTH_BYTES:], what="its header")
    metadata = _metadata(source.path, entries.pop(_METADATA, None))
    if len(entries) > MOST_TENSORS:
        raise BadFile(source.path, f"announces {len(entries):,} tensors, more than any file of a model has")
    tensors = tuple(
        sorted((_tensor(source.path, *e) for e in entries.items()), key=lambda t: (t.start, t.end))
    )
    _check_cover(source, tensors, end)
    return Header(source.path, source.size_bytes, end, tensors, metadata)


def _header_end(source: Source, first: bytes) -> int:
    if not first:
        raise BadFile(source.path, "is empty")
    if len(first) < LENGTH_BYTES + 2:
        raise BadFile(source.path, "is too short for a safetensors file")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if first[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        problem, hint = _unlike(first)
        raise BadFile(source.path, problem, hint=hint)
    if length > MOST_BYTES:
        raise BadFile(source.path, f"announces a header of {length:,} bytes, more than any model has")
    if LENGTH_BYTES + length > source.size_bytes:
        missing = LENGTH_BYTES + length - source.size_bytes
        problem = f"is cut short: {missing:,} bytes of its header are missing"
        raise BadFile(source.path, problem, hint="download it again")
    return LENGTH_BYTES + length


def _metadata(path: Path, values: object) -> Mapping[str, str]:
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise BadFile(path, f"its `{_METADATA}` is no list of texts by name")
    return values


def _tensor(path: Path, name: str, entry: object) -> StoredTensor:
    label = printable(name)
    if not name or "{" in name or "\\" in label:
        raise BadFile(path, f"tensor name `{label}` is none that a model has")
    if not isinstance(entry, dict):
        raise BadFile(path, f"tensor `{label}` does not say its type, shape and place")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise BadFile(path, f"tensor `{label}` has unknown type `{printable(str(dtype)[:40])}`")
    if not _is_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise BadFile(path, f"tensor `{label}` has a shape that no tensor has")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise BadFile(path, f"tensor `{label}` does not say where it lies")
    tensor = StoredTensor(label, dtype, tuple(shape), *offsets)
    _check_bytes(path, tensor)
    return tensor


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < MOST_COUNT for n in value)


def _check_bytes(path: Path, tensor: StoredTensor) -> None:
    bits = tensor.elements * DTYPE_BITS[tensor.dtype]
    if bits % 8:
        raise BadFile(path, f"tensor `{tensor.name}` does not end at a whole byte")
    if tensor.bytes != bits // 8:
        needs = f"needs {bits // 8 if bits < MOST_COUNT else 'more than 2^57'} bytes, not {tensor.bytes}"
        raise BadFile(path, f"tensor `{tensor.name}` {needs}")


def _check_cover(source: Source, tensors: tuple[StoredTensor, ...], header_bytes: int) -> None:
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            problem = f"tensor `{tensor.name}` lies at {tensor.start} where {end} was expected"
            raise BadFile(source.path, problem)
        end = tensor.end
    held = source.size_bytes - header_bytes
    if end > held:
        problem = f"is cut short: {end - held:,} of {header_bytes + end:,} bytes are missing"
        raise BadFile(source.path, problem, hint="download it again")
    if end < held:
        raise BadFile(source.path, f"has {held - end:,} bytes after its last tensor")


# How other files begin, what they are then called, and what to try.
_SIGNATURES = (
    (b"GGUF", "is a GGUF file, not a safetensors file", None),
    (b"PK\x03\x04", "is a PyTorch checkpoint (zip and pickle), which weigh does not open", _CONVERT),
    (b"\x80", "is a Python pickle, which weigh does not open", _CONVERT),
    (b"version https://git-lfs", "is a git-lfs pointer; the model itself was not downloaded", _PULL),
    (b"<", "is a web page, not a safetensors file", None),
    (b"\0" * 16, "begins with zeros: a download that was never finished?", None),
)


def _unlike(first: bytes) -> tuple[str, str | None]:
    """What a file that is none looks like, and what to try."""
    for begin, problem, hint in _SIGNATURES:
        if first.startswith(begin):
            return problem, hint
    return "is not a safetensors file: no header begins after its first 8 bytes", None
