"""What a published checkpoint of a model holds at a given quantization, worked out from its shapes.

Every scheme here quantizes the linear layers of the blocks and leaves the rest in 16 bits: embeddings, the
output matrix, norms, biases, routers, short convolutions. They differ in how a weight is packed and in what
lies beside it: scales, zero points, the order of groups. Those bytes are exact, checked against what the
quantizers write (benchmarks/checkpoints.py), and are 0.02 to 12 % of the packed weights.

Sources, each read in the code that writes it: bitsandbytes `functional.QuantState.as_dict` and
`nn.Linear8bitLt`; AutoAWQ `modules/linear/gemm.py`; AutoGPTQ and GPTQModel `qlinear_cuda_old.py` and
`nn_modules/qlinear`; compressed-tensors `compressors/`; transformers `integrations/finegrained_fp8.py` and
`integrations/mxfp4.py`; NVIDIA ModelOpt `export/unified_export_hf.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from weigh.errors import NotSupported, UnknownName
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec, TensorGroup
from weigh.model.stored_types import NumberFormat, StoredType

_F16_BYTES, _F32_BYTES, _INT32_BYTES = 2, 4, 4


class Matrix(NamedTuple):
    """One linear layer, `columns` inputs wide."""

    columns: int
    rows: int


def _nothing(_: Matrix) -> tuple[int, int]:
    return 0, 0


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way of storing a checkpoint.

    Attributes:
        linear: format of the linear layers' weights.
        rest: format of everything else.
        beside: bytes that lie beside one linear layer's weight, and in how many tensors.
        experts: whether routed experts are quantized too.
    """

    name: str
    linear: NumberFormat
    rest: GgmlType = GgmlType.BF16
    beside: Callable[[Matrix], tuple[int, int]] = _nothing
    experts: bool = True


def _groups(columns: int, size: int) -> int:
    return -(-columns // size)


def _fp8_block(m: Matrix) -> tuple[int, int]:
    """`weight_scale_inv`: a float32 for each 128 x 128."""
    return _groups(m.columns, 128) * _groups(m.rows, 128) * _F32_BYTES, 1


def _row_scales(m: Matrix) -> tuple[int, int]:
    """`weight_scale`: a bfloat16 for each output."""
    return m.rows * 2, 1


def _fp8_tensor(_: Matrix) -> tuple[int, int]:
    """`weight_scale` and `input_scale`, one float32 each."""
    return 2 * _F32_BYTES, 2


def _int8(m: Matrix) -> tuple[int, int]:
    """`SCB`, a float32 for each output, and a byte that names the layout."""
    return m.rows * _F32_BYTES + 1, 2


def _gptq(bits: int, group: int) -> Callable[[Matrix], tuple[int, int]]:
    """`scales` in float16, `qzeros` packed like weights, and `g_idx`: each input's group in an int32."""

    def beside(m: Matrix) -> tuple[int, int]:
        groups = _groups(m.columns, group)
        zeros = groups * m.rows * bits // 8
        return groups * m.rows * _F16_BYTES + zeros + m.columns * _INT32_BYTES, 3

    return beside


def _awq(group: int) -> Callable[[Matrix], tuple[int, int]]:
    """`scales` in float16 and `qzeros`, eight to an int32."""

    def beside(m: Matrix) -> tuple[int, int]:
        groups = _groups(m.columns, group)
        return groups * m.rows * _F16_BYTES + groups * m.rows // 2, 2

    return beside


def _packed(group: int) -> Callable[[Matrix], tuple[int, int]]:
    """compressed-tensors: `weight_scale` in bfloat16, and `weight_shape` as two int64."""

    def beside(m: Matrix) -> tuple[int, int]:
        return _groups(m.columns, group) * m.rows * 2 + 16, 2

    return beside


def _packed_rows(m: Matrix) -> tuple[int, int]:
    """The same with a scale for each output."""
    return m.rows * 2 + 16, 2


_NF4_STATE_BYTES = 74  # of the JSON that says block, type and shape, but for the digits of the shape
_NF4_NESTED_STATE_BYTES = 165  # and the mean of the scales beside, some 20 digits


def _nf4(m: Matrix) -> tuple[int, int]:
    """`absmax`: a float32 for each 64 weights; the 16 values of the format; the state as JSON."""
    digits = len(str(m.columns)) + len(str(m.rows))
    return _groups(m.columns * m.rows, 64) * _F32_BYTES + 64 + _NF4_STATE_BYTES + digits, 3


def _nf4_double(m: Matrix) -> tuple[int, int]:
    """`absmax` in 8 bits with a float32 for each 256 of them, whose 256 values are kept too."""
    scales = _groups(m.columns * m.rows, 64)
    digits = len(str(m.columns)) + len(str(m.rows))
    nested = _groups(scales, 256) * _F32_BYTES + 1024
    return scales + nested + 64 + _NF4_NESTED_STATE_BYTES + digits, 5


def _mxfp4(m: Matrix) -> tuple[int, int]:
    """A power of two in a byte for each 32 weights of a row."""
    return _groups(m.columns, 32) * m.rows, 1


def _nvfp4(m: Matrix) -> tuple[int, int]:
    """An FP8 scale for each 16 weights of a row, and a float32 each for the weight and its inputs."""
    return _groups(m.columns, 16) * m.rows + 2 * _F32_BYTES, 3


_INT4, _HALF = StoredType.INT4, GgmlType.F16
_SCHEMES = (
    Scheme("F32", GgmlType.F32, GgmlType.F32),
    Scheme("BF16", GgmlType.BF16),
    Scheme("F16", GgmlType.F16, _HALF),
    Scheme("FP8", StoredType.FP8_E4M3, beside=_fp8_block),
    Scheme("FP8-DYNAMIC", StoredType.FP8_E4M3, beside=_row_scales),
    Scheme("FP8-TENSOR", StoredType.FP8_E4M3, beside=_fp8_tensor),
    Scheme("INT8", StoredType.INT8, beside=_int8, experts=False),
    Scheme("W8A8", StoredType.INT8, beside=_row_scales),
    Scheme("W8A16", StoredType.INT8, beside=_packed_rows),
    Scheme("GPTQ-INT8", StoredType.INT8, _HALF, _gptq(8, 128)),
    Scheme("AWQ-INT4", _INT4, _HALF, _awq(128)),
    Scheme("AWQ-INT4-G64", _INT4, _HALF, _awq(64)),
    Scheme("AWQ-INT4-G32", _INT4, _HALF, _awq(32)),
    Scheme("GPTQ-INT4", _INT4, _HALF, _gptq(4, 128)),
    Scheme("GPTQ-INT4-G64", _INT4, _HALF, _gptq(4, 64)),
    Scheme("GPTQ-INT4-G32", _INT4, _HALF, _gptq(4, 32)),
    Scheme("W4A16", _INT4, beside=_packed(128)),
    Scheme("NF4", StoredType.NF4, beside=_nf4, experts=False),
    Scheme("NF4-DOUBLE", StoredType.NF4, beside=_nf4_double, experts=False),
    Scheme("MXFP4", StoredType.FP4, beside=_mxfp4),
    Scheme("NVFP4", StoredType.FP4, beside=_nvfp4),
)
SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in _SCHEMES}

_ALIASES: Mapping[str, str] = {
    **{"FP32": "F32", "FP16": "F16", "AWQ": "AWQ-INT4", "GPTQ": "GPTQ-INT4", "INT4": "W4A16"},
    **{"FP8-BLOCK": "FP8", "FP8-CHANNEL": "FP8-DYNAMIC", "LLM.INT8": "INT8"},
    **{"BNB-4BIT": "NF4", "BNB-8BIT": "INT8", "NF4-DQ": "NF4-DOUBLE", "GPTQ-INT4-G128": "GPTQ-INT4"},
    **{"AWQ-INT4-G128": "AWQ-INT4", "GPTQ-INT8-G128": "GPTQ-INT8"},
}

# Tensors that only GGUF has, written from values which transformers works out from the config.
_ONLY_GGUF = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_EXPERTS_NOTE = (
    "its experts stay in 16 bits: transformers 5 keeps them in a form that bitsandbytes leaves alone"
)
_EXACT = "exp_probs_b.bias"  # the balance of the experts, in float32 wherever it is published


def scheme_names() -> frozenset[str]:
    """Every name that `stored` takes, in upper case."""
    return frozenset((*SCHEMES, *_ALIASES))


def scheme_named(name: str) -> Scheme:
    """A scheme by its name or by another it goes by, whatever the case.

    Raises:
        UnknownName: no such scheme; close ones are attached.
    """
    typed = name.strip().upper().replace("_", "-")
    scheme = SCHEMES.get(_ALIASES.get(typed, typed))
    if scheme is None:
        from difflib import get_close_matches

        raise UnknownName("quantization", name, close=get_close_matches(typed, SCHEMES, 3, 0.5))
    return scheme


def stored(spec: ModelSpec, scheme: str) -> ModelSpec:
    """The model as a checkpoint of `scheme` stores it.

    Args:
        spec: with unquantized tensors, as a config describes them. Experts that are published in MXFP4
            (gpt-oss) count as unquantized, and at MXFP4 only they are quantized.

    Raises:
        UnknownName: no such scheme.
        NotSupported: the model is quantized already.
    """
    chosen = scheme_named(scheme)
    taken = next((t for t in spec.tensors if t.type.quantized and t.type is not GgmlType.MXFP4), None)
    if taken is not None:
        raise NotSupported(
            f"{spec.name} is {spec.quantization} already; it cannot be made {chosen.name} again"
        )
    published = chosen.name == "MXFP4" and any(t.type is GgmlType.MXFP4 for t in spec.tensors)
    return replace(
        spec,
        tensors=tuple(
            _stored(group, chosen) if not published or group.experts else _plain(group, chosen.rest)
            for group in _kept(spec.tensors)
        ),
        beside=tuple(_plain(group, chosen.rest) for group in _kept(spec.beside)),
        quantization=chosen.name,
        file=None,
        file_bytes=None,
        basis="config",
        format="",
        notes=(*spec.notes, _EXPERTS_NOTE) if spec.experts and not chosen.experts else spec.notes,
    )


def _kept(groups: Iterable[TensorGroup]) -> Iterable[TensorGroup]:
    return (group for group in groups if group.name not in _ONLY_GGUF)


def _stored(group: TensorGroup, scheme: Scheme) -> TensorGroup:
    if not is_linear(group) or (group.experts and not scheme.experts):
        return _plain(group, scheme.rest)
    matrix, count = matrices(group)
    extra = scheme.beside(matrix)[0] * count
    return replace(group, type=scheme.linear, extra_bytes=extra)


def _plain(group: TensorGroup, kind: GgmlType) -> TensorGroup:
    return replace(group, type=GgmlType.F32 if group.name.endswith(_EXACT) else kind, extra_bytes=0)


def is_linear(group: TensorGroup) -> bool:
    """Whether it is the weight of a linear layer of a block: what the converter does not keep in F32."""
    return bool(group.layers) and len(group.shape) > 1 and group.type is not GgmlType.F32


def matrices(group: TensorGroup) -> tuple[Matrix, int]:
    """The linear layers that one tensor of the group holds, and how many.

    Of MLA's expansions GGUF turns the keys' round and keeps both by heads; in a checkpoint they are the
    rows of one matrix, which is not split here: its scales may differ by a block.
    """
    columns, *rest = group.shape
    if group.experts:
        return Matrix(columns, rest[0]), group.experts
    if group.name.endswith("attn_k_b.weight"):
        return Matrix(rest[0], columns * rest[1]), 1
    rows = 1
    for n in rest:
        rows *= n
    return Matrix(columns, rows), 1


_TENSOR_ENTRY_BYTES = 122  # name, type, shape and place of a tensor in the header
_SHARD_BYTES = 5_000_000_000  # what transformers, and with it nearly everybody, splits at


def checkpoint_bytes(spec: ModelSpec) -> int:
    """Bytes of the safetensors files of a model that `stored` made: tensors exactly, headers nearly."""
    scheme = SCHEMES.get(spec.quantization)
    beside = scheme.beside if scheme else _nothing
    entries = 0
    for group in (*spec.tensors, *spec.beside):
        matrix, count = matrices(group)
        quantized = isinstance(group.type, StoredType)
        entries += group.count * count * (1 + (beside(matrix)[1] if quantized else 0))
    tensors = spec.tensor_bytes + sum(group.total_bytes for group in spec.beside)
    return tensors + entries * _TENSOR_ENTRY_BYTES + 8 * (1 + tensors // _SHARD_BYTES)
