"""What a model's files say, checked against itself: in plain words, whatever cannot all be true.

A contradiction is told, never corrected. Each rule leaves room for what real models do: names round their
sizes, vocabularies are padded, contexts are stretched by settings that leave `max_position_embeddings` as
it was. None of the rules speaks up for any model of the catalog (benchmarks/checkpoints.py --checks).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from weigh import units
from weigh.errors import BadInput
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import printable
from weigh.model.spec import MixerKind, ModelSpec, TensorGroup
from weigh.model.stored_types import NumberFormat

if TYPE_CHECKING:
    from weigh.model.safetensors import Header


@dataclass(frozen=True, slots=True)
class Said:
    """What the files of a checkpoint say beside their tensors.

    Attributes:
        config: of `config.json`; empty when there is none.
        quantization: what the config says of it; empty when nothing.
        index: of the index of its files, when there is one.
        shapes: the model that the config alone describes.
    """

    config: Mapping[str, object]
    quantization: Mapping[str, object]
    index: Mapping[str, object] | None
    headers: tuple[Header, ...]
    shapes: ModelSpec


def contradictions(spec: ModelSpec, said: Said | None = None) -> tuple[str, ...]:
    """What cannot all be true of a model, one line each; empty when nothing was found.

    Args:
        said: what a checkpoint's other files say; None for GGUF and for a config alone, which the spec holds.
    """
    found = [
        *_size_in_name(spec),
        *_format_in_name(spec),
        *_bytes_beyond_tensors(spec),
        *_layers_there(spec),
        *_attention_widths(spec),
        *_vocabulary(spec),
        *_context(spec),
    ]
    if said is not None:
        found += [*_index_against_files(said), *_config_against_files(spec, said), *_method(spec, said)]
    return tuple(found)


# --- names ---------------------------------------------------------------------------------------------

# `7B`, `1.5b`, `1_6b`, `135M`, `8x7B`, `A3B`; not `E4B` (Gemma's effective size) nor `4bit`.
_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(a?)(\d{1,4}(?:[._]\d{1,2})?)([bmt])(?![a-z0-9])", re.I)
_UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}
# Falcon 3's "1B" holds 1.67 billion, Gemma 2's "2b" 2.6; Mixtral's 8x7B shares all but its experts: 46.7.
_LEAST_OF_SAID, _MOST_OF_SAID = 0.65, 1.75


def _size_in_name(spec: ModelSpec) -> Iterator[str]:
    """Parameters against the size in the name; any of several sizes may be meant, in all or per token."""
    sizes = [(match[0], _said_parameters(match)) for match in _SIZE.finditer(_last_part(spec.name))]
    held = spec.parameters + sum(group.total_elements for group in spec.beside)
    counts = (spec.parameters, held, spec.active_parameters)
    if sizes and not any(
        _LEAST_OF_SAID <= count / size <= _MOST_OF_SAID for _, size in sizes for count in counts
    ):
        said = " and ".join(f"`{text}`" for text, _ in sizes)
        yield f"the name says {said}, but there are {units.count(spec.parameters)} parameters"


def _said_parameters(match: re.Match[str]) -> float:
    return int(match[1] or 1) * float(match[3].replace("_", ".")) * _UNITS[match[4].lower()]


def _last_part(name: str) -> str:
    return PurePath(name).name


# --- number formats ------------------------------------------------------------------------------------

_RECIPE = re.compile(
    r"(?<![A-Z0-9])(I?Q\d(?:_[0-9K])?(?:_[A-Z]{1,3})?|TQ\d_0|BF16|F16|F32)(?![A-Z0-9])", re.I
)
_CLAIMS = (  # what names of checkpoints call formats, and the bits these have; the first found counts
    (re.compile(r"(?i)(?<![a-z])(awq|nf4|int4|w4a16|mxfp4|nvfp4|4[-_]?bit)(?![a-z0-9])"), 4),
    (re.compile(r"(?i)(?<![a-z])(fp8|int8|w8a8|w8a16|8[-_]?bit)(?![a-z0-9])"), 8),
)


def _format_in_name(spec: ModelSpec) -> Iterator[str]:
    if spec.basis != "file":
        return
    if spec.format == "safetensors":
        yield from _claimed_bits(spec)
    else:
        yield from _claimed_recipe(spec)


def _claimed_bits(spec: ModelSpec) -> Iterator[str]:
    """A checkpoint called AWQ or FP8 whose matrices are something else."""
    claims = [
        (match[0], bits) for pattern, bits in _CLAIMS if (match := pattern.search(_last_part(spec.name)))
    ]
    quantized = tuple(
        group for group in spec.tensors if group.type.quantized
    )  # what is not may be left alone
    held = _most_common_format(replace(spec, tensors=quantized)) or _most_common_format(spec)
    if len(claims) == 1 and held is not None:
        text, bits = claims[0]
        if not bits / 1.5 < held.bits_per_weight < 1.5 * bits:
            yield f"the name says `{text}`, but most weights are {held.name}"


def _claimed_recipe(spec: ModelSpec) -> Iterator[str]:
    """A GGUF file whose name or header claims a recipe that its tensors do not follow."""
    # the last claim of a name: those before may be of what it was made from (`Nemotron-BF16-Q4_K_M`)
    names = [spec.quantization, *_RECIPE.findall(spec.file.name if spec.file else "")[-1:]]
    held = _most_common_format(spec)
    if held is GgmlType.MXFP4:  # gpt-oss's experts, which stay as they are whatever the rest becomes
        return
    for claim in dict.fromkeys(name.upper() for name in names):
        expected = _expected_format(spec, claim)
        if held is not None and expected is not None and not _near(held, expected):
            where = "its header" if claim == spec.quantization.upper() else "its name"
            yield f"{where} says {claim}, but most weights are {held.name}"


def _expected_format(spec: ModelSpec, recipe: str) -> NumberFormat | None:
    """The format of most weights under a recipe; None for one that weigh does not know."""
    from weigh.model.quantization import quantize

    plain = replace(
        spec, tensors=tuple(replace(t, type=GgmlType.F16) if t.type.quantized else t for t in spec.tensors)
    )
    try:
        return _most_common_format(quantize(plain, recipe))
    except BadInput:
        return None


def _near(held: NumberFormat, expected: NumberFormat) -> bool:
    """Whether they are the same kind: makers of files vary single tensors, and fall back to legacy formats."""
    return held is expected or abs(held.bits_per_weight / expected.bits_per_weight - 1) < 0.15


def _most_common_format(spec: ModelSpec) -> NumberFormat | None:
    """The format of most weights in the layers' matrices, which every recipe is named after."""
    held: Counter[NumberFormat] = Counter()
    for group in spec.tensors:
        if group.layers and len(group.shape) > 1:
            held[group.type] += group.total_elements
    return held.most_common(1)[0][0] if held else None


# --- sizes ---------------------------------------------------------------------------------------------

_HEADER_ROOM_BYTES = 256 << 20  # more than any header


def _bytes_beyond_tensors(spec: ModelSpec) -> Iterator[str]:
    held = spec.tensor_bytes + sum(group.total_bytes for group in spec.beside)
    if spec.file_bytes is not None and spec.file_bytes > 1.02 * held + _HEADER_ROOM_BYTES:
        size = units.gib(spec.file_bytes)
        yield f"its tensors take {units.gib(held)}, but its files are {size} long"


def _layers_there(spec: ModelSpec) -> Iterator[str]:
    if spec.basis != "file":
        return
    there = {layer for group in spec.tensors for layer in group.layers}
    missing = [layer for layer in range(spec.layers) if layer not in there]
    if missing:
        yield f"it has {spec.layers} layers, but {len(missing)} have no tensors, first layer {missing[0]}"


def _attention_widths(spec: ModelSpec) -> Iterator[str]:
    """Rows of the query, key and value matrices against heads and their width."""
    rows = {
        (group.name, layer): group.shape[1]
        for group in spec.tensors
        if group.name in _ATTENTION and len(group.shape) > 1
        for layer in group.layers
    }
    for mixer in spec.mixers:
        if mixer.kind not in (MixerKind.FULL, MixerKind.SLIDING) or not mixer.kv_heads:
            continue
        query, key = mixer.query_heads * mixer.key_dim, mixer.kv_heads * mixer.key_dim
        allowed = {"q": (query, 2 * query), "k": (key,), "v": (mixer.kv_heads * mixer.value_dim,)}
        for role, widths in allowed.items():
            name = f"blk.{{}}.attn_{role}.weight"
            wrong = [layer for layer in mixer.layers if rows.get((name, layer), widths[0]) not in widths]
            if wrong:
                made = f"`{name.format(wrong[0])}` makes {rows[name, wrong[0]]:,} values"
                yield f"{made}, but the heads take {widths[0]:,}"


_ATTENTION = frozenset(f"blk.{{}}.attn_{role}.weight" for role in "qkv")


def _vocabulary(spec: ModelSpec) -> Iterator[str]:
    rows = _embedding_rows(spec.tensors)
    if rows and (rows < spec.vocab or rows > 1.05 * spec.vocab + 4096):
        yield f"the vocabulary has {spec.vocab:,} tokens, but the embedding has {rows:,} rows"


def _embedding_rows(tensors: tuple[TensorGroup, ...]) -> int:
    return next((t.shape[1] for t in tensors if t.name == "token_embd.weight" and len(t.shape) > 1), 0)


# --- context -------------------------------------------------------------------------------------------


def _context(spec: ModelSpec) -> Iterator[str]:
    """Context against how the positions are stretched, and against the window.

    A context of the length before stretching is no contradiction: Qwen's documentation has users add YaRN
    and leave the rest. Llama 3's own way has a factor that is not the stretch.
    """
    original = _number(spec.hyper.get("rope.scaling.original_context_length"))
    factor = _number(spec.hyper.get("rope.scaling.factor"))
    kind = spec.hyper.get("rope.scaling.type")
    context = spec.context_train
    if context and original and factor and kind in ("yarn", "linear"):
        stretched = original * factor
        if not any(0.95 <= context / length <= 1.05 for length in (stretched, original)):
            yield (
                f"the context is {context:,} tokens, but rope scaling stretches "
                f"{original:,.0f} by {factor:g} to {stretched:,.0f}"
            )
    windows = [mixer.window for mixer in spec.mixers if mixer.kind is MixerKind.SLIDING]
    if context and windows and max(windows) > context:
        yield f"the context is {context:,} tokens, but the sliding window {max(windows):,}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


# --- checkpoints ---------------------------------------------------------------------------------------


def _index_against_files(said: Said) -> Iterator[str]:
    if said.index is None:
        return
    places = {tensor.name: header.path.name for header in said.headers for tensor in header.tensors}
    listed = said.index.get("weight_map")
    if isinstance(listed, dict):
        lost = [name for name, file in listed.items() if places.get(name) != file]
        if lost:
            where = f"`{printable(str(lost[0]))}`"
            yield f"the index lists {len(lost)} tensors that are not where it says, first {where}"
    metadata = said.index.get("metadata")
    total = _number(metadata.get("total_size")) if isinstance(metadata, dict) else 0
    held = sum(tensor.bytes for header in said.headers for tensor in header.tensors)
    if total and not 0.99 <= total / held <= 1.01:  # some count headers, some what is tied twice
        yield f"the index says {units.gib(total)} in all, but the tensors take {units.gib(held)}"


def _config_against_files(spec: ModelSpec, said: Said) -> Iterator[str]:
    if not said.shapes.tensors:
        return
    described = said.shapes.parameters
    if not 0.98 <= spec.parameters / described <= 1.02:
        counts = units.count(described), units.count(spec.parameters)
        yield f"the config describes {counts[0]} parameters, but the files hold {counts[1]}"
    makers = said.config.get("architectures")
    decodes = isinstance(makers, list) and any("CausalLM" in str(maker) for maker in makers)
    if decodes and said.config.get("tie_word_embeddings") is False and spec.tied_embeddings:
        yield "the config says that the output matrix is no token embedding, but there is none of its own"


def _method(spec: ModelSpec, said: Said) -> Iterator[str]:
    """What the config says of quantization against what the tensors are."""
    quantized = any(group.type.quantized for group in spec.tensors)
    method = said.quantization.get("quant_method") or said.quantization.get("quant_algo")
    if said.quantization and not quantized:
        name = f" ({printable(str(method))[:40]})" if method else ""
        yield f"the config says that it is quantized{name}, but no tensor is"
    if quantized and said.config and not said.quantization:
        yield f"its tensors are {spec.quantization}, but the config does not say so"
