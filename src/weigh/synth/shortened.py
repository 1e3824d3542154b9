"""A model with fewer layers, a smaller vocabulary or fewer experts, whose layers cost what the whole one's do.

Times are affine in layers, so runs of two short models tell the time of the whole one. What is kept: the
order of the kinds of layers, since engines expect it; of each matrix, the shares of the number formats it has
over the whole depth (Q4_K_M gives half of some matrices more bits, those of the first and the last layers). Of
several dense layers before the mixture's, one is kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from weigh.errors import BadInput
from weigh.model.spec import HyperValue, ModelSpec, TensorGroup
from weigh.synth.gguf import truncated


def shortened(
    spec: ModelSpec, layers: int, *, vocab: int | None = None, experts: int | None = None
) -> ModelSpec:
    """`layers` of the first layers of `spec` with its mix of number formats.

    Args:
        vocab: entries of the vocabulary to keep; None for all.
        experts: routed experts to keep, not fewer than a token visits; None for all.

    Raises:
        BadInput: more layers, words or experts than the model has, or fewer than it needs.
    """
    front = _dense_in_front(spec) - 1
    if front > 0 and layers <= spec.layers - front:
        short = _mixed_as(truncated(_without_first(spec, front), layers), spec)
    else:
        short = _mixed_as(truncated(spec, layers), spec)
    if vocab is not None and vocab != spec.vocab:
        short = _with_vocab(short, vocab)
    if experts is not None and experts != spec.experts:
        short = _with_experts(short, experts)
    return replace(short, file=None, file_bytes=None, beside=())


def _dense_in_front(spec: ModelSpec) -> int:
    """Dense layers before the mixture's; 0 where layers differ in more than that."""
    per_layer = any(isinstance(value, tuple) and len(value) == spec.layers for value in spec.hyper.values())
    return 0 if len(spec.mixers) > 1 or per_layer else _int(spec, "leading_dense_block_count")


def _without_first(spec: ModelSpec, layers: int) -> ModelSpec:
    """The model without its first dense layers."""

    def moved(kept: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(layer - layers for layer in kept if layer >= layers)

    fewer = {key: _int(spec, key) - layers for key in ("block_count", "leading_dense_block_count")}
    return replace(
        spec,
        layers=spec.layers - layers,
        tensors=tuple(
            replace(group, layers=moved(group.layers))
            for group in spec.tensors
            if moved(group.layers) or not group.layers
        ),
        mixers=tuple(replace(mixer, layers=moved(mixer.layers)) for mixer in spec.mixers),
        hyper=_with(spec, fewer),
    )


def _mixed_as(short: ModelSpec, whole: ModelSpec) -> ModelSpec:
    """Give the layers of every matrix number formats in the shares they have in the whole model."""
    roles: dict[tuple[str, tuple[int, ...]], list[TensorGroup]] = defaultdict(list)
    for group in whole.tensors:
        if group.layers:
            roles[group.name, group.shape].append(group)
    tensors = [group for group in short.tensors if not group.layers]
    for groups in roles.values():
        kept = sorted(layer for group in groups for layer in group.layers if layer < short.layers)
        shares = [len(group.layers) / sum(len(g.layers) for g in groups) for group in groups]
        given: list[list[int]] = [[] for _ in groups]
        for place, layer in enumerate(kept, start=1):
            behind = [place * share - len(got) for share, got in zip(shares, given, strict=True)]
            given[behind.index(max(behind))].append(layer)
        tensors += [replace(g, layers=tuple(got)) for g, got in zip(groups, given, strict=True) if got]
    return replace(short, tensors=tuple(tensors))


def _with_vocab(spec: ModelSpec, vocab: int) -> ModelSpec:
    if not 0 < vocab <= spec.vocab:
        raise BadInput(f"{spec.name} has {spec.vocab} words; {vocab} of them cannot be kept")
    tensors = (
        group
        if group.layers or spec.vocab not in group.shape
        else replace(group, shape=tuple(vocab if n == spec.vocab else n for n in group.shape))
        for group in spec.tensors
    )
    return replace(spec, vocab=vocab, tensors=tuple(tensors), hyper=_with(spec, {"vocab_size": vocab}))


def _with_experts(spec: ModelSpec, experts: int) -> ModelSpec:
    if not spec.experts_used <= experts <= spec.experts:
        raise BadInput(f"{spec.name} has {spec.experts} experts and uses {spec.experts_used}")
    tensors = (
        replace(group, shape=(*group.shape[:-1], experts))
        if group.layers and group.shape[-1] == spec.experts and _counts_experts(group)
        else group
        for group in spec.tensors
    )
    groups = _int(spec, "expert_group_count")
    fewer = {"expert_count": experts} | (
        {"expert_group_count": 1, "expert_group_used_count": 1} if groups else {}
    )
    return replace(spec, experts=experts, tensors=tuple(tensors), hyper=_with(spec, fewer))


def _counts_experts(group: TensorGroup) -> bool:
    """The stacked matrices, their biases, the router and its bias."""
    return "_exps." in group.name or "ffn_gate_inp." in group.name or "exp_probs_b" in group.name


def _int(spec: ModelSpec, key: str) -> int:
    value = spec.hyper.get(key, 0)
    return value if isinstance(value, int) else 0


def _with(spec: ModelSpec, changes: dict[str, int]) -> dict[str, HyperValue]:
    return {
        **spec.hyper,
        **{key: n for key, n in changes.items() if key in spec.hyper or key == "vocab_size"},
    }
