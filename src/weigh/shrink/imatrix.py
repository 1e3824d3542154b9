"""Importance matrices: how much each column of a matrix matters, the mean square of what it is multiplied with.

Both formats of llama.cpp's `llama-imatrix` are read: GGUF files, and the older ones.

Source of the formats: `common/imatrix-loader.cpp` and `tools/imatrix/imatrix.cpp` of llama.cpp (MIT).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weigh.errors import BadFile
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import printable
from weigh.model.source import LocalFile
from weigh.shrink.ggml import Floats
from weigh.shrink.gguf_file import Parsed, parse, value_of

_SUMS, _COUNTS = ".in_sum2", ".counts"
MOST_BYTES = 1 << 30  # that of a model of 1,000 B parameters stays below
MOST_ENTRIES = 1 << 16


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """What was measured on a text.

    Attributes:
        values: by tensor, (matrices, columns): several matrices for stacked experts, else one.
        file: as it is named in what is made with it.
        datasets: the texts it was measured on, as the file says.
        chunks: how many windows of text.
    """

    values: Mapping[str, Floats]
    file: str
    datasets: tuple[str, ...]
    chunks: int


def read_imatrix(path: Path) -> ImportanceMatrix:
    """The importance matrix in a file of either format.

    Raises:
        BadFile: it is none, damaged, or holds numbers that no importance has.
    """
    with LocalFile(path, kind="importance matrix") as file:
        if file.size_bytes > MOST_BYTES:
            raise BadFile(path, f"is larger than any importance matrix ({file.size_bytes:,} bytes)")
        data = file.read(0, file.size_bytes)
    found = _from_gguf(path, data) if data.startswith(b"GGUF") else _from_older(path, data)
    for name, values in found.values.items():
        if not bool(np.all(np.isfinite(values) & (values >= 0))):
            raise BadFile(path, f"the importance of `{name}` is not made of numbers from 0 up")
    return found


def _from_gguf(path: Path, data: bytes) -> ImportanceMatrix:
    parsed = parse(path)
    if value_of(parsed.entries, "general.type") != "imatrix":
        raise BadFile(path, "is no importance matrix: its `general.type` is not `imatrix`")
    arrays = _arrays(path, parsed, data)
    values = {}
    for name, sums in arrays.items():
        if not name.endswith(_SUMS):
            continue
        tensor = name.removesuffix(_SUMS)
        counts = arrays.get(tensor + _COUNTS)
        if counts is None or counts.size != sums.shape[0]:
            raise BadFile(path, f"has no counts for `{tensor}`")
        counts = counts.reshape(-1, 1)
        # a matrix that nothing passed through: all its columns count alike
        values[tensor] = np.where(counts > 0, sums / np.maximum(counts, 1e-30), 1.0).astype(np.float32)
    datasets = value_of(parsed.entries, "imatrix.datasets")
    chunks = value_of(parsed.entries, "imatrix.chunk_count")
    return ImportanceMatrix(
        values,
        printable(path.name),
        tuple(str(text) for text in datasets) if isinstance(datasets, tuple) else (),
        _count(chunks),
    )


def _arrays(path: Path, parsed: Parsed, data: bytes) -> dict[str, Floats]:
    arrays = {}
    for stored in parsed.stored:
        tensor = stored.tensor
        raw = data[stored.offset : stored.offset + tensor.bytes]
        if tensor.type is not GgmlType.F32 or not raw or len(raw) != tensor.bytes or len(tensor.shape) > 3:
            raise BadFile(path, f"`{tensor.name}` is no array of numbers that lies in the file")
        arrays[tensor.name] = np.frombuffer(raw, dtype="<f4").reshape(-1, tensor.shape[0])
    return arrays


def _from_older(path: Path, data: bytes) -> ImportanceMatrix:
    try:
        return _older(path, data)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise BadFile(path, "is no importance matrix, or a damaged one") from error


def _older(path: Path, data: bytes) -> ImportanceMatrix:
    """A count, then of each tensor its name, the number of calls, and one float per column and expert."""
    (entries,) = struct.unpack_from("<i", data)
    if not 0 < entries <= MOST_ENTRIES:
        raise ValueError
    values, position = {}, 4
    for _ in range(entries):
        (length,) = struct.unpack_from("<i", data, position)
        if not 0 < length <= 4096:
            raise ValueError
        name = data[position + 4 : position + 4 + length].decode()
        position += 4 + length
        calls, columns = struct.unpack_from("<ii", data, position)
        position += 8
        if columns <= 0:
            raise ValueError
        sums = np.frombuffer(data, dtype="<f4", count=columns, offset=position)
        with np.errstate(invalid="ignore"):  # what is no number is found by the caller
            values[name] = (sums / max(calls, 1)).astype(np.float32).reshape(1, -1)
        position += 4 * columns
    chunks = 0
    datasets: tuple[str, ...] = ()
    if position + 8 <= len(data):
        chunks, length = struct.unpack_from("<ii", data, position)
        datasets = (data[position + 8 : position + 8 + max(0, length)].decode(errors="replace"),)
    return ImportanceMatrix(values, printable(path.name), datasets, _count(chunks))


def _count(said: object) -> int:
    """What can be written as a count of 32 bits again; 0 for anything else."""
    return said if isinstance(said, int) and 0 <= said < 1 << 32 else 0
