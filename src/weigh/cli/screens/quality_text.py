"""Models on a text: how well each foretells it, which is better, and how far one lies from its reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.quality.text_run import Ended

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.quality.clustered import Ratio
    from weigh.quality.text_models import DivergenceRun, PerplexityRun
    from weigh.quality.text_run import Pair, TextRun

_ENDED = {
    Ended.ALL_READ: "all there is was read",
    Ended.CLEAR: "stopped because every pair is decided; --all reads the rest",
    Ended.TIME_UP: "stopped because the time was up; --max-time gives it more",
    Ended.INTERRUPTED: "interrupted; this is what was measured until then",
    Ended.FAILED: "an engine failed; this is what was measured until then",
}


def show_text(found: TextRun) -> None:
    rows = Grid(
        ("model", "bits/byte", "perplexity", "likeliest token", "tokens", "files"),
        right=("bits/byte", "perplexity", "likeliest token", "tokens", "files"),
    )
    known = [(one.name, made) for one in found.candidates if (made := one.quality) is not None]
    for name, made in sorted(known, key=lambda one: one[1].bits_per_byte.value):
        rows.add(
            name,
            between(made.bits_per_byte, "{:.3f}"),
            between(made.perplexity, "{:.4g}"),
            f"{made.top_share:.1%}",
            f"{made.tokens:,}",
            f"{made.files:,}",
        )
    rows.note = (
        "with the interval that holds it in 8 of 10 cases; perplexity is per token of each model's tokenizer"
    )
    show(rows)
    if found.pairs:
        show("")
    for pair in found.pairs:
        show(_statement(found, pair))
    read_bytes = max(made.text_bytes for _, made in known)
    most_files = max(made.files for _, made in known)
    show(
        f"\n{most_files:,} of {found.texts.files:,} files, "
        f"{_size(read_bytes)} of {_size(found.texts.bytes)}: {_ENDED[found.ended]}"
    )
    if found.texts.skipped:
        show(f"{found.texts.skipped:,} files are no UTF-8 text, empty or too large, and were left out")
    for name, made in known:
        if made.altered_files:
            show(
                f"{name}: its tokenizer does not give back {made.altered_files:,} of {made.files:,} files byte by "
                "byte; what it leaves out costs no bits, so its figures are too good"
            )
    if not all(made.by_file for _, made in known):
        show(
            "files are few: intervals take pieces of them for independent, and speak for more of the same text"
        )


def _statement(found: TextRun, pair: Pair) -> str:
    names = (found.candidates[pair.first].name, found.candidates[pair.second].name)
    better, shown = pair.difference.better, pair.difference.shown
    if better is None:
        return f"{names[0]} or {names[1]}: not sure which; the first needs {_less(shown, 1)}"
    when = ", however often one looks" if pair.difference.any_time else ""
    less = _less(shown, 1 if better == 0 else -1)
    return f"{names[better]} is better than {names[1 - better]}: it needs {less}, sure at 95 %{when}"


def _less(found: Ratio, sign: int) -> str:
    """How many bits less one of a pair needs; `sign` 1 for the first of it, -1 for the second."""
    ends = sorted(-sign * end for end in (found.low, found.high))
    said = " to ".join(f"{end:.3f}" if math.isfinite(end) else "?" for end in ends)
    return f"{-sign * found.value:.3f} ({said}) bits per byte less"


def show_perplexities(found: PerplexityRun) -> None:
    rows = Grid(("model", "perplexity"), right=("perplexity",))
    for one in found.perplexed:
        rows.add(one.name, between(one.perplexity, "{:.4f}"))
    rows.note = "as llama-perplexity: windows of 512 tokens, the second half judged; intervals of the windows"
    show(rows)
    read, planned = min((one.windows, one.planned) for one in found.perplexed)
    show(f"\n{read:,} of {planned:,} windows: {_ENDED[found.ended]}")


def show_divergence(found: DivergenceRun) -> None:
    show(Bold(f"divergence from {found.reference}\n"))
    rows = Grid(
        ("model", "mean KL, nats", "99 % within", "same top token", "RMS Δp", "mean Δp", "perplexity"),
        right=("mean KL, nats", "99 % within", "same top token", "RMS Δp", "mean Δp", "perplexity"),
    )
    for one in found.diverged:
        made = one.found
        rows.add(
            one.name,
            between(made.kl, "{:.4g}"),
            f"{dict(made.kl_quantiles)[0.99]:.4g}",
            between(made.same_top, "{:.1f}", 100, " %"),
            between(made.delta_p_rms, "{:.2f}", 100, " %"),
            between(made.delta_p_mean, "{:.2f}", 100, " %"),
            f"{made.perplexity:.4g} from {made.reference_perplexity:.4g}",
        )
    rows.note = (
        "as llama-perplexity --kl-divergence: of windows of 512 tokens the second half; intervals of windows"
    )
    show(rows)
    least = min(found.diverged, key=lambda one: one.found.windows)
    show(f"\n{least.found.windows:,} of {least.planned:,} windows: {_ENDED[found.ended]}")


def between(figure: Figure, form: str, scale: int = 1, unit: str = "") -> str:
    value = f"{form.format(figure.value * scale)}{unit}"
    if not math.isfinite(figure.high):
        return f"{value} (too little text for an interval)"
    return f"{value} ({form.format(figure.low * scale)} to {form.format(figure.high * scale)})"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / units.MIB:.1f} MiB" if size_bytes >= units.MIB else f"{size_bytes / 1024:,.0f} KiB"
