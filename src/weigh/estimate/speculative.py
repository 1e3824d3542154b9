"""Speculative decoding priced: what drafts cost, what they bring, and the memory of both models.

In a round something cheap drafts n tokens, and the model checks them all in one step. If each drafted token is
accepted with probability a, independently, a round yields

    (1 - a**(n + 1)) / (1 - a)  tokens          Leviathan et al. 2023, arXiv:2211.17192, equation 1

    round = n draft steps + one step of the model over n + 1 tokens of the same sequence

The step over n + 1 tokens streams the weights once, multiplies n + 1 times, and reads the cache they share; of
stacked experts it visits more. Whoever drafts:

- a smaller model of the same vocabulary;
- the model's own layers for further tokens (MTP): one layer, then the output matrix;
- nothing but the text so far (n-gram lookup): drafting takes no time, and a round without a match is a plain step.

The acceptance rate depends on the text and on both models. It is an input here, never assumed; without one the
answer is given over a grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.estimate.engine_arguments import draft_arguments
from weigh.estimate.memory import PROCESS_BYTES, PROGRAM_BYTES
from weigh.estimate.placement import DeviceMemory
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.figure import Basis, Figure
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import MixerKind, ModelSpec, TensorGroup

GRID = (0.5, 0.6, 0.7, 0.8, 0.9)
MOST_DRAFT_TOKENS = 16  # looked through for the best
# llama.cpp refuses a draft model whose vocabulary differs by more (common/speculative.cpp
# SPEC_VOCAB_MAX_SIZE_DIFFERENCE), or in any token from the sixth on, which sizes alone do not show.
MOST_VOCABULARY_DIFFERENCE = 128


class Method(StrEnum):
    """Who drafts, in llama.cpp's words for `--spec-type`."""

    MODEL = "draft-simple"
    MTP = "draft-mtp"
    NGRAM = "ngram-simple"


@dataclass(frozen=True, slots=True)
class Round:
    """One acceptance rate at a number of drafted tokens.

    Attributes:
        tokens: a round yields, the one the model itself adds included.
        draft_s, verify_s: of one round.
        decode_tokens_per_s: of each sequence.
        speedup: over decoding without drafts. Errors that both share cancel.
    """

    acceptance: float
    draft_tokens: int
    tokens: Figure
    draft_s: Figure
    verify_s: Figure
    decode_tokens_per_s: Figure
    speedup: Figure


@dataclass(frozen=True, slots=True)
class SpeculativeEstimate:
    """A model with drafts.

    Attributes:
        target: weighed in the room the draft leaves.
        draft: the draft model, or the model's own further layers as a model of their own; None for n-grams.
        devices: what RAM and each GPU hold of both together.
        draft_bytes: what drafting adds, all devices together.
        rounds: by acceptance rate, each at its best number of drafted tokens unless one was asked for; empty
            where no speed is known.
        arguments: for llama.cpp, the draft's alone.
    """

    method: Method
    target: SetupEstimate
    draft: SetupEstimate | None
    devices: tuple[DeviceMemory, ...]
    draft_bytes: int
    rounds: tuple[Round, ...]
    arguments: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.target.fits and (self.draft is None or self.draft.fits)


def accepted_tokens(acceptance: float, draft_tokens: int) -> float:
    """Tokens a round yields on average; between 1 and `draft_tokens` + 1."""
    if acceptance >= 1:
        return draft_tokens + 1.0
    return float((1 - acceptance ** (draft_tokens + 1)) / (1 - acceptance))


def speculative(
    spec: ModelSpec,
    site: Site,
    settings: Settings,
    workload: Workload,
    method: Method,
    *,
    draft: ModelSpec | None = None,
    acceptance: float | None = None,
    draft_tokens: int | None = None,
    reserve_bytes: int | None = None,
) -> SpeculativeEstimate:
    """Price drafts for `spec`.

    The draft takes its place first, for it runs n times a round; its cache is F16 over the same context, as
    llama.cpp makes it.

    Args:
        draft: the draft model, for `Method.MODEL` alone.
        acceptance: probability that a drafted token is accepted, 0 to 1; None for a grid from 0.5 to 0.9.
        draft_tokens: drafted in a round; None for the number that gives most.

    Raises:
        BadInput: the vocabularies differ too much, the model has no layers for further tokens, or a rate
            is no probability.
    """
    if acceptance is not None and not 0 <= acceptance <= 1:
        raise BadInput(f"an acceptance rate of {acceptance:g} is no probability", hint="from 0 to 1")
    drafter = _drafter(spec, method, draft)
    workload = replace(workload, parallel=settings.parallel)
    drafting = None
    if drafter is not None:
        plain = replace(settings, kv_type_k=GgmlType.F16, kv_type_v=GgmlType.F16)
        drafting = weigh(drafter, site, plain, workload, reserve_bytes=reserve_bytes)
    extra = _extra(spec, drafting, method) if drafting else ()
    room = _without(site, extra) if extra else site
    target = weigh(spec, room, settings, workload, reserve_bytes=reserve_bytes)
    counts = (draft_tokens,) if draft_tokens else range(1, MOST_DRAFT_TOKENS + 1)
    rates = GRID if acceptance is None else (acceptance,)
    rounds = _rounds(target, drafting, counts, rates)
    most = max([r.draft_tokens for r in rounds] or [draft_tokens or 1])
    # a row of logits for each drafted token (llama.cpp, common_speculative_get_output_limits)
    logits = 4 * spec.vocab * most * settings.parallel
    devices = _together(target, drafting, extra, logits)
    placed = None
    if drafting and method is Method.MODEL:
        placed = (drafting.placement, site.target, drafting.spec)
    return SpeculativeEstimate(
        method=method,
        target=target,
        draft=drafting,
        devices=devices,
        draft_bytes=sum(d.total_bytes for d in devices) - target.memory.total_bytes,
        rounds=rounds,
        arguments=draft_arguments(str(method), placed, most),
        notes=tuple(_notes(spec, method, target, drafting)),
    )


def _drafter(spec: ModelSpec, method: Method, draft: ModelSpec | None) -> ModelSpec | None:
    if method is Method.NGRAM:
        return None
    if method is Method.MTP:
        return further_layers(spec)
    if draft is None:
        raise BadInput("drafting by a model needs one")
    if abs(draft.vocab - spec.vocab) > MOST_VOCABULARY_DIFFERENCE:
        raise BadInput(
            f"{draft.name} cannot draft for {spec.name}: vocabularies of {draft.vocab:,} and {spec.vocab:,}"
            " entries",
            hint="take a smaller model of the same family",
        )
    return draft


# --- the model's own layers for further tokens ---------------------------------------------------------------

_MTP = "mtp."
_COPIES = {"nextn.shared_head_head": "output.weight", "nextn.embed_tokens": "token_embd.weight"}


def further_layers(spec: ModelSpec) -> ModelSpec:
    """The first layer that predicts a further token, with the output matrix it ends in, as a small model.

    Drafts longer than one token run that layer again and again. Where tensors are derived from shapes, its
    matrices follow the recipe as the model's own of the same role do.

    Raises:
        BadInput: the model has none.
    """
    groups = [group for group in spec.beside if group.name.startswith(_MTP)]
    first = 0
    if not groups:
        first = spec.layers - _count(spec)
        groups = [group for group in spec.tensors if first < spec.layers and first in group.layers]
    if not groups:
        raise BadInput(
            f"{spec.name} has no layers that predict further tokens", hint="name a draft model, or `ngram`"
        )
    kept = [replace(g, name=g.name.removeprefix(_MTP), layers=(0,)) for g in groups if first in g.layers]
    if spec.basis != "file":
        kept = [_as_typed(spec, group) for group in kept]
    own_output = next((g for g in kept if "shared_head_head" in g.name), None)
    kept = [g for g in kept if "shared_head_head" not in g.name and "embed_tokens" not in g.name]
    outer = [
        g for g in spec.tensors if g.name in ("token_embd.weight", "output.weight", "output_norm.weight")
    ]
    if own_output is not None:
        outer = [replace(g, type=own_output.type) if g.name == "output.weight" else g for g in outer]
    attends = [m for m in spec.mixers if m.kind is not MixerKind.RECURRENT] or list(spec.mixers)
    mixer = replace(attends[-1], layers=(0,))
    return replace(
        spec,
        name=f"further-token layer of {spec.name}",
        layers=1,
        mixers=(mixer,),
        tensors=(*outer, *kept),
        beside=(),
        file=None,
        file_bytes=None,
    )


def _count(spec: ModelSpec) -> int:
    found = spec.hyper.get("nextn_predict_layers", 0)
    return found if isinstance(found, int) else 0


def _as_typed(spec: ModelSpec, group: TensorGroup) -> TensorGroup:
    if len(group.shape) < 2:
        return group
    role = next((name for part, name in _COPIES.items() if part in group.name), group.name)
    alike = [tensor.type for tensor in spec.tensors if tensor.name == role]
    common = Counter(
        {t.type: 0 for t in spec.tensors}
        | {t.type: t.total_elements for t in spec.tensors if len(t.shape) == 2 and t.layers}
    )
    return replace(group, type=alike[-1] if alike else common.most_common(1)[0][0])


# --- memory ---------------------------------------------------------------------------------------------------


def _extra(spec: ModelSpec, draft: SetupEstimate, method: Method) -> tuple[DeviceMemory, ...]:
    """What each device holds for the draft, beside what one process holds anyway or the model itself has."""
    own = method is Method.MTP
    weights = [device.weights_bytes for device in draft.devices]
    if own:  # all further layers are loaded, where the first of them runs
        where = max(i for i, size in enumerate(weights) if size)
        weights = [further_bytes(spec) if i == where else 0 for i in range(len(weights))]
    found = []
    for index, device in enumerate(draft.devices):
        once = PROCESS_BYTES + PROGRAM_BYTES if index == 0 and not own else device.overhead_bytes
        overhead = max(0, device.overhead_bytes - once)  # vocabulary and records of a second model
        found.append(replace(device, weights_bytes=weights[index], overhead_bytes=overhead))
    return tuple(found)


def further_bytes(spec: ModelSpec) -> int:
    """Weights of all layers for further tokens that the model's own figures leave out."""
    groups = [replace(g, name=g.name.removeprefix(_MTP)) for g in spec.beside if g.name.startswith(_MTP)]
    return sum((_as_typed(spec, g) if spec.basis != "file" else g).total_bytes for g in groups)


def _without(site: Site, extra: Sequence[DeviceMemory]) -> Site:
    """The site with the draft's share of each device taken."""
    target = site.target
    host = replace(target.host, free_bytes=max(0, target.host.free_bytes - extra[0].total_bytes))
    gpus = tuple(
        replace(gpu, free_bytes=max(0, gpu.free_bytes - device.total_bytes))
        for gpu, device in zip(target.gpus, extra[1:], strict=True)
    )
    return Site(replace(target, host=host, gpus=gpus), site.calibration, site.learned)


def _together(
    target: SetupEstimate, draft: SetupEstimate | None, extra: Sequence[DeviceMemory], logits: int
) -> tuple[DeviceMemory, ...]:
    """Both models, and the rows of logits, which lie in RAM. A GPU's runtime is there once for both."""
    found = [replace(target.devices[0], compute_bytes=target.devices[0].compute_bytes + logits)]
    found += target.devices[1:]
    if draft is None:
        return tuple(found)
    for index, (device, other) in enumerate(zip(found, extra, strict=True)):
        overhead = device.overhead_bytes + other.overhead_bytes
        if index:
            overhead = max(device.overhead_bytes, draft.devices[index].overhead_bytes)
        found[index] = DeviceMemory(
            device.device,
            device.weights_bytes + other.weights_bytes,
            device.kv_cache_bytes + other.kv_cache_bytes,
            device.compute_bytes + other.compute_bytes,
            overhead,
            device.available_bytes + other.total_bytes,
        )
    return tuple(found)


# --- speed ----------------------------------------------------------------------------------------------------


def _rounds(
    target: SetupEstimate, draft: SetupEstimate | None, counts: Sequence[int], rates: Sequence[float]
) -> tuple[Round, ...]:
    if target.speed is None or (draft is not None and draft.speed is None):
        return ()
    step = _seconds(draft.speed.decode_tokens_per_s) if draft and draft.speed else None
    plain = target.speed.decode_tokens_per_s
    timed = [(n, _times(step, n) if step else _NO_TIME, verify_s(target, n + 1)) for n in counts]

    def best(rate: float) -> Round:
        return max(
            (_round(rate, n, drafted, checked, plain) for n, drafted, checked in timed),
            key=lambda one: one.decode_tokens_per_s.value,
        )

    return tuple(map(best, rates))


_NO_TIME = Figure.exact(0.0, "s")


def verify_s(setup: SetupEstimate, tokens: int) -> Figure:
    """Seconds of one step over `tokens` tokens of each sequence, which share that sequence's cache.

    On a processor every query walks the cache by itself, so that the step is one of as many sequences. A GPU
    reads the cache once for all of them: a step of as many sequences with nothing cached, and once the cache.
    """
    load = setup.workload
    several = replace(load, parallel=load.parallel * tokens)
    if not setup.placement.on_gpu and setup.site.calibration is not None:
        return _step_s(setup, several)
    empty = partial(replace, depth_tokens=0, output_tokens=1)
    batch = _step_s(setup, empty(several))
    cache_s = _step_s(setup, load).value - _step_s(setup, empty(load)).value
    value = batch.value + max(0.0, cache_s)
    return Figure(value, value * batch.low / batch.value, value * batch.high / batch.value, "s", batch.basis)


def _step_s(setup: SetupEstimate, load: Workload) -> Figure:
    found = setup.at(load)
    if found is None:  # the caller has seen that a speed is known
        raise BadInput("no speed is known of this setup")
    return _seconds(found.decode_tokens_per_s)


def _seconds(rate: Figure) -> Figure:
    return Figure(1 / rate.value, 1 / rate.high, 1 / rate.low, "s", rate.basis)


def _times(figure: Figure, count: int) -> Figure:
    return Figure(figure.value * count, figure.low * count, figure.high * count, figure.unit, figure.basis)


def _round(rate: float, count: int, draft: Figure, verify: Figure, plain: Figure) -> Round:
    tokens = accepted_tokens(rate, count)
    basis = max(draft.basis, verify.basis, key=list(Basis).index)
    decode = Figure(
        tokens / (draft.value + verify.value),
        tokens / (draft.high + verify.high),
        tokens / (draft.low + verify.low),
        "tokens/s",
        basis,
    )
    ratios = sorted((decode.low / plain.low, decode.value / plain.value, decode.high / plain.high))
    return Round(
        acceptance=rate,
        draft_tokens=count,
        tokens=Figure.exact(tokens, "tokens"),
        draft_s=draft,
        verify_s=verify,
        decode_tokens_per_s=decode,
        speedup=Figure(decode.value / plain.value, ratios[0], ratios[-1], "times", basis),
    )


def _notes(spec: ModelSpec, method: Method, target: SetupEstimate, draft: SetupEstimate | None) -> list[str]:
    said = []
    if method is Method.MODEL and draft is not None:
        said.append("both models must share a tokenizer; sizes of their vocabularies agree")
    if method is Method.NGRAM:
        said.append("a round in which the text so far holds no match is a plain step")
    if any(mixer.kind is MixerKind.RECURRENT for mixer in spec.mixers):
        said.append("recurrent layers cannot take a token back: the engine keeps checkpoints of their state")
    if target.settings.parallel > 1:
        said.append("every sequence drafts, so that a step checks all their drafts")
    return said
