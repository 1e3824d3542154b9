"""A model reduced to the work its tokens cost: what speed and nothing else depends on.

Decode with one sequence streams every visited weight once per token, so it costs bytes; prefill reuses
each weight for many tokens, so it costs operations. Attention is kept apart because it grows with the
tokens in the cache.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from weigh.estimate.graph import Form
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import MixerKind, ModelSpec
from weigh.model.stored_types import NumberFormat


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Attention of `layers` layers alike.

    Attributes:
        flops: operations per (token, cached token) pair and layer, 2 per multiply-add.
        window: tokens looked back at most; 0 when unlimited.
        latent: over a compressed latent (MLA).
    """

    layers: int
    flops: int
    window: int
    latent: bool = False


@dataclass(frozen=True, slots=True)
class StateWork:
    """Carrying the states of `layers` layers alike from token to token.

    Attributes:
        form: whose operations they follow, as `weigh.estimate.graph.Form` names them.
        values: of the state of one layer and sequence.
    """

    layers: int
    form: str
    values: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one token costs.

    Attributes:
        dense: weights per format every token passes through, without the output matrix.
        experts: stacked expert weights per format, of all experts.
        output: (format, weights) of the output matrix, computed once per output token only.
        last_dense, last_experts: of these, the feed-forward part of the last layer: a prompt passes it with its
            last token alone, since only that one's output is wanted (llama.cpp `build_inp_out_ids`).
        expert_share: experts visited by one token over all routed experts.
        expert_layers: layers with routed experts.
        values: numbers that go into and come out of the layers' matrices for one token, of experts those visited:
            what normalising, activating, rotating and quantizing them for the next matrix costs goes by these.
        last_values: of these, the feed-forward part of the last layer.
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
    states: tuple[StateWork, ...] = ()
    last_dense: tuple[tuple[NumberFormat, int], ...] = ()
    last_experts: tuple[tuple[NumberFormat, int], ...] = ()
    expert_layers: int = 0
    values: int = 0
    last_values: int = 0


def work(spec: ModelSpec, layers: Collection[int] | None = None, *, outside: bool = True) -> Work:
    """Sum the tensors of `spec` by the way they are used.

    Ignored: norms, biases and the one embedding row looked up per token (well under 0.1 % of the bytes);
    small operations without weights are in the fixed time per layer.

    Args:
        layers: only these; None for all.
        outside: with what lies outside the layers, the output matrix above all.
    """
    dense: dict[NumberFormat, int] = {}
    experts: dict[NumberFormat, int] = {}
    output: tuple[NumberFormat, int] | None = None
    last = spec.layers - 1 if layers is None or spec.layers - 1 in layers else None
    last_dense: dict[NumberFormat, int] = {}
    last_experts: dict[NumberFormat, int] = {}
    values = last_values = 0
    routed = {layer for tensor in spec.tensors if tensor.experts for layer in tensor.layers}
    for tensor in spec.tensors:
        if len(tensor.shape) < 2 or not (tensor.layers or outside):
            continue
        if tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and output is None):
            output = (tensor.type, tensor.elements)
        elif tensor.name.startswith(("token_embd", "per_layer_token_embd", "position_embd")):
            continue
        else:
            pool = experts if tensor.experts else dense
            ends = sum(tensor.shape[:2]) * (spec.experts_used if tensor.experts else 1)
            count = len(tensor.layers if layers is None else set(tensor.layers).intersection(layers))
            if count or not tensor.layers:
                pool[tensor.type] = pool.get(tensor.type, 0) + tensor.elements * (count or 1)
                values += ends * (count or 1)
            if last in tensor.layers and tensor.name.startswith("blk.{}.ffn_"):
                pool = last_experts if tensor.experts else last_dense
                pool[tensor.type] = pool.get(tensor.type, 0) + tensor.elements
                last_values += ends
    return Work(
        dense=tuple(dense.items()),
        experts=tuple(experts.items()),
        output=output or (GgmlType.F16, 0),
        expert_share=spec.experts_used / spec.experts if spec.experts else 0.0,
        expert_count=spec.experts,
        layers=spec.layers if layers is None else len(layers),
        hidden=spec.hidden,
        vocab=spec.vocab if outside else 0,
        attention=tuple(_attention(spec, layers)),
        states=tuple(_states(spec, layers)),
        last_dense=tuple(last_dense.items()),
        last_experts=tuple(last_experts.items()),
        expert_layers=len(routed if layers is None else routed.intersection(layers)),
        values=values,
        last_values=last_values,
    )


def _attention(spec: ModelSpec, layers: Collection[int] | None) -> list[AttentionWork]:
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
        count = len(mixer.layers if layers is None else set(mixer.layers).intersection(layers))
        if count:
            found.append(AttentionWork(count, flops, window, mixer.kind is MixerKind.LATENT))
        if count and mixer.pooled_every:
            found.append(AttentionWork(count, flops // mixer.pooled_every, 0))
    return found


def _states(spec: ModelSpec, layers: Collection[int] | None) -> list[StateWork]:
    """Per kind of recurrence, beside attention or instead of it."""
    found = []
    for mixer in spec.mixers:
        count = len(mixer.layers if layers is None else set(mixer.layers).intersection(layers))
        if mixer.state_elements and count:
            found.append(StateWork(count, _form(spec, mixer.layers[0]), mixer.state_elements))
    return found


def _form(spec: ModelSpec, layer: int) -> Form:
    """As graph.py tells them apart, by the matrices a layer has."""
    roles = {t.name for t in spec.tensors if layer in t.layers}
    if "blk.{}.shortconv.in_proj.weight" in roles:
        return Form.CONVOLUTION
    if "blk.{}.ssm_x.weight" in roles:
        return Form.MAMBA
    return Form.DELTA if "blk.{}.attn_gate.weight" in roles else Form.MAMBA2
