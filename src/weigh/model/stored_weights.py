"""From the tensors of a checkpoint's files to its weights: each with its number format and all its bytes.

A quantized weight is several tensors there: packed numbers, scales, zero points, the order of its groups.
They are told by the ends of their names, and the format by the shapes, which say more than the config:
AWQ and GPTQ both keep 4 bits in int32, the one packs along the outputs, the other along the inputs.

Source of names and layouts: AutoAWQ `WQLinear_GEMM`, AutoGPTQ and GPTQModel `QuantLinear`, bitsandbytes
`QuantState.as_dict` and `Linear8bitLt`, compressed-tensors `compressors/`, ModelOpt's exported
checkpoints, transformers `integrations/mxfp4.py` and `finegrained_fp8.py`, MLX `nn.QuantizedLinear`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from weigh.model.ggml_types import GgmlType
from weigh.model.safetensors import DTYPE_BITS, Header, StoredTensor
from weigh.model.stored_types import NumberFormat, StoredType

LAYER = re.compile(r"((?:.*?\.)?(?:layers|layer|h|blocks|block)\.)(\d{1,5})\.(.+)")
_NUMBERED = re.compile(r"(experts|altup_projections|altup_unembed_projections)\.\d+\.")

# Ends of names: of the weight itself, and of what belongs to it. Those that begin with another come first.
_WEIGHT_ENDS = (".weight_packed", ".qweight", "_blocks", ".weight")
_BESIDE_ENDS = (
    *(".weight_scale_inv", ".weight_scale_2", ".weight_scale", ".weight_global_scale", ".weight_zero_point"),
    *(".weight_shape", ".weight_g_idx", ".weight_format", ".input_global_scale", ".input_scale"),
    *(".activation_scale", ".output_scale", ".k_scale", ".v_scale", ".SCB", ".qzeros", ".scales", ".g_idx"),
    *(".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map"),
    *(".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4", ".biases"),
    *("_scales", ".scale"),
)
_ENDS = (*_BESIDE_ENDS, *_WEIGHT_ENDS)

# How the types of safetensors are called here; flags and indexes go by their width.
_TYPES: Mapping[str, NumberFormat] = {
    **{"F16": GgmlType.F16, "BF16": GgmlType.BF16, "F32": GgmlType.F32, "F64": GgmlType.F64},
    **{"C64": GgmlType.F64, "F4": StoredType.FP4, "F6_E2M3": StoredType.INT6, "F6_E3M2": StoredType.INT6},
    **dict.fromkeys(("F8_E4M3", "F8_E4M3FNUZ"), StoredType.FP8_E4M3),
    **dict.fromkeys(("F8_E5M2", "F8_E5M2FNUZ"), StoredType.FP8_E5M2),
    **dict.fromkeys(("BOOL", "U8", "F8_E8M0"), GgmlType.I8),
    **{"U16": GgmlType.I16, "I16": GgmlType.I16, "U32": GgmlType.I32, "I32": GgmlType.I32},
    **{"U64": GgmlType.I64, "I64": GgmlType.I64, "I8": StoredType.INT8},
}
_BITS: Mapping[int, StoredType] = {
    **{2: StoredType.INT2, 3: StoredType.INT3, 4: StoredType.INT4},
    **{5: StoredType.INT5, 6: StoredType.INT6, 8: StoredType.INT8},
}


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight, or those of all experts of one role in a layer.

    Attributes:
        place: what its name says before the layer's number; "" outside all layers.
        layer: None outside all layers.
        name: what follows the layer's number, or the whole name; `*` for an expert's number.
        shape: in ggml's order, experts last; one number where the file does not keep the shape (NF4).
        bytes: with scales and all that lies beside it.
        scheme: `AWQ-INT4`, `FP8`, ...; "" for a weight that is not quantized.
    """

    place: str
    layer: int | None
    name: str
    shape: tuple[int, ...]
    type: NumberFormat
    bytes: int
    scheme: str

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(slots=True)
class _Alike:
    """Tensors of one end, type and shape: one, or one for each expert."""

    first: StoredTensor
    count: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Module:
    """What the names of one module hold, by their ends; ends of weights with type and shape."""

    weights: dict[tuple[str, str, tuple[int, ...]], _Alike] = field(default_factory=dict)
    beside: dict[str, _Alike] = field(default_factory=dict)


def weights(headers: Iterable[Header], quantization: Mapping[str, object]) -> tuple[Weight, ...]:
    """All weights of a checkpoint; their bytes add up to those of all its tensors.

    Args:
        quantization: what the config says of it; empty when nothing.
    """
    modules: dict[tuple[str, int | None, str], _Module] = {}
    for header in headers:
        for tensor in header.tensors:
            _sort_in(modules, tensor)
    group, bits = _group_and_bits(quantization)
    return tuple(
        weight for place, module in modules.items() for weight in _of_module(place, module, group, bits)
    )


def _sort_in(modules: dict[tuple[str, int | None, str], _Module], tensor: StoredTensor) -> None:
    match = LAYER.fullmatch(tensor.name)
    place, layer, name = (match[1], int(match[2]), match[3]) if match else ("", None, tensor.name)
    if "experts." in name or "altup" in name:
        name = _NUMBERED.sub(r"\1.*.", name)
    base, end = _parted(name)
    module = modules.setdefault((place, layer, base), _Module())
    if end in _BESIDE_ENDS:
        alike = module.beside.setdefault(end, _Alike(tensor))
    else:
        alike = module.weights.setdefault((end, tensor.dtype, tensor.shape), _Alike(tensor))
    alike.count += 1
    alike.bytes += tensor.bytes


@lru_cache(maxsize=1 << 14)
def _parted(name: str) -> tuple[str, str]:
    """`self_attn.q_proj`, `.weight`; a name that ends otherwise has no end."""
    end = next((end for end in _ENDS if name.endswith(end) and len(name) > len(end)), "")
    return name[: len(name) - len(end)], end


def _of_module(
    place: tuple[str, int | None, str], module: _Module, group: int, bits: int
) -> Iterable[Weight]:
    start, layer, base = place
    beside_bytes = sum(alike.bytes for alike in module.beside.values())
    stacked = "*" in base
    for (end, _, _), alike in module.weights.items():
        beside = {e: a.first for e, a in module.beside.items()} if end else {}
        kind, shape, scheme = _format(end, alike.first, beside, group, bits)
        shape = (*shape, alike.count) if stacked or alike.count > 1 else shape
        own = beside_bytes if end else 0
        beside_bytes -= own
        name = base + (".weight" if end else "")
        yield Weight(start, layer, name, shape, kind, alike.bytes + own, scheme)
    if beside_bytes:  # nothing that they could belong to
        for end, alike in module.beside.items():
            kind, shape, _ = _format("", alike.first, {}, group, bits)
            shape = (*shape, alike.count) if stacked else shape
            yield Weight(start, layer, base + end, shape, kind, alike.bytes, "")


_Format = tuple[NumberFormat, tuple[int, ...], str]


def _format(
    end: str, tensor: StoredTensor, beside: Mapping[str, StoredTensor], group: int, bits: int
) -> _Format:
    """Number format, shape in ggml's order and scheme of one weight."""
    shape = tensor.shape[::-1] or (1,)
    if end == "_blocks" and len(shape) > 2:  # (bytes of a group, groups, rows, experts)
        return StoredType.FP4, (2 * shape[0] * shape[1], *shape[2:]), "MXFP4"
    if end == ".qweight" and ".scales" in beside and len(shape) == 2:
        return _group_quantized(shape, beside, bits)
    if end == ".weight_packed" and DTYPE_BITS[tensor.dtype] == 32:
        return _packed(shape, beside.get(".weight_scale"), group, bits, "")
    if any(e.startswith(".weight.") for e in beside):
        nf4 = ".weight.quant_state.bitsandbytes__fp4" not in beside
        return StoredType.NF4 if nf4 else StoredType.FP4, (2 * tensor.bytes,), "NF4" if nf4 else "FP4"
    if DTYPE_BITS[tensor.dtype] == 32 and tensor.dtype != "F32" and ".biases" in beside:
        return _packed(shape, beside.get(".scales"), group, bits, "MLX-")
    if tensor.dtype == "U8" and ".weight_scale" in beside:  # two weights in a byte
        scheme = "NVFP4" if beside[".weight_scale"].dtype == "F8_E4M3" else "MXFP4"
        return StoredType.FP4, (2 * shape[0], *shape[1:]), scheme
    kind = _TYPES[tensor.dtype]
    return kind, shape, _scheme_of(kind) if end else ""


def _scheme_of(kind: NumberFormat) -> str:
    if kind in (StoredType.FP8_E4M3, StoredType.FP8_E5M2):
        return "FP8"
    return kind.name if isinstance(kind, StoredType) else ""


def _group_quantized(shape: tuple[int, ...], beside: Mapping[str, StoredTensor], bits: int) -> _Format:
    """AWQ or GPTQ: `scales` has a column for each output, and so has GPTQ's `qweight`."""
    columns, inputs = shape
    outputs = beside[".scales"].shape[-1] if beside[".scales"].shape else 0
    if outputs and columns != outputs:  # eight outputs in an int32
        bits = _known(32 * columns // outputs, bits)
        return _BITS[bits], (inputs, outputs), f"AWQ-INT{bits}"
    zeros = beside.get(".qzeros")
    if zeros is not None and outputs and len(zeros.shape) == 2:
        bits = _known(32 * zeros.shape[1] // outputs, bits)
    return _BITS[bits], (inputs * 32 // bits, columns), f"GPTQ-INT{bits}"


def _packed(shape: tuple[int, ...], scale: StoredTensor | None, group: int, bits: int, maker: str) -> _Format:
    """Rows of words that hold `bits` each; several widths in one file are told by their groups."""
    if group and scale is not None and scale.shape and scale.shape[-1] > 1:
        bits = _known(32 * shape[0] // (scale.shape[-1] * group), bits)
    return _BITS[bits], (32 * shape[0] // bits, *shape[1:]), f"{maker}INT{bits}"


def _known(bits: int, otherwise: int) -> int:
    return bits if bits in _BITS else otherwise


def _group_and_bits(quantization: Mapping[str, object]) -> tuple[int, int]:
    """Weights that share a scale (0: a whole row or more) and bits of a weight, as the config says."""
    said = [quantization, *_sections(quantization.get("config_groups"))]
    group = next((g for s in said if 0 < (g := _whole(s.get("group_size"))) <= 1 << 20), 0)
    bits = (_whole(s.get(key)) for s in said for key in ("bits", "w_bit", "num_bits"))
    return group, next((b for b in bits if b in _BITS), 4)


def _sections(groups: object) -> list[Mapping[str, object]]:
    """What compressed-tensors says of the weights of each group of modules."""
    sections = groups.values() if isinstance(groups, dict) else ()
    found = (section.get("weights") for section in sections if isinstance(section, dict))
    return [weights for weights in found if isinstance(weights, dict)]


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
