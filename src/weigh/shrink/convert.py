"""A folder of safetensors files as GGUF: names, the order of rows, constants that llama.cpp expects as tensors.

What a family needs beyond new names is small: Llama's queries and keys come with the two halves of each head one
after the other, and llama.cpp wants their rows in turns; Gemma's norms are stored less one. What is not known to be
right is refused.

Source of the differences: llama.cpp `convert_hf_to_gguf.py` and the graphs of `src/models/` (MIT).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weigh.errors import BadFile, NotSupported
from weigh.model.checkpoint import checkpoint_files, read_checkpoint
from weigh.model.checkpoint_names import alternatives, beside
from weigh.model.config import config_fields, text_part
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import FILE_TYPES, printable
from weigh.model.gguf_encoding import U32, NewTensor, pair
from weigh.model.safetensors import StoredTensor, read_header
from weigh.model.source import LocalFile
from weigh.model.spec import HyperValue, ModelSpec, TensorGroup
from weigh.model.stored_weights import LAYER
from weigh.shrink.ggml import Bytes
from weigh.shrink.tokenizer import tokenizer_entries

_SILU, _GELU = "silu", "gelu_pytorch_tanh"
# `model_type` and the activation that llama.cpp computes for it
FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), _SILU),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), _GELU),
}
_SCALED_BY_WIDTH = {("gemma2", 46), ("gemma3", 62)}  # whose queries llama.cpp scales by width / heads (27B)
_ROPES = ("default", "none", "", "linear", "llama3")
_TYPES = {"F32": GgmlType.F32, "F16": GgmlType.F16, "BF16": GgmlType.BF16}
_ROTATED = ("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias")
_NUMBERS = {name: number for number, name in FILE_TYPES.items()}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's numbers come from: a file's stretch, or themselves when they are not stored."""

    tensor: NewTensor
    path: Path | None = None
    start: int = 0
    stored: GgmlType = GgmlType.F32
    own: NDArray[np.float32] | None = None


class CheckpointWeights:
    """See `weigh.shrink.gguf_file.Weights`: the tensors of a checkpoint as llama.cpp wants them."""

    def __init__(self, path: Path) -> None:
        """Read the headers, the config and the tokenizer.

        Raises:
            BadInput: the files do not make one model.
            NotSupported: an architecture, a tokenizer or a setting that is not converted.
        """
        folder = path if path.is_dir() else path.parent
        read = read_checkpoint(path)
        config = text_part(config_fields(folder / "config.json"))
        self._family = _family(config, read)
        self._places = {place.tensor.name: place for place in _placed(path, config, read)}
        self.spec = replace(read, tensors=tuple(_as_converted(group) for group in read.tensors))
        self.tensors: Sequence[NewTensor] = tuple(place.tensor for place in self._places.values())
        self.entries: Mapping[str, bytes] = _entries(self.spec, folder, config)

    def rows(self, tensor: NewTensor, start: int, stop: int) -> Bytes:
        place = self._places[tensor.name]
        if place.own is not None:
            return place.own.reshape(prod(tensor.shape[1:]), -1)[start:stop].view(np.uint8)
        row_bytes = place.stored.row_bytes(tensor.shape[0])
        if self._family in ("llama", "mistral") and tensor.name.endswith(_ROTATED):
            count = prod(tensor.shape[1:])
            return self._converted(tensor, self._in_turns(place, self._read(place, 0, count * row_bytes)))[
                start:stop
            ]
        data = self._read(place, start * row_bytes, (stop - start) * row_bytes)
        return self._converted(tensor, data.reshape(stop - start, row_bytes))

    def _read(self, place: _Place, start: int, length: int) -> Bytes:
        assert place.path is not None
        with LocalFile(place.path, kind="safetensors file") as file:
            data = file.read(place.start + start, length)
        if len(data) != length:
            raise BadFile(place.path, "shrank while it was read")
        return np.frombuffer(data, dtype=np.uint8)

    def _in_turns(self, place: _Place, data: Bytes) -> Bytes:
        """Rows of a head's first half and of its second, one of each in turn; a bias has rows of one number."""
        hyper, name = self.spec.hyper, place.tensor.name
        heads = hyper["attention.head_count" if "attn_q" in name else "attention.head_count_kv"]
        assert isinstance(heads, int)
        rows = data.size // (place.stored.block_bytes * (place.tensor.shape[0] if "weight" in name else 1))
        wanted = heads * self.spec.mixers[0].key_dim
        if rows != wanted or rows % (2 * heads):
            assert place.path is not None
            raise BadFile(
                place.path,
                f"`{name}` has {rows:,} rows, and the config's {heads} heads take {wanted:,} in pairs",
            )
        turned = data.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2)
        return np.ascontiguousarray(turned).reshape(prod(place.tensor.shape[1:]), -1)

    def _converted(self, tensor: NewTensor, rows: Bytes) -> Bytes:
        """Norms and biases in float32, Gemma's norms with the one that its code adds."""
        place = self._places[tensor.name]
        if len(tensor.shape) > 1 or (place.stored is tensor.type and not self._family.startswith("gemma")):
            return rows
        from weigh.shrink import ggml

        weights = ggml.dequantize(rows, place.stored)
        if self._family.startswith("gemma") and tensor.name.endswith("norm.weight"):
            weights = weights + np.float32(1)
        return weights.view(np.uint8)


def _as_converted(group: TensorGroup) -> TensorGroup:
    return replace(group, type=GgmlType.F32) if len(group.shape) == 1 else group


# --- what is refused -----------------------------------------------------------------------------------


def _family(config: Mapping[str, object], spec: ModelSpec) -> str:
    """The family, when all that llama.cpp does for it is what this model's own code does."""
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        said = printable(str(family)[:40])
        raise NotSupported(
            f"{spec.name}: checkpoints of `{said}` are not converted; those of {', '.join(FAMILIES)} are",
            hint="name a GGUF file of it",
        )
    activation = config.get("hidden_activation") or config.get("hidden_act") or FAMILIES[family]
    if family == "gemma":  # whose configs say `gelu` and mean its approximation
        activation = FAMILIES[family]
    if activation != FAMILIES[family]:
        raise _unlike(spec, "its activation", activation)
    if config.get("use_sliding_window") is True:
        raise _unlike(spec, "`use_sliding_window`", True)
    kind, _ = _rope(config)
    if kind not in _ROPES:
        raise _unlike(spec, "its rotary positions", kind)
    _check_query_scale(config, family, spec)
    return family


def _check_query_scale(config: Mapping[str, object], family: str, spec: ModelSpec) -> None:
    scalar, heads = config.get("query_pre_attn_scalar"), spec.hyper.get("attention.head_count")
    if scalar is None or not isinstance(heads, int):
        return
    by_width = (spec.architecture, spec.layers) in _SCALED_BY_WIDTH
    computed = spec.hidden // heads if by_width else spec.hyper.get("attention.key_length")
    if scalar != computed:
        raise _unlike(spec, "`query_pre_attn_scalar`", scalar)


def _unlike(spec: ModelSpec, what: str, value: object) -> NotSupported:
    said = printable(str(value)[:40])
    return NotSupported(f"{spec.name}: {what} ({said}) is not what llama.cpp computes for this architecture")


def _rope(config: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    """The kind of rotary positions of full attention, and its settings."""
    for key in ("rope_parameters", "rope_scaling"):
        found = config.get(key)
        if isinstance(found, dict):
            inner = found.get("full_attention")
            settings = inner if isinstance(inner, dict) else found
            return str(settings.get("rope_type") or settings.get("type") or ""), settings
    return "", {}


# --- tensors -------------------------------------------------------------------------------------------


def _placed(path: Path, config: Mapping[str, object], spec: ModelSpec) -> Iterator[_Place]:
    wanted = {(group.name, layer): group.shape for group in spec.tensors for layer in group.layers or (None,)}
    if _rope(config)[0] == "llama3":
        factors = _llama3_factors(_rope(config)[1], spec)
        wanted.pop(("rope_freqs.weight", None), None)
        yield _Place(NewTensor("rope_freqs.weight", (factors.size,), GgmlType.F32), own=factors)
    tied = config.get("tie_word_embeddings") is True
    for file in checkpoint_files(path):
        with LocalFile(file, kind="safetensors file") as opened:
            header = read_header(opened)
        for stored in header.tensors:
            place = _of_stored(stored, wanted, spec, tied=tied)
            if place is not None:
                kind, tensor = place
                yield _Place(tensor, file, header.header_bytes + stored.start, kind)
    if wanted:
        (name, layer), *_ = wanted
        raise NotSupported(f"{spec.name}: `{name.format(layer)}` is nowhere in its files")


def _of_stored(
    stored: StoredTensor,
    wanted: dict[tuple[str, int | None], tuple[int, ...]],
    spec: ModelSpec,
    *,
    tied: bool,
) -> tuple[GgmlType, NewTensor] | None:
    """A stored tensor under its GGUF name; None for one that decoding text does not use."""
    match = LAYER.fullmatch(stored.name)
    layer, name = (int(match[2]), match[3]) if match else (None, stored.name)
    if beside(stored.name) or name.endswith("rotary_emb.inv_freq"):
        return None
    if stored.dtype not in _TYPES:
        raise NotSupported(
            f"{spec.name}: `{stored.name}` is {stored.dtype}; F32, F16 and BF16 are converted",
            hint="name the original, unquantized checkpoint",
        )
    shape = stored.shape[::-1]
    for names in alternatives(name, inside=layer is not None):
        if len(names) == 1 and wanted.get((names[0], layer)) == shape:
            del wanted[names[0], layer]
            kind = _TYPES[stored.dtype]
            return kind, NewTensor(names[0].format(layer), shape, kind if len(shape) > 1 else GgmlType.F32)
    if tied and layer is None and stored.shape[:1] == (spec.vocab,):  # the embedding once more
        return None
    raise NotSupported(f"{spec.name}: nobody knows what `{stored.name}` is in a GGUF file")


def _llama3_factors(settings: Mapping[str, object], spec: ModelSpec) -> NDArray[np.float32]:
    """What llama.cpp divides each frequency by; the rule as in transformers `_compute_llama3_parameters`."""

    def number(key: str) -> float:
        value = settings.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise NotSupported(f"{spec.name}: its rotary positions lack `{key}`")
        return float(value)

    factor, low, high = number("factor"), number("low_freq_factor"), number("high_freq_factor")
    context = number("original_max_position_embeddings")
    base, width = spec.hyper["rope.freq_base"], spec.hyper["rope.dimension_count"]
    assert isinstance(base, int | float)
    assert isinstance(width, int)
    found = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * base ** (i / width)
        if wavelength < context / high:
            found.append(1.0)
        elif wavelength > context / low:
            found.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


# --- metadata ------------------------------------------------------------------------------------------


def _entries(spec: ModelSpec, folder: Path, config: Mapping[str, object]) -> dict[str, bytes]:
    values: dict[str, HyperValue] = {
        "general.architecture": spec.architecture,
        "general.name": spec.name,
        "general.file_type": _NUMBERS.get(spec.quantization, 1),
        **{f"{spec.architecture}.{key}": value for key, value in _hyper(spec).items()},
    }
    found = {key: pair(key, value) for key, value in values.items()}
    found["general.file_type"] = pair("general.file_type", values["general.file_type"], U32)
    return found | tokenizer_entries(folder, config, spec)


def _hyper(spec: ModelSpec) -> dict[str, HyperValue]:
    return {"vocab_size": spec.vocab, "block_count": spec.layers, **spec.hyper}
