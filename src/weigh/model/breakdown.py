"""Where a model's parameters and bytes are, and what a token of context costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind, ModelSpec

# The first pattern found in a tensor's name tells its part.
_PARTS = (
    ("embedding", re.compile(r"^(per_layer_)?token_embd\.|^position_embd\.|^token_types\.")),
    ("output", re.compile(r"^output\.")),
    ("norms", re.compile(r"norm")),
    ("experts", re.compile(r"_exps(\.|_)|ffn_gate_inp\.|exp_probs_b")),
    ("feed-forward", re.compile(r"\.ffn_|\.channel_mix_")),
    ("attention", re.compile(r"\.attn_|\.attn\.|\.indexer[._]")),
    ("recurrence", re.compile(r"\.ssm_|\.shortconv\.|\.time_mix_")),
    ("residual mixing", re.compile(r"\.hc_|^output_hc|^altup|\.altup|\.laurel")),
)
_OTHER = "other"
_ORDER = (
    *("embedding", "attention", "recurrence", "feed-forward", "experts", "residual mixing", "norms"),
    *("output", _OTHER),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One share of a model; `types` are the number formats in it, most bytes first."""

    name: str
    parameters: int
    bytes: int
    types: tuple[str, ...]


def breakdown(spec: ModelSpec) -> tuple[Part, ...]:
    """The parts a model has, in the order of a forward pass; together they are all of it.

    Experts include their router. With tied embeddings the embedding is also the output matrix.
    """
    parameters: Counter[str] = Counter()
    type_bytes: dict[str, Counter[str]] = {}
    for tensor in spec.tensors:
        part = _part(tensor.name)
        parameters[part] += tensor.total_elements
        type_bytes.setdefault(part, Counter())[tensor.type.name] += tensor.total_bytes
    return tuple(
        Part(
            name,
            parameters[name],
            type_bytes[name].total(),
            tuple(kind for kind, _ in type_bytes[name].most_common()),
        )
        for name in _ORDER
        if name in type_bytes
    )


def _part(tensor: str) -> str:
    return next((part for part, pattern in _PARTS if pattern.search(tensor)), _OTHER)


def kv_bytes_per_token(
    spec: ModelSpec, type_k: GgmlType = GgmlType.F16, type_v: GgmlType = GgmlType.F16
) -> int:
    """Bytes of KV cache that each further token of context takes, at any length.

    Full and latent layers grow without end, and so do pooled keys. Sliding layers stop at their window,
    see `window_bytes_per_token`; recurrent layers do not grow.
    """
    pooled = sum(
        len(mixer.layers) * type_k.row_bytes(mixer.pooled_dim) // mixer.pooled_every
        for mixer in spec.mixers
        if mixer.pooled_every
    )
    growing = _bytes_per_token(spec, type_k, type_v, lambda mixer: mixer.kind is not MixerKind.SLIDING)
    return growing + pooled


def window_bytes_per_token(
    spec: ModelSpec, type_k: GgmlType = GgmlType.F16, type_v: GgmlType = GgmlType.F16
) -> int:
    """Bytes of KV cache per token in sliding layers, for tokens within their window."""
    return _bytes_per_token(spec, type_k, type_v, lambda mixer: mixer.kind is MixerKind.SLIDING)


def _bytes_per_token(
    spec: ModelSpec, type_k: GgmlType, type_v: GgmlType, counts: Callable[[Mixer], bool]
) -> int:
    return sum(
        len(mixer.layers) * _layer_bytes_per_token(mixer, type_k, type_v)
        for mixer in spec.mixers
        if counts(mixer)
    )


def _layer_bytes_per_token(mixer: Mixer, type_k: GgmlType, type_v: GgmlType) -> int:
    """A latent layer stores one row of `key_dim`; its values are a part of that row."""
    keys = type_k.row_bytes(mixer.kv_heads * mixer.key_dim)
    if mixer.kind is MixerKind.LATENT:
        return keys
    return keys + type_v.row_bytes(mixer.kv_heads * mixer.value_dim)
