"""GGUF files opened for their weights, and written: to a name of their own first, renamed once they are whole.

`weigh.model.gguf` says what a model is and trusts nothing; here its whole metadata is kept as it lies in the
file, to be copied, and rows of tensors are read as they are needed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from weigh.errors import BadFile, NotSupported
from weigh.model.ggml_types import BY_ID
from weigh.model.gguf import MOST_HEADER_BYTES, SPLIT_NAME, read_gguf
from weigh.model.gguf_encoding import (
    ARRAY,
    STRING,
    NewTensor,
    aligned,
    disk_is_full,
    header,
    no_space,
    require_space,
    string,
    write_stream,
)
from weigh.model.source import LocalFile, Source
from weigh.model.spec import ModelSpec
from weigh.shrink.ggml import Bytes

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
Progress = Callable[[int, int], None]


class Weights(Protocol):
    """A model whose weights can be read, whatever its files.

    Attributes:
        entries: metadata by key, each as the bytes of a whole GGUF entry, in the file's order.
        tensors: in the file's order, under GGUF's names.
    """

    spec: ModelSpec
    entries: Mapping[str, bytes]
    tensors: Sequence[NewTensor]

    def rows(self, tensor: NewTensor, start: int, stop: int) -> Bytes:
        """Rows of a tensor as they are stored: (rows, bytes of a row). Experts follow one another."""
        ...


@dataclass(frozen=True, slots=True)
class _Stored:
    tensor: NewTensor
    path: Path
    offset: int  # in the file


@dataclass(frozen=True, slots=True)
class Parsed:
    """The header of one file, kept whole."""

    entries: dict[str, bytes]
    stored: list[_Stored]


class GgufWeights:
    """See `Weights`; a file, or all parts of a split one."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            BadFile: the file, or one of its parts, is missing, damaged, or not a language model in GGUF.
            NotSupported: it is big-endian.
        """
        self.spec = read_gguf(path)  # which checks every length, and that the parts are complete
        parts = [parse(part) for part in _parts(path)]
        self.entries: Mapping[str, bytes] = {
            key: entry for key, entry in parts[0].entries.items() if not key.startswith("split.")
        }
        self._stored = {stored.tensor.name: stored for part in parts for stored in part.stored}
        self.tensors: Sequence[NewTensor] = tuple(stored.tensor for stored in self._stored.values())

    def rows(self, tensor: NewTensor, start: int, stop: int) -> Bytes:
        stored = self._stored[tensor.name]
        row_bytes = tensor.type.row_bytes(tensor.shape[0])
        with LocalFile(stored.path) as file:
            data = file.read(stored.offset + start * row_bytes, (stop - start) * row_bytes)
        if len(data) != (stop - start) * row_bytes:
            raise BadFile(stored.path, "shrank while it was read")
        return np.frombuffer(data, dtype=np.uint8).reshape(stop - start, row_bytes)


def _parts(path: Path) -> list[Path]:
    match = SPLIT_NAME.fullmatch(path.name)
    if match is None or "split.count" not in parse(path).entries:
        return [path]
    return [path.with_name(f"{match[1]}-{i:05}-of-{match[3]}.gguf") for i in range(1, int(match[3]) + 1)]


# --- reading -----------------------------------------------------------------------------------------


def parse(path: Path) -> Parsed:
    """The header of a GGUF file with every entry whole.

    Raises:
        BadFile: it is no GGUF file, or damaged.
        NotSupported: it is big-endian.
    """
    with LocalFile(path, kind="GGUF file") as file:
        cursor = _Cursor(file)
        try:
            return _parsed(cursor)
        except (struct.error, KeyError, UnicodeDecodeError, OverflowError) as error:
            raise BadFile(path, "its header is damaged", offset=cursor.position) from error


class _Cursor:
    def __init__(self, file: Source) -> None:
        self.path = file.path
        self.data = file.read(0, min(file.size_bytes, MOST_HEADER_BYTES))
        self.position = 0

    def numbers(self, codes: str) -> tuple[int, ...]:
        found = struct.unpack_from("<" + codes, self.data, self.position)
        self.position += struct.calcsize("<" + codes)
        return found

    def text(self) -> str:
        (length,) = self.numbers("Q")
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise struct.error
        return self.data[start : self.position].decode()

    def skip_value(self, kind: int) -> None:
        if kind == STRING:
            self._skip_strings(1)
        elif kind == ARRAY:
            item, count = self.numbers("IQ")
            if item == STRING:
                self._skip_strings(count)
            else:
                self.position += count * _WIDTHS[item]
        else:
            self.position += _WIDTHS[kind]

    def _skip_strings(self, count: int) -> None:
        length_at, position = struct.Struct("<Q").unpack_from, self.position
        for _ in range(count):
            position += 8 + length_at(self.data, position)[0]
        self.position = position


def _parsed(cursor: _Cursor) -> Parsed:
    if not cursor.data.startswith(b"GGUF"):
        raise BadFile(cursor.path, "is not a GGUF file: it does not begin with `GGUF`")
    cursor.position = 4
    (version,) = cursor.numbers("I")
    if version not in (2, 3):
        if version & 0xFFFF == 0:
            raise NotSupported(f"{cursor.path} is big-endian: its weights cannot be read here")
        raise BadFile(cursor.path, f"is GGUF version {version}; versions 2 and 3 can be read")
    tensors, pairs = cursor.numbers("QQ")
    entries: dict[str, bytes] = {}
    for _ in range(pairs):
        start = cursor.position
        key = cursor.text()
        (kind,) = cursor.numbers("I")
        cursor.skip_value(kind)
        entries[key] = cursor.data[start : cursor.position]
    described = [_described(cursor) for _ in range(tensors)]
    if cursor.position > len(cursor.data):
        raise struct.error
    alignment = value_of(entries, "general.alignment")
    step = alignment if isinstance(alignment, int) and alignment > 0 else 32
    data = -(-cursor.position // step) * step
    return Parsed(entries, [_Stored(tensor, cursor.path, data + offset) for tensor, offset in described])


def _described(cursor: _Cursor) -> tuple[NewTensor, int]:
    name = cursor.text()
    (dimensions,) = cursor.numbers("I")
    *shape, kind, offset = cursor.numbers(f"{dimensions}QIQ")
    return NewTensor(name, tuple(shape) or (1,), BY_ID[kind]), offset


def value_of(entries: Mapping[str, bytes], key: str) -> object:
    """The value of an entry, numbers and texts and arrays of them; None when there is none."""
    if key not in entries:
        return None
    raw = entries[key]
    position = len(string(key))
    (kind,) = struct.unpack_from("<I", raw, position)
    found, _ = _value(raw, position + 4, kind)
    return found


_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}


def _value(raw: bytes, position: int, kind: int) -> tuple[object, int]:
    """A value and where it ends."""
    if kind == STRING:
        (length,) = struct.unpack_from("<Q", raw, position)
        end = position + 8 + length
        return raw[position + 8 : end].decode(errors="replace"), end
    if kind == ARRAY:
        item, count = struct.unpack_from("<IQ", raw, position)
        position += 12
        values = []
        for _ in range(count):
            value, position = _value(raw, position, item)
            values.append(value)
        return tuple(values), position
    return struct.unpack_from(_SCALARS[kind], raw, position)[0], position + _WIDTHS[kind]


# --- writing -----------------------------------------------------------------------------------------


def write(
    path: Path,
    entries: Mapping[str, bytes],
    tensors: Sequence[NewTensor],
    data: Callable[[NewTensor], Iterable[bytes | memoryview]],
    progress: Progress | None = None,
) -> int:
    """Write a GGUF file and return its bytes; until it is whole it has another name, and then takes `path`.

    Raises:
        NoSpace: the disk has no room for it, or had none in the end; nothing is left of it.
        BadFile: the file cannot be written there.
    """
    kept = {key: entry for key, entry in entries.items() if key != "general.alignment"}  # 32, by default
    head = header(list(kept.values()), tensors)
    total_bytes = len(head) + sum(aligned(tensor.bytes) for tensor in tensors)
    if not path.parent.is_dir():
        raise BadFile(path, "cannot be written: there is no such folder")
    require_space(path, total_bytes)
    with _whole_or_not_at_all(path, total_bytes) as file:
        write_stream(file, head, tensors, data, progress)
    return total_bytes


@contextmanager
def _whole_or_not_at_all(path: Path, needed_bytes: int) -> Iterator[BinaryIO]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if disk_is_full(error):
            raise no_space(path, needed_bytes) from None
        if isinstance(error, OSError):
            raise BadFile(path, f"cannot be written ({error.strerror})") from error
        raise
