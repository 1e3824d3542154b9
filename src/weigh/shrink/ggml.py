"""llama.cpp's quantizer: weights to the blocks of a number format and back.

The functions are exported by the shared object of the package `xllamacpp`. They know no state but tables that
`ggml_quantize_init` makes once, and every row is rounded by itself, so rows are shared out among the cores.

Source of the signatures: `ggml/include/ggml.h` and `ggml/src/ggml-quants.h` of llama.cpp (MIT).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weigh.errors import BadInput, EngineMissing, NotSupported
from weigh.model.ggml_types import GgmlType

Floats: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]

_PACKAGE = "xllamacpp"
_PIECE_WEIGHTS = 1 << 18  # of one call: about a tenth of a second of the slowest format
LARGEST_WEIGHT = 65504.0
"""Scales of blocks are half precision, whose largest number this is."""
_INTEGERS = frozenset((GgmlType.I8, GgmlType.I16, GgmlType.I32, GgmlType.I64, GgmlType.F64))
_ONLY_FOR_SUMS = frozenset((GgmlType.Q8_1, GgmlType.Q8_K))  # formats of activations
WRITABLE = tuple(type for type in GgmlType if type not in _INTEGERS | _ONLY_FOR_SUMS)


@cache
def _library() -> ctypes.CDLL:
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise EngineMissing(f"the package `{_PACKAGE}` is not installed", hint=f"pip install {_PACKAGE}")
    objects = sorted(Path(found.origin).parent.glob(f"{_PACKAGE}*.so"))
    try:
        library = ctypes.CDLL(str(objects[0]))
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        library.ggml_quantize_chunk.argtypes = (
            ctypes.c_int,  # type
            ctypes.c_void_p,  # weights, float32
            ctypes.c_void_p,  # blocks
            ctypes.c_int64,  # first weight
            ctypes.c_int64,  # rows
            ctypes.c_int64,  # weights of a row
            ctypes.c_void_p,  # importance of each column, float32, or none
        )
        library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        library.ggml_row_size.restype = ctypes.c_size_t
        library.ggml_row_size.argtypes = (ctypes.c_int, ctypes.c_int64)
    except (IndexError, OSError, AttributeError) as error:
        raise EngineMissing(f"this `{_PACKAGE}` has no quantizer that weigh can call ({error})") from error
    return library


@cache
def _ready(type: GgmlType) -> ctypes.CDLL:
    """The library, with the tables of `type` made and its sizes compared with ours."""
    library = _library()
    if library.ggml_row_size(type.id, type.block_weights) != type.block_bytes:
        raise EngineMissing(f"this `{_PACKAGE}` has other blocks of {type.name} than weigh knows")
    library.ggml_quantize_init(type.id)
    return library


@cache
def needs_importance(type: GgmlType) -> bool:
    """Whether the format is made with an importance matrix only."""
    return bool(_library().ggml_quantize_requires_imatrix(type.id))


def quantize(weights: Floats, type: GgmlType, importance: Floats | None = None) -> Bytes:
    """Rows of weights as blocks of `type`: (rows, columns) to (rows, bytes of a row).

    Args:
        importance: of each column, (columns,): the mean square of what the column is multiplied with.

    Raises:
        BadInput: a weight is no number or beyond `LARGEST_WEIGHT`, or the importance is none.
        NotSupported: the format is not one of weights, rows are no whole blocks, or it needs an importance.
    """
    rows, columns = weights.shape
    if type not in WRITABLE:
        raise NotSupported(f"weights are not stored as {type.name}")
    if columns % type.block_weights:
        raise NotSupported(
            f"rows of {columns} weights are no whole blocks of {type.block_weights} ({type.name})"
        )
    if importance is None and needs_importance(type):
        raise NotSupported(f"{type.name} is made with an importance matrix only")
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    _check(weights, importance, columns)
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
    blocks = np.empty((rows, type.row_bytes(columns)), dtype=np.uint8)
    library = _ready(type)
    source, target = weights.ctypes.data, blocks.ctypes.data
    by_column = None if importance is None else importance.ctypes.data

    def work(start: int, stop: int) -> None:
        library.ggml_quantize_chunk(
            type.id, source, target, start * columns, stop - start, columns, by_column
        )

    _share_out(work, rows, columns)
    return blocks


def dequantize(blocks: Bytes, type: GgmlType) -> Floats:
    """What the blocks stand for: (rows, bytes of a row) to (rows, columns).

    Raises:
        NotSupported: a format that holds no weights.
    """
    rows, row_bytes = blocks.shape
    blocks = np.ascontiguousarray(blocks)
    if type is GgmlType.F32:
        return blocks.view(np.float32)
    if type is GgmlType.F16:
        return blocks.view(np.float16).astype(np.float32)
    if type is GgmlType.BF16:  # the upper half of a float32
        return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if type not in WRITABLE:
        raise NotSupported(f"tensors of {type.name} hold no weights")
    columns = row_bytes // type.block_bytes * type.block_weights
    weights = np.empty((rows, columns), dtype=np.float32)
    to_float = _to_float(type)
    source, target = blocks.ctypes.data, weights.ctypes.data

    def work(start: int, stop: int) -> None:
        to_float(source + start * row_bytes, target + start * columns * 4, (stop - start) * columns)

    _share_out(work, rows, columns)
    return weights


@cache
def _to_float(type: GgmlType) -> Callable[[int, int, int], None]:
    name = type.name if type.name.endswith("_K") else type.name.lower()
    name = f"dequantize_row_{name[0].lower()}{name[1:]}"
    try:
        function = getattr(_ready(type), name)
    except AttributeError as error:
        raise EngineMissing(f"this `{_PACKAGE}` has no `{name}`") from error
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    function.restype = None
    checked: Callable[[int, int, int], None] = function
    return checked


def _check(weights: Floats, importance: Floats | None, columns: int) -> None:
    """The C code ends the process on weights that are no numbers."""
    if not float(np.max(np.abs(weights), initial=0.0)) <= LARGEST_WEIGHT:  # false for NaN too
        raise BadInput("it holds weights that are no numbers, or too large for half precision")
    if importance is not None and (
        importance.shape != (columns,) or not bool(np.all(np.isfinite(importance) & (importance >= 0)))
    ):
        raise BadInput(f"its importance is not {columns} numbers from 0 up")


def _share_out(work: Callable[[int, int], None], rows: int, columns: int) -> None:
    """Call `work` with stretches of rows, on all cores; ctypes lets other threads run meanwhile."""
    step = max(1, _PIECE_WEIGHTS // columns)
    pieces = [(start, min(rows, start + step)) for start in range(0, rows, step)]
    if len(pieces) == 1:
        work(0, rows)
        return
    with ThreadPoolExecutor(
        os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    ) as pool:
        try:
            for _ in pool.map(lambda piece: work(*piece), pieces):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
