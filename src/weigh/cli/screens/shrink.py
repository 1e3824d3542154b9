"""A model before and after it was shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Grid, interval, show
from weigh.cli.screens.facts import facts

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec
    from weigh.shrink.targets import Shrunk
    from weigh.store.measurement import Measurement

_SPEEDS = {"decode_tokens_per_s": "decode, tokens/s", "prefill_tokens_per_s": "prefill, tokens/s"}


def show_shrunk(spec: ModelSpec, made: Shrunk, speeds: Mapping[str, Measurement]) -> None:
    """What it was and what it is now."""
    grid = Grid(("", "before", "after", "change"), right=("before", "after", "change"))
    if spec.file_bytes:
        change = f"{made.bytes / spec.file_bytes - 1:+.0%}"
        grid.add("size", units.gib(spec.file_bytes), units.gib(made.bytes), change)
    bits = made.model.bits_per_weight
    grid.add(
        "bits per weight",
        f"{spec.bits_per_weight:.2f}",
        f"{bits:.2f}",
        f"{bits / spec.bits_per_weight - 1:+.0%}",
    )
    found = made.divergence
    if found is not None:
        before, after = found.reference_perplexity, found.perplexity
        grid.add("perplexity", f"{before:.4g}", f"{after:.4g}", f"{after / before - 1:+.1%}")
    for name, said in _SPEEDS.items():
        figures = [_figure(speeds.get(when), name) for when in ("before", "after")]
        if any(figures):
            was, now = ((f[0] if f else None) for f in figures)
            change = f"{now / was - 1:+.0%}" if was and now else ""
            grid.add(said, *(f[1] if f else "not measured" for f in figures), change)
    show(grid)
    show()
    rows = [("Made", str(made.path)), ("Formats", _formats(made))]
    if found is not None:
        rows += [
            ("Divergence", f"{interval(found.kl)} nats from the source"),
            (
                "Same token",
                f"the likeliest one is the same at {found.same_top.value:.1%} of {found.tokens:,} tokens",
            ),
        ]
    else:
        rows.append(("Divergence", "not measured: give a text with --text"))
    facts(rows)


def _figure(measurement: Measurement | None, name: str) -> tuple[float, str] | None:
    found = [m.figure for m in measurement.measured if m.name == name] if measurement else []
    return (found[0].value, interval(found[0])) if found else None


def _formats(made: Shrunk) -> str:
    return (
        ", ".join(f"{name} {share:.0%}" for name, share in made.shares() if share >= 0.005)
        + " of the weights"
    )
