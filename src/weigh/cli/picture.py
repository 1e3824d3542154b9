"""Pictures as a PNG or SVG file, drawn with matplotlib where it is installed (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigh import units
from weigh.cli.screens.compare import lettered, quality_in_words
from weigh.cli.screens.curve import depths, heading, short, ticks
from weigh.errors import BadInput

if TYPE_CHECKING:
    from weigh.advise.compare import Comparison
    from weigh.estimate.curves import Curve

ENDINGS = (".png", ".svg")


def check(path: Path) -> None:
    """Refuse before any work what cannot be drawn.

    Raises:
        BadInput: another ending, a folder that is not there, or matplotlib is missing.
    """
    if path.suffix.lower() not in ENDINGS:
        raise BadInput(f"{path}: pictures are written as PNG or SVG", hint="end the name in .png or .svg")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path}: its folder does not exist")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BadInput("drawing a picture needs matplotlib", hint="pip install 'weigh[plot]'") from error


def draw(found: Sequence[Curve], path: Path) -> None:
    """Both curves side by side, the 80 % intervals shaded.

    Raises:
        BadInput: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [one for one in found if one.ttft]
    page = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(page)
    first, decode = page.subplots(1, 2)
    for one in drawn:
        for axes, points in ((first, one.ttft), (decode, one.decode)):
            lengths = [point.tokens for point in points]
            (line,) = axes.plot(
                lengths, [p.figure.value for p in points], marker="o", markersize=3, label=one.label
            )
            axes.fill_between(
                lengths,
                [p.figure.low for p in points],
                [p.figure.high for p in points],
                alpha=0.18,
                color=line.get_color(),
                linewidth=0,
            )
    _label_first_token(first, drawn)
    decode.set_xlabel("depth (tokens already in the context)")
    decode.set_ylabel("decode speed (tokens/s)")
    decode.set_ylim(bottom=0)
    steps = depths(max(point.tokens for one in drawn for point in one.decode))
    decode.set_xticks(steps, [short(tokens) for tokens in steps])
    for axes in (first, decode):
        axes.grid(alpha=0.3)
        if len(drawn) > 1:
            axes.legend(fontsize="small")
    page.suptitle(f"{drawn[0].subject}\n{heading(drawn)}".strip(), fontsize="medium")
    _save(page, path)


def draw_front(found: Comparison, path: Path) -> None:
    """Decode speed against memory, those on the front filled and joined; scores are published ones.

    Raises:
        BadInput: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(page)
    axes = page.subplots()
    front = sorted(
        (point.memory_bytes.value / units.GIB, point.decode_tokens_per_s.value)
        for point in found.points
        if point.on_front
    )
    if not found.by_quality:
        axes.plot([x for x, _ in front], [y for _, y in front], color="tab:blue", alpha=0.4)
    for letter, point in lettered(found):
        memory, decode = point.memory_bytes, point.decode_tokens_per_s
        x, y = memory.value / units.GIB, decode.value
        name = point.measurement.name.replace("$", r"\$")  # else taken for a formula
        judged = quality_in_words(found, point)
        quality = f", {judged} ({found.quality_said})" if judged else ""
        drawn = axes.errorbar(
            [x],
            [y],
            xerr=[[x - memory.low / units.GIB], [memory.high / units.GIB - x]],
            yerr=[[y - decode.low], [decode.high - y]],
            marker="o",
            linestyle="none",
            label=f"{letter}  {name}{quality}",
        )
        if not point.on_front:
            drawn.lines[0].set_markerfacecolor("white")
        axes.annotate(letter, (x, y), xytext=(7, 5), textcoords="offset points")
    axes.set_xlim(0, 1.1 * max(point.memory_bytes.high for point in found.points) / units.GIB)
    axes.set_ylim(0, 1.1 * max(point.decode_tokens_per_s.high for point in found.points))
    axes.grid(alpha=0.3)
    page.legend(loc="outside lower center", fontsize="small", frameon=False)
    axes.set_xlabel("peak memory (GiB)")
    axes.set_ylabel("decode speed (tokens/s)")
    counted = "speed, memory and quality" if found.by_quality else "speed and memory"
    page.suptitle(f"measured, 80 % intervals; filled: on the front of {counted}", fontsize="medium")
    _save(page, path)


def _save(page: Any, path: Path) -> None:
    try:
        page.savefig(path, dpi=150)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error


def _label_first_token(axes: Any, drawn: Sequence[Curve]) -> None:
    points = [point for one in drawn for point in one.ttft]
    lengths = sorted({p.tokens for p in points if p.tokens & (p.tokens - 1) == 0})
    waits = ticks(min(p.figure.low for p in points), max(p.figure.high for p in points), most=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("prompt (tokens)")
    axes.set_ylabel("time to first token")
    axes.set_xticks(lengths, [short(tokens) for tokens in lengths])
    axes.set_yticks(waits, [units.seconds(wait) for wait in waits])
    axes.minorticks_off()
