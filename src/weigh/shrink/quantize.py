"""A model's weights in other number formats: which format each tensor gets, and the file with them.

A `Plan` names the formats. Here are those of llama.cpp's recipes, as `llama-quantize` follows them; mixes for a
size or a loss are in `weigh.shrink.mixes`. Writing goes slab by slab: some rows are read, made float32, rounded
on all cores and appended, so that memory stays small whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from weigh.errors import BadInput
from weigh.model import quantization
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import FILE_TYPES
from weigh.model.gguf_encoding import U32, NewTensor, aligned, header, pair
from weigh.model.spec import ModelSpec
from weigh.shrink import ggml, gguf_file
from weigh.shrink.ggml import Floats
from weigh.shrink.gguf_file import Progress, Weights
from weigh.shrink.imatrix import ImportanceMatrix

_SLAB_WEIGHTS = 1 << 23
_QUANTIZATION_VERSION = 2  # ggml.h `GGML_QNT_VERSION`
_TRAINED_IN = frozenset((GgmlType.MXFP4, GgmlType.NVFP4))  # formats that models come in from their makers
_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
_EMBEDDING = "token_embd.weight"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which format each tensor gets.

    Attributes:
        name: a recipe, or what the mix was made for.
        types: by tensor; those not named stay as they are.
        file_type: llama.cpp's name of the recipe; None for a mix, whose readers look at the tensors.
    """

    name: str
    types: Mapping[str, GgmlType]
    file_type: str | None = None

    def tensors(self, weights: Weights) -> list[NewTensor]:
        """All tensors as they will be stored, in the source's order."""
        return [replace(tensor, type=self.types.get(tensor.name, tensor.type)) for tensor in weights.tensors]


def by_recipe(weights: Weights, recipe: str, *, matrix: bool = False, requantize: bool = False) -> Plan:
    """The formats that `llama-quantize` would give this model.

    Args:
        matrix: made with an importance matrix.
        requantize: round again what is rounded already, which loses more than rounding once.

    Raises:
        UnknownName: no such recipe.
        NotSupported: a mix that no rule gives, or a width that cannot be stored in it.
        BadInput: the recipe needs an importance matrix, or the weights are quantized already.
    """
    spec = unquantized(weights.spec, requantize=requantize)
    wanted = quantization.quantize(spec, recipe, imatrix=matrix)
    made_as = quantization.made_as(recipe)
    if made_as in quantization.NEED_MATRIX and not matrix:
        raise BadInput(
            f"{made_as} is made with an importance matrix only", hint="give one, as `llama-imatrix` writes it"
        )
    types = {
        group.name.format(layer): group.type
        for group in wanted.tensors
        for layer in group.layers or (None,)
        if isinstance(group.type, GgmlType)
    }
    return Plan(wanted.quantization, types, made_as)


def unquantized(spec: ModelSpec, *, requantize: bool = False) -> ModelSpec:
    """The model as if it came unquantized, but for experts in the format they were trained in.

    Raises:
        BadInput: it comes quantized, and may not be rounded again.
    """
    again = [t for t in spec.tensors if t.type.quantized and t.type not in _TRAINED_IN]
    if again and not requantize:
        raise BadInput(
            f"{spec.file or spec.name} is quantized already ({again[0].type.name}); rounding it again loses "
            "more than rounding the original once",
            hint="name the original, in F16, BF16 or F32, or say that it is to be rounded again",
        )
    tensors = (replace(t, type=GgmlType.F16) if t in again else t for t in spec.tensors)
    return replace(spec, tensors=tuple(tensors))


def file_bytes(weights: Weights, plan: Plan, matrix: ImportanceMatrix | None = None) -> int:
    """Bytes of the file that `write` makes, exactly."""
    tensors = plan.tensors(weights)
    head = header(list(_entries(weights, plan, matrix).values()), tensors)
    return len(head) + sum(aligned(tensor.bytes) for tensor in tensors)


def write(
    weights: Weights,
    plan: Plan,
    path: Path,
    *,
    matrix: ImportanceMatrix | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the model with the plan's formats as a GGUF file and return its bytes.

    Until the file is whole it has another name; after an error or Ctrl-C nothing is left of it.

    Raises:
        NoSpace: the disk has no room for it.
        BadFile: it cannot be written there, or the source cannot be read on.
        BadInput: a tensor's weights cannot be rounded, or the importance matrix is of another model.
    """
    was = {tensor.name: tensor for tensor in weights.tensors}
    tensors = plan.tensors(weights)
    for tensor in tensors:
        if tensor != was[tensor.name]:
            importance_of(tensor, matrix)

    def data(tensor: NewTensor) -> Iterator[bytes | memoryview]:
        source = was[tensor.name]
        for start, stop in _slabs(source):
            rows = weights.rows(source, start, stop)
            if source.type is not tensor.type:
                importance = importance_of(tensor, matrix)
                by_column = None if importance is None else importance[start // matrix_rows(tensor)]
                rows = _rounded(tensor, ggml.dequantize(rows, source.type), by_column)
            yield rows.data.cast("B")

    return gguf_file.write(path, _entries(weights, plan, matrix), tensors, data, progress)


def _rounded(tensor: NewTensor, rows: Floats, importance: Floats | None) -> ggml.Bytes:
    try:
        return ggml.quantize(rows, tensor.type, importance)
    except BadInput as error:
        raise BadInput(f"`{tensor.name}`: {error.message}") from error


def matrix_rows(tensor: NewTensor) -> int:
    """Rows of one of the matrices that a tensor stacks."""
    return tensor.shape[1] if len(tensor.shape) > 1 else 1


def _slabs(tensor: NewTensor) -> Iterator[tuple[int, int]]:
    """Stretches of rows of a few MiB, each inside one matrix."""
    rows, each = prod(tensor.shape[1:]), matrix_rows(tensor)
    step = max(1, _SLAB_WEIGHTS // tensor.shape[0])
    for first in range(0, rows, each):
        for start in range(first, first + each, step):
            yield start, min(start + step, first + each)


def importance_of(tensor: NewTensor, matrix: ImportanceMatrix | None) -> Floats | None:
    """The importance of a tensor's columns, (matrices, columns); None when there is none.

    Raises:
        BadInput: it is that of another shape, or missing where the format needs it.
    """
    found = matrix.values.get(tensor.name) if matrix is not None else None
    matrices = prod(tensor.shape[2:])
    if found is not None and found.size == matrices * tensor.shape[0]:
        return found.reshape(matrices, tensor.shape[0])
    if found is not None and tensor.name != _EMBEDDING:  # whose rows are looked up, not multiplied with
        raise BadInput(
            f"the importance matrix is of another model: it has {found.size} columns for `{tensor.name}`, "
            f"which has {matrices * tensor.shape[0]}"
        )
    if ggml.needs_importance(tensor.type):
        raise BadInput(
            f"the importance matrix says nothing of `{tensor.name}`, which {tensor.type.name} needs"
        )
    return None


def _entries(weights: Weights, plan: Plan, matrix: ImportanceMatrix | None) -> dict[str, bytes]:
    """The source's metadata, with what the file now is; names as llama.cpp's tool writes them."""
    entries = dict(weights.entries)
    said: dict[str, int | str] = {"general.quantization_version": _QUANTIZATION_VERSION}
    if plan.file_type is None:
        entries.pop("general.file_type", None)
    else:
        said["general.file_type"] = _NUMBERS[plan.file_type]
    if matrix is not None:
        said["quantize.imatrix.file"] = matrix.file
        if matrix.datasets:
            said["quantize.imatrix.dataset"] = matrix.datasets[0]
        said["quantize.imatrix.entries_count"] = len(matrix.values)
        said["quantize.imatrix.chunks_count"] = matrix.chunks
    for key, value in said.items():
        entries[key] = pair(key, value, U32 if isinstance(value, int) else None)
    return entries
