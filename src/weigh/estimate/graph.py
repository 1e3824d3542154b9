"""A model as the sequence of tensors llama.cpp computes for it: widths per layer, read off its weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

from weigh.model.mixers import largest_count
from weigh.model.spec import Mixer, MixerKind, ModelSpec, TensorGroup

REPEATS_KEPT = 3  # where tensors lie repeats from layer to layer after the second of a kind
PER_LAYER_EMBEDDING = "per_layer_token_embd.weight"
ALTUP_STREAMS = 6  # fitted to the engine's figures for Gemma 3n, which are met to 6 %
MULTIMODAL_POSITIONS = 4  # ggml.h GGML_MROPE_SECTIONS
Kind = TypeVar("Kind", bound=Hashable)


class Attention(NamedTuple):
    """Widths in values per token. `query` counts heads x key width, `output` heads x value width.

    Attributes:
        key, value: 0 where an earlier layer's cache is read.
        fused: one matrix makes query, key and value.
        gated: the query's matrix also makes a gate as wide as the query.
        value_last: made after the key, as in graphs with sliding layers.
    """

    query: int
    key: int
    value: int
    output: int
    fused: bool = False
    gated: bool = False
    value_last: bool = False


class LatentAttention(NamedTuple):
    """MLA in its absorbed form.

    Attributes:
        query_latent: compressed query; 0 when the query is made directly.
        query: heads x width of a head, with and without position.
        latent, rope: cached latent and its rotary part.
        output: heads x value width.
        index_heads, index_dim, picked: of an indexer that picks the tokens to attend to; 0 without one.
    """

    heads: int
    query_latent: int
    query: int
    latent: int
    rope: int
    output: int
    index_heads: int = 0
    index_dim: int = 0
    picked: int = 0


class Form(StrEnum):
    """Whose operations a layer with a state follows."""

    MAMBA = "mamba"
    MAMBA2 = "mamba2"
    DELTA = "gated delta net"
    CONVOLUTION = "short convolution"


class Recurrence(NamedTuple):
    """A layer with a state, in values per token.

    Attributes:
        projected: width of the first matrix.
        convolved, taps: width that passes the convolution, and the tokens it looks back at.
        inner: width before the last matrix.
        state: values of the state of one sequence, the convolution's apart.
    """

    form: Form
    projected: int
    convolved: int
    taps: int
    inner: int
    state: int


class FeedForward(NamedTuple):
    """Widths of a layer's feed-forward part; all 0 when it has none.

    Attributes:
        width: of the dense part, or of the experts every token visits.
        matrices: matrices before the activation: 2 with a gate, 1 without; 0 when they are fused in one.
    """

    width: int = 0
    matrices: int = 2
    experts: int = 0
    experts_used: int = 0
    expert_width: int = 0
    expert_matrices: int = 2
    expert_hidden: int = 0  # width the experts read and make; less than the model's in a latent space
    weighted_first: bool = False  # an expert's share multiplies its input instead of its output


class Layer(NamedTuple):
    """One layer.

    Attributes:
        mixers: none, one, or attention and a state side by side.
        sliding: reads the mask of the sliding layers; None when it reads none.
        parallel: the feed-forward part reads the mixer's input instead of its output.
        stream_first: the sum with the feed-forward part overwrites the stream instead of that part (phi3.cpp).
    """

    mixers: tuple[Attention | LatentAttention | Recurrence, ...]
    feed_forward: FeedForward
    sliding: bool | None
    parallel: bool = False
    stream_first: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """What the compute buffer depends on, the settings apart. Compared by identity: `graph` shares them.

    Attributes:
        layers: a few of each kind and the last ones; the rest repeat them.
        every_layer: all of them, in order.
        key_rotation, value_rotation: width of the rotation that a quantized cache brings; 0 for none.
        widest_input: most columns of any matrix.
        per_layer_embedding: width, all layers together, of embeddings that every layer adds (Gemma 3n, 4).
        picking: layers whose attention picks its tokens, and how many each picks.
        cached: False when no layer keeps anything: the mask then covers the micro-batch alone.
        extra_streams: copies of the residual stream beside it (Gemma 3n's AltUp, predictions included).
    """

    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    positions: int
    key_rotation: int
    value_rotation: int
    widest_input: int
    per_layer_embedding: int
    extra_streams: int
    picking: tuple[int, int] = (0, 0)
    cached: bool = True
    every_layer: tuple[Layer, ...] = ()


def graph(spec: ModelSpec) -> Graph:
    """Read the graph off the names and shapes of the tensors; number formats do not matter."""
    elements = sum(t.total_elements for t in spec.tensors)
    key = (spec.architecture, spec.layers, spec.hidden, spec.vocab, spec.mixers, spec.experts_used, elements)
    found = _graphs.get(key)
    if found is None:
        if len(_graphs) >= _REMEMBERED:
            _graphs.clear()
        found = _graphs[key] = _graph(spec)
    return found


_REMEMBERED = 4096
_graphs: dict[object, Graph] = {}  # by shape: the recipes of one model share a graph


def _layers(spec: ModelSpec) -> tuple[Layer, ...]:
    iswa = any(m.kind is MixerKind.SLIDING for m in spec.mixers)
    mixer_of = {layer: number for number, mixer in enumerate(spec.mixers) for layer in mixer.layers}
    made: dict[tuple[int, tuple[int, ...]], Layer] = {}  # most layers are alike
    layers = []
    for layer, tensors in enumerate(_tensors(spec)):
        kind = mixer_of[layer], tuple(tensors)
        if kind not in made:
            groups = (spec.tensors[number] for number in tensors)
            roles = {group.name.removeprefix("blk.{}."): group.shape for group in groups}
            made[kind] = _layer(spec, roles, spec.mixers[kind[0]], iswa)
        layers.append(made[kind])
    return tuple(layers)


def _graph(spec: ModelSpec) -> Graph:
    layers = _layers(spec)
    rotations = _rotations(spec)
    return Graph(
        hidden=spec.hidden,
        vocab=spec.vocab,
        layers=representatives(layers),
        positions=MULTIMODAL_POSITIONS if "rope.dimension_sections" in spec.hyper else 1,
        key_rotation=rotations[0],
        value_rotation=rotations[1],
        widest_input=max(
            (t.shape[0] * _inputs(t, spec) for t in spec.tensors if len(t.shape) > 1), default=0
        ),
        per_layer_embedding=next((t.shape[0] for t in spec.tensors if t.name == PER_LAYER_EMBEDDING), 0),
        extra_streams=ALTUP_STREAMS if any(t.name == "altup_proj.weight" for t in spec.tensors) else 0,
        every_layer=layers,
        picking=_picking(layers),
        cached=any(m.kv_heads or m.state_elements for m in spec.mixers),
    )


def _picking(layers: Sequence[Layer]) -> tuple[int, int]:
    picked = [
        m.picked for layer in layers for m in layer.mixers if isinstance(m, LatentAttention) and m.picked
    ]
    return len(picked), max(picked, default=0)


def _inputs(tensor: TensorGroup, spec: ModelSpec) -> int:
    """Rows of input per token: each visited expert's down matrix has an input of its own."""
    return spec.experts_used if tensor.name.endswith("ffn_down_exps.weight") else 1


def _tensors(spec: ModelSpec) -> list[list[int]]:
    """For every layer, which of the spec's tensors it has."""
    by_layer: list[list[int]] = [[] for _ in range(spec.layers)]
    for number, tensor in enumerate(spec.tensors):
        for layer in tensor.layers:
            if layer < spec.layers:
                by_layer[layer].append(number)
    return by_layer


def representatives(layers: Sequence[Kind]) -> tuple[Kind, ...]:
    """The first few of each kind, and the last ones."""
    seen: dict[Kind, int] = {}
    kept = []
    for index, layer in enumerate(layers):
        seen[layer] = seen.get(layer, 0) + 1
        if seen[layer] <= REPEATS_KEPT or index >= len(layers) - REPEATS_KEPT:
            kept.append(layer)
    return tuple(kept)


def _rotations(spec: ModelSpec) -> tuple[int, int]:
    """Widths of the rotations of keys and values.

    Source: llama-kv-cache.cpp, constructor (attn_rot_k, attn_rot_v), `build_input_k_rot`.
    """
    cached = [m for m in spec.mixers if m.kv_heads]
    keys = {m.key_dim for m in cached}
    values = {m.value_dim for m in cached if m.kind is not MixerKind.LATENT}
    key, value = keys.pop() if len(keys) == 1 else 0, values.pop() if len(values) == 1 else 0
    return (key & -key if key % 64 == 0 else 0), (64 if value and value % 64 == 0 else 0)


def _layer(spec: ModelSpec, roles: Mapping[str, tuple[int, ...]], mixer: Mixer, iswa: bool) -> Layer:
    mixers: list[Attention | LatentAttention | Recurrence] = []
    if "attn_kv_a_mqa.weight" in roles:
        mixers.append(_latent_attention(spec, roles, mixer))
    elif mixer.kind is not MixerKind.RECURRENT and mixer.query_heads and "attn_output.weight" in roles:
        mixers.append(_attention(roles, mixer, iswa))
    if mixer.state_elements:
        mixers.append(_recurrence(roles, mixer))
    attends = mixer.kind is not MixerKind.RECURRENT and bool(mixer.query_heads)
    return Layer(
        tuple(mixers),
        _feed_forward(spec, roles),
        mixer.kind is MixerKind.SLIDING if attends else None,
        parallel=_is_parallel(roles),
        stream_first=spec.architecture in ("phi3", "phimoe"),
    )


def _is_parallel(roles: Mapping[str, tuple[int, ...]]) -> bool:
    norms = (
        "ffn_norm.weight",
        "post_attention_norm.weight",
        "attn_output_norm.weight",
        "post_ffw_norm.weight",
    )
    return "attn_norm.weight" in roles and "ffn_down.weight" in roles and not any(n in roles for n in norms)


def _rows(roles: Mapping[str, tuple[int, ...]], role: str) -> int:
    return roles[role][1] if role in roles else 0


def _attention(roles: Mapping[str, tuple[int, ...]], mixer: Mixer, iswa: bool) -> Attention:
    query = mixer.query_heads * mixer.key_dim
    kv_heads = mixer.kv_heads
    return Attention(
        query=query,
        key=kv_heads * mixer.key_dim,
        value=kv_heads * mixer.value_dim,
        output=mixer.query_heads * mixer.value_dim,
        fused="attn_qkv.weight" in roles,
        gated=_rows(roles, "attn_q.weight") == 2 * query,
        value_last=iswa,
    )


def _latent_attention(spec: ModelSpec, roles: Mapping[str, tuple[int, ...]], mixer: Mixer) -> LatentAttention:
    latent = mixer.value_dim
    indexed = "indexer.proj.weight" in roles
    return LatentAttention(
        heads=mixer.query_heads,
        query_latent=_rows(roles, "attn_q_a.weight"),
        query=_rows(roles, "attn_q_b.weight") or _rows(roles, "attn_q.weight"),
        latent=latent,
        rope=roles["attn_kv_a_mqa.weight"][1] - latent,
        output=roles["attn_output.weight"][0],
        index_heads=_rows(roles, "indexer.proj.weight"),
        index_dim=_rows(roles, "indexer.attn_k.weight"),
        picked=largest_count(spec.hyper, "attention.indexer.top_k") if indexed else 0,
    )


def _recurrence(roles: Mapping[str, tuple[int, ...]], mixer: Mixer) -> Recurrence:
    if "shortconv.in_proj.weight" in roles:
        form, first, conv, last = (
            Form.CONVOLUTION,
            "shortconv.in_proj",
            "shortconv.conv",
            "shortconv.out_proj",
        )
    elif "attn_gate.weight" in roles:
        form, first, conv, last = Form.DELTA, "attn_qkv", "ssm_conv1d", "ssm_out"
    else:
        form = Form.MAMBA if "ssm_x.weight" in roles else Form.MAMBA2
        first, conv, last = "ssm_in", "ssm_conv1d", "ssm_out"
    kernel, convolved = roles.get(f"{conv}.weight", (1, 0))[:2]
    return Recurrence(
        form,
        projected=_rows(roles, f"{first}.weight"),
        convolved=convolved,
        taps=kernel - 1,
        inner=roles.get(f"{last}.weight", (0,))[0],
        state=max(0, mixer.state_elements - (kernel - 1) * convolved),
    )


def _feed_forward(spec: ModelSpec, roles: Mapping[str, tuple[int, ...]]) -> FeedForward:
    suffix = "_shexp" if "ffn_down_shexp.weight" in roles else ""
    width = roles.get(f"ffn_down{suffix}.weight", (0,))[0]
    up = _rows(roles, f"ffn_up{suffix}.weight")
    gated = f"ffn_gate{suffix}.weight" in roles
    experts = roles.get("ffn_down_exps.weight", (0, 0, 0))
    return FeedForward(
        width=width,
        matrices=0 if up == 2 * width else 2 if gated else 1,
        experts=experts[2],
        experts_used=spec.experts_used if experts[2] else 0,
        expert_width=experts[0],
        expert_matrices=2 if "ffn_gate_exps.weight" in roles or "ffn_gate_up_exps.weight" in roles else 1,
        expert_hidden=experts[1],
        weighted_first=spec.architecture == "llama4",
    )
