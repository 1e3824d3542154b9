"""How first token and decode speed change with length: the figures of `weigh`, at one length after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.figure import Figure
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec

LONGEST_TOKENS = 32_768  # context of a curve unless one is asked for, where the model was trained for as much
MOST_CURVES = 8  # that one picture can tell apart
FIRST_TOKENS = 64  # shortest prompt and depth shown; from here on lengths double


@dataclass(frozen=True, slots=True)
class Point:
    """`figure` at a prompt, or after a depth, of so many tokens."""

    tokens: int
    figure: Figure


@dataclass(frozen=True, slots=True)
class Curve:
    """One setup over lengths: a started engine, so context and split are the same at every point.

    Attributes:
        label: what tells it from the others in one picture; "" when it is alone.
        subject: what all in one picture have in common.
        ttft: time to first token of prompts, nothing being cached; empty where no speed is known.
        decode: decode tokens/s of each sequence after depths, over the workload's output.
        note: what was changed of what was asked; "" for nothing.
    """

    label: str
    subject: str
    setup: SetupEstimate
    ttft: tuple[Point, ...]
    decode: tuple[Point, ...]
    note: str = ""


def curve(
    spec: ModelSpec,
    site: Site,
    settings: Settings,
    workload: Workload = Workload(),  # noqa: B008 - frozen
    *,
    prompt_up_to: int | None = None,
    depth_up_to: int | None = None,
    reserve_bytes: int | None = None,
    label: str = "",
    subject: str = "",
) -> Curve:
    """Lengths double from 64 tokens to the longest that leaves room for the output in the context.

    A point is what `weigh` says of a workload of that prompt, or that depth, under the same settings. Where
    the context does not fit, the largest that does is taken instead, and said so.

    Args:
        settings: their context is held from the start, as engines do.
        prompt_up_to, depth_up_to: tokens; None for all the context has room for.

    Raises:
        BadInput: a length asked for does not fit into the context beside the output.
    """
    _within("prompts", prompt_up_to, settings.context_tokens, workload.output_tokens)
    _within("depths", depth_up_to, settings.context_tokens, workload.output_tokens)
    setup = weigh(spec, site, settings, workload, reserve_bytes=reserve_bytes)
    note = ""
    if not setup.fits and setup.max_context_tokens > workload.output_tokens:
        most = setup.max_context_tokens
        note = f"{settings.context_tokens:,} tokens of context do not fit, {most:,} do"
        settings = replace(settings, context_tokens=most)
        setup = weigh(spec, site, settings, workload, reserve_bytes=reserve_bytes)
    room = max(1, settings.context_tokens - workload.output_tokens)
    prompts = lengths(min(prompt_up_to or room, room))
    depths = (0, *lengths(min(depth_up_to or room, room)))
    if not setup.fits:
        prompts = depths = ()
    return Curve(
        label=label,
        subject=subject,
        setup=setup,
        ttft=tuple(_points(setup, workload, prompts, depth=False)),
        decode=tuple(_points(setup, workload, depths, depth=True)),
        note=note,
    )


def compared(
    specs: Sequence[ModelSpec],
    sites: Sequence[Site],
    kv_types: Sequence[GgmlType] = (),
    *,
    context_tokens: int | None = None,
    parallel: int = 1,
    output_tokens: int = 128,
    prompt_up_to: int | None = None,
    depth_up_to: int | None = None,
    reserve_bytes: int | None = None,
) -> tuple[Curve, ...]:
    """A curve for every model at every site under every KV type (F16 unless named), labelled by what differs.

    Raises:
        BadInput: they are more than one picture shows apart, or as `curve` does.
    """
    types = tuple(kv_types) or (GgmlType.F16,)
    if len(specs) * len(sites) * len(types) > MOST_CURVES:
        raise BadInput(
            f"{len(specs) * len(sites) * len(types)} curves are too many for one picture",
            hint=f"ask for {MOST_CURVES} at most",
        )
    context = context_tokens or max(
        context_for(specs), *((asked or 0) + output_tokens for asked in (prompt_up_to, depth_up_to))
    )
    several = (len(specs) > 1, len(sites) > 1, len(types) > 1)
    found = []
    for spec, site, kind in product(specs, sites, types):
        cache = f"{kind.name} cache" if kind is not GgmlType.F16 or len(types) > 1 else ""
        words = (f"{spec.name} {spec.quantization}", f"on {site.target.name}", cache)
        found.append(
            curve(
                spec,
                site,
                Settings(context, parallel, kind, kind),
                Workload(output_tokens=output_tokens),
                prompt_up_to=prompt_up_to,
                depth_up_to=depth_up_to,
                reserve_bytes=reserve_bytes,
                label=", ".join(
                    w for w, differs in zip(words, several, strict=True) if differs and w
                ).removeprefix("on "),
                subject=" ".join(w for w, differs in zip(words, several, strict=True) if not differs and w),
            )
        )
    return tuple(found)


def context_for(specs: Sequence[ModelSpec]) -> int:
    """Context to draw over when none is asked for: 32,768 tokens, or what all were trained for if less."""
    return min([LONGEST_TOKENS, *(spec.context_train for spec in specs if spec.context_train)])


def lengths(last: int) -> tuple[int, ...]:
    """64, 128, 256 and so on below `last`, then `last`."""
    found, tokens = [], FIRST_TOKENS
    while tokens < last:
        found.append(tokens)
        tokens *= 2
    return (*found, last)


def _points(
    setup: SetupEstimate, workload: Workload, tokens: Sequence[int], *, depth: bool
) -> Iterator[Point]:
    for count in tokens:
        asked = (
            replace(setup.workload, depth_tokens=count, output_tokens=workload.output_tokens)
            if depth
            else replace(setup.workload, prompt_tokens=count, depth_tokens=0)
        )
        if found := setup.at(asked):
            yield Point(count, found.decode_tokens_per_s if depth else found.ttft_s)


def _within(what: str, asked: int | None, context_tokens: int, output_tokens: int) -> None:
    if asked is not None and asked + output_tokens > context_tokens:
        raise BadInput(
            f"{what} up to {asked:,} tokens and an output of {output_tokens:,} do not fit into a context of"
            f" {context_tokens:,}",
            hint=f"ask for a context of {asked + output_tokens:,} or more",
        )
