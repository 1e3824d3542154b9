"""How much each tensor's rounding costs: the divergence of the model with that tensor alone rounded.

A copy of the model in F16 lies in a file that the engine has mapped into its memory. One tensor after another is
overwritten there with what its rounded form stands for, the divergence from the source is measured on a text, and
the tensor is put back; nothing is loaded twice. Two formats are tried, a coarse one and a fine one. Others lie on
the line through both in logarithms of loss and of squared error, which is measured for every format without the
engine: squared errors of columns count by their importance where a matrix is given.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from weigh.errors import EngineError
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_encoding import NewTensor, aligned
from weigh.shrink import ggml, gguf_file
from weigh.shrink.ggml import Floats
from weigh.shrink.gguf_file import Weights
from weigh.shrink.imatrix import ImportanceMatrix
from weigh.shrink.mixes import Option
from weigh.shrink.quantize import importance_of, matrix_rows

Divergence = Callable[[], float]
"""The mean divergence from the source, in nats, of what the working copy holds now."""

_T = GgmlType
# Formats whose rows are whole blocks of 256, and those for other rows; what llama.cpp's recipes use too.
_WIDE = (_T.Q2_K, _T.IQ3_XXS, _T.IQ3_S, _T.Q3_K, _T.IQ4_XS, _T.Q4_K, _T.Q5_K, _T.Q6_K, _T.Q8_0)
_NARROW = (_T.Q4_0, _T.IQ4_NL, _T.Q4_1, _T.Q5_0, _T.Q5_1, _T.Q8_0)
_WITH_MATRIX = (_T.IQ2_XXS, _T.IQ2_XS, _T.IQ2_S)
_PROBES = {256: (_T.Q2_K, _T.Q4_K), 32: (_T.Q4_0, _T.Q5_1)}
_SAMPLE_WEIGHTS = 1 << 17  # of a tensor, for the squared error of a format
MOST_GROUPS = 80  # of tensors that are rounded together to see what it costs
_LAYER = re.compile(r"\bblk\.\d+\.")
_LEAST_NATS = 1e-9  # below this a divergence is rounding in the engine


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What was measured of one tensor.

    Attributes:
        probes: relative squared error and the divergence it caused, in nats, fine first.
    """

    probes: tuple[tuple[float, float], ...]

    def loss(self, error: float) -> float:
        """The divergence expected of a relative squared error, in nats."""
        (low_error, low), *more = self.probes
        exponent = 1.0  # the linearity theorem's, where only one probe says anything
        if more and more[-1][0] > low_error:
            high_error, high = more[-1]
            exponent = min(2.0, max(0.5, math.log(high / low) / math.log(high_error / low_error)))
        return low * (error / low_error) ** exponent if error else 0.0


def candidates(tensor: NewTensor, matrix: ImportanceMatrix | None) -> tuple[GgmlType, ...]:
    """The formats that a tensor may be given in a mix."""
    if tensor.shape[0] % 256 == 0:
        return (*_WITH_MATRIX, *_WIDE) if importance_of(tensor, matrix) is not None else _WIDE
    return _NARROW if tensor.shape[0] % 32 == 0 else ()


def relative_error(
    weights: Weights, tensor: NewTensor, type: GgmlType, matrix: ImportanceMatrix | None
) -> float:
    """The squared error of rounding over the squared weights, by a sample of rows; columns by importance."""
    importance = importance_of(tensor, matrix)
    lost = held = 0.0
    for row, rows in _sample(weights, tensor):
        by_column = None if importance is None else importance[row // matrix_rows(tensor)]
        rounded = ggml.dequantize(ggml.quantize(rows, type, by_column), type)
        weight = 1.0 if by_column is None else by_column
        lost += float(np.sum(weight * np.square(rounded - rows), dtype=np.float64))
        held += float(np.sum(weight * np.square(rows), dtype=np.float64))
    return lost / held if held else 0.0


def _sample(weights: Weights, tensor: NewTensor) -> Iterator[tuple[int, Floats]]:
    """Some stretches of rows, spread over the tensor, each with the number of its first row."""
    rows, each = prod(tensor.shape[1:]), matrix_rows(tensor)
    wanted = max(1, _SAMPLE_WEIGHTS // tensor.shape[0])
    stretch = min(each, max(1, wanted // 8))
    for start in sorted({int(at) for at in np.linspace(0, rows - stretch, num=min(8, -(-rows // stretch)))}):
        first = min(start, start // each * each + each - stretch)  # inside one matrix
        yield first, ggml.dequantize(weights.rows(tensor, first, first + stretch), tensor.type)


class WorkingCopy:
    """A GGUF file of F16 weights, some of which can be overwritten while an engine has it mapped."""

    def __init__(self, path: Path) -> None:
        self._places = {stored.tensor.name: stored for stored in gguf_file.parse(path).stored}
        self._path = path

    @contextmanager
    def rounded(
        self, weights: Weights, tensor: NewTensor, type: GgmlType, matrix: ImportanceMatrix | None
    ) -> Iterator[None]:
        """Inside, the tensor holds what its form in `type` stands for."""
        try:
            self._overwrite(weights, tensor, type, matrix)
            yield
        finally:
            self._overwrite(weights, tensor, None, matrix)

    def _overwrite(
        self, weights: Weights, tensor: NewTensor, type: GgmlType | None, matrix: ImportanceMatrix | None
    ) -> None:
        stored = self._places[tensor.name]
        importance = importance_of(tensor, matrix)
        row_bytes, each = stored.tensor.type.row_bytes(tensor.shape[0]), matrix_rows(tensor)
        with self._path.open("r+b", buffering=0) as file:
            for first in range(0, prod(tensor.shape[1:]), each):
                rows = ggml.dequantize(weights.rows(tensor, first, first + each), tensor.type)
                if type is not None:
                    by_column = None if importance is None else importance[first // each]
                    rows = ggml.dequantize(ggml.quantize(rows, type, by_column), type)
                data = ggml.quantize(rows, stored.tensor.type).tobytes()
                os.pwrite(file.fileno(), data, stored.offset + first * row_bytes)


def grouped(tensors: Sequence[NewTensor], most: int = MOST_GROUPS) -> list[list[NewTensor]]:
    """Tensors to be rounded together: each alone while there are few, else those of one role in adjacent layers."""
    if len(tensors) <= most:
        return [[tensor] for tensor in tensors]
    by_role: dict[str, list[NewTensor]] = {}
    for tensor in tensors:
        by_role.setdefault(_LAYER.sub("blk.*.", tensor.name), []).append(tensor)
    run = 1
    while sum(-(-len(each) // run) for each in by_role.values()) > most and run < len(tensors):
        run += 1
    return [each[at : at + run] for each in by_role.values() for at in range(0, len(each), run)]


def measure(
    weights: Weights,
    copy: WorkingCopy,
    divergence: Divergence,
    groups: Sequence[Sequence[NewTensor]],
    *,
    matrix: ImportanceMatrix | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Sensitivity]:
    """The sensitivity of each tensor, by rounding it alone, or its group, whose tensors share the divergence.

    Raises:
        EngineError: nothing that is done to the copy changes the divergence, so the engine has not mapped it.
    """
    base = divergence()  # of the copy itself: F16 where the source has other numbers
    found: dict[str, Sensitivity] = {}
    seen = False
    for number, group in enumerate(groups):
        coarse, fine = _PROBES[256 if group[0].shape[0] % 256 == 0 else 32]
        measured = []
        for type in (fine, coarse):
            with ExitStack() as stack:
                for tensor in group:
                    stack.enter_context(copy.rounded(weights, tensor, type, matrix))
                nats = divergence() - base
            seen = seen or nats > _LEAST_NATS
            measured.append((type, max(nats, _LEAST_NATS) / len(group)))
        for tensor in group:
            found[tensor.name] = Sensitivity(
                tuple((relative_error(weights, tensor, type, matrix), nats) for type, nats in measured)
            )
        if progress is not None:
            progress(number + 1, len(groups))
    if groups and not seen:
        raise EngineError("the engine does not read the working copy anew, so no sensitivity can be measured")
    return found


def options(
    weights: Weights,
    sensitivities: Mapping[str, Sensitivity],
    tensors: Sequence[NewTensor],
    matrix: ImportanceMatrix | None = None,
) -> dict[str, list[Option]]:
    """What each tensor can be stored as, with the loss expected of it; as F16 it loses nothing."""
    found: dict[str, list[Option]] = {}
    for tensor in tensors:
        sized = [(type, NewTensor(tensor.name, tensor.shape, type)) for type in candidates(tensor, matrix)]
        found[tensor.name] = [
            Option(
                type,
                aligned(stored.bytes),
                sensitivities[tensor.name].loss(relative_error(weights, tensor, type, matrix)),
            )
            for type, stored in sized
        ]
        unrounded = NewTensor(tensor.name, tensor.shape, GgmlType.F16)
        found[tensor.name].append(Option(GgmlType.F16, aligned(unrounded.bytes), 0.0))
    return found
