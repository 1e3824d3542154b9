"""GGUF as bytes: metadata entries, the description of tensors, and the header they make.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3, little endian.
"""

from __future__ import annotations

import errno
import shutil
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from weigh import units
from weigh.errors import NoSpace
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import HyperValue, Scalar

ALIGNMENT = 32
DISK_MARGIN_BYTES = 256 << 20

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
_CODES = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written; `shape` in ggml's order, columns first."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType

    @property
    def bytes(self) -> int:
        return self.type.row_bytes(self.shape[0]) * prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return prod(self.shape)


def aligned(size: int) -> int:
    """`size` bytes with the padding that follows them."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value: HyperValue, kind: int | None = None) -> bytes:
    """A metadata entry.

    Args:
        kind: the number of a type of value, or of an array's items; by default the one llama.cpp writes for
            such a value.
    """
    if isinstance(value, tuple):
        return string(key) + _array(value, kind)
    kind = _kind(value) if kind is None else kind
    return string(key) + struct.pack("<I", kind) + _scalar(kind, value)


def _array(values: tuple[Scalar, ...], kind: int | None) -> bytes:
    if kind is None:
        # arrays of counts are signed in llama.cpp's own files
        kind = I32 if _kind(values[0]) == U32 else _kind(values[0])
    head = struct.pack("<IIQ", ARRAY, kind, len(values))
    if kind in (I32, F32):
        return head + struct.pack(f"<{len(values)}{_CODES[kind][1]}", *values)
    return head + b"".join(_scalar(kind, value) for value in values)


def _kind(value: Scalar) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, str):
        return STRING
    if isinstance(value, float):
        return F32
    return I32 if value < 0 else U32 if value < 1 << 32 else U64


def _scalar(kind: int, value: Scalar) -> bytes:
    return string(value) if isinstance(value, str) else struct.pack(_CODES[kind], value)


def header(entries: Sequence[bytes], tensors: Sequence[NewTensor]) -> bytes:
    """All that comes before the data; tensors lie there in this order, each aligned."""
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(entries)), *entries]
    offset = 0
    for tensor in tensors:
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        parts += (string(tensor.name), dimensions, struct.pack("<IQ", tensor.type.id, offset))
        offset += aligned(tensor.bytes)
    head = b"".join(parts)
    return head + bytes(aligned(len(head)) - len(head))


def write_stream(
    file: BinaryIO,
    head: bytes,
    tensors: Sequence[NewTensor],
    data: Callable[[NewTensor], Iterable[bytes | memoryview]],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a header and the data of each tensor as it comes, and return the bytes of all.

    Args:
        file: unbuffered.
        progress: called with the bytes written and the bytes in all.
    """
    total_bytes = len(head) + sum(aligned(tensor.bytes) for tensor in tensors)
    written = write_all(file, head)
    for tensor in tensors:
        start = written
        for chunk in data(tensor):
            written += write_all(file, chunk)
            if progress is not None:
                progress(written, total_bytes)
        assert written - start == tensor.bytes, tensor.name
        written += write_all(file, bytes(aligned(tensor.bytes) - tensor.bytes))
    if progress is not None:
        progress(written, total_bytes)
    return written


def write_all(file: BinaryIO, data: bytes | memoryview) -> int:
    """Unbuffered writes may stop early, as they do when the disk is about to be full."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return len(data)


def require_space(path: Path, needed_bytes: int) -> None:
    """Raise NoSpace unless the disk has room for a file of so many bytes, and some more."""
    if shutil.disk_usage(path.parent).free < needed_bytes + DISK_MARGIN_BYTES:
        raise no_space(path, needed_bytes)


def disk_is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_space(path: Path, needed_bytes: int) -> NoSpace:
    free_bytes = shutil.disk_usage(path.parent).free
    return NoSpace(
        f"{path.parent} has {units.gib(free_bytes)} free, "
        f"and {units.gib(needed_bytes + DISK_MARGIN_BYTES)} are needed for a model file",
        hint="free some space, choose another folder, or a smaller model",
    )
