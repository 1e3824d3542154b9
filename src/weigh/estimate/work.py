"""A model reduced to the work its tokens cost: what speed and nothing else depends on.

Decode with one sequence streams every visited weight once per token, so it costs bytes; prefill reuses
each weight for many tokens, so it costs operations. Attention is kept apart because it grows with the
tokens in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from weigh.model.ggml_types import GgmlType
from weigh.model.spec import MixerKind, ModelSpec
from weigh.model.stored_types import NumberFormat


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Attention of `layers` layers alike.

    Attributes:
        flops: operations per (token, cached token) pair and layer, 2 per multiply-add.
        window: tokens looked back at most; 0 when unlimited.
    """

    layers: int
    flops: int
    window: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one token costs.

    Attributes:
        dense: weights per format every token passes through, without the output matrix.
        experts: stacked expert weights per format, of all experts.
        output: (format, weights) of the output matrix, computed once per output token only.
        expert_share: experts visited by one token over all routed experts.
        layers: layers that launch operations.
    """

    dense: tuple[tuple[NumberFormat, int], ...]
    experts: tuple[tuple[NumberFormat, int], ...]
    output: tuple[NumberFormat, int]
    expert_share: float
    expert_count: int
    layers: int
    hidden: int
    vocab: int
    attention: tuple[AttentionWork, ...]


def work(spec: ModelSpec) -> Work:
    """Sum the tensors of `spec` by the way they are used.

    Ignored: norms, biases and the one embedding row looked up per token (well under 0.1 % of the bytes);
    small operations without weights are in the fixed time per layer.
    """
    dense: dict[NumberFormat, int] = {}
    experts: dict[NumberFormat, int] = {}
    output: tuple[NumberFormat, int] | None = None
    for tensor in spec.tensors:
        if len(tensor.shape) < 2:
            continue
        if tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and output is None):
            output = (tensor.type, tensor.elements)
        elif tensor.name.startswith(("token_embd", "per_layer_token_embd", "position_embd")):
            continue
        else:
            pool = experts if tensor.experts else dense
            pool[tensor.type] = pool.get(tensor.type, 0) + tensor.total_elements
    return Work(
        dense=tuple(dense.items()),
        experts=tuple(experts.items()),
        output=output or (GgmlType.F16, 0),
        expert_share=spec.experts_used / spec.experts if spec.experts else 0.0,
        expert_count=spec.experts,
        layers=spec.layers,
        hidden=spec.hidden,
        vocab=spec.vocab,
        attention=tuple(_attention(spec)),
    )


def _attention(spec: ModelSpec) -> list[AttentionWork]:
    """Per kind of attention layer; a recurrent layer has no cache that grows.

    A layer that reads an earlier layer's cache (Gemma 3n and 4) attends like any other. Pooled keys (DeepSeek
    V4) are one in `pooled_every`, so a pair of tokens costs that much less.
    """
    found = []
    for mixer in spec.mixers:
        if mixer.kind is MixerKind.RECURRENT or not mixer.query_heads:
            continue
        # keys alone serve as values too
        flops = 2 * mixer.query_heads * (mixer.key_dim + (mixer.value_dim or mixer.key_dim))
        window = mixer.window if mixer.kind is MixerKind.SLIDING else 0
        found.append(AttentionWork(len(mixer.layers), flops, window))
        if mixer.pooled_every:
            found.append(AttentionWork(len(mixer.layers), flops // mixer.pooled_every, 0))
    return found
