"""Fit L(N, D) on the ladder's logs and write docs/scaling.md with its picture.

    python benchmarks/scaling.py                # from ladder/logs, some seconds
    python benchmarks/scaling.py --logs FOLDER  # of a ladder trained elsewhere; prints the page

The ladder is trained by `python -m ladder all`; each branch of a run is one point: parameters, tokens, loss on the
held-out files in bits per byte. Each size is also foretold by a curve fitted without it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from datetime import date
from pathlib import Path
from typing import Any

from weigh import units
from weigh.figure import Figure
from weigh.quality.scaling import LossCurve, Run, fit_loss_curve

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "scaling.md", ROOT / "docs" / "scaling.svg"
UNIT = "bits per byte"
# With fewer the deepest model has hardly begun to learn. Drawn after its runs were seen; the page shows them beside.
LEAST_TOKENS_PER_PARAMETER = 0.04
COMMON_TOKENS = (
    512 * 8 * 512
)  # the branch of the ladder that a size must have to count: 512 steps of 8 windows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logs", type=Path, default=ROOT / "ladder" / "logs")
    given = parser.parse_args()
    every, noisy = read(given.logs)
    whole = {run.parameters for run in every if run.tokens == COMMON_TOKENS}
    clean = [run for run in every if run.parameters in whole and counts(run)]
    others = [run for run in every if run not in clean]
    curve = fit_loss_curve(clean, UNIT)
    page = "\n".join(
        [
            *opening(curve, clean),
            *table(curve, clean),
            *not_counted(curve, others),
            *sizes_left_out(clean),
            *data(curve, clean, noisy),
        ]
    )
    if given.logs == ROOT / "ladder" / "logs":
        PAGE.write_text(page + "\n", encoding="utf-8")
        draw(curve, clean)
    else:
        print(page)


def read(folder: Path) -> tuple[list[Run], list[Run]]:
    """Runs on the corpus, and those on noisy text."""
    clean: list[Run] = []
    noisy: list[Run] = []
    for path in sorted(folder.glob("*.jsonl")):
        lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        header = lines[0]
        if "-rate-" in header["run"]:
            continue
        found = noisy if header["noise"] else clean
        found += [
            Run(header["parameters"], line["tokens"], line["bits_per_byte"])
            for line in lines
            if "end" in line
        ]
    return sorted(clean, key=lambda run: (run.parameters, run.tokens)), noisy


def opening(curve: LossCurve, runs: list[Run]) -> list[str]:
    residual = 100 * statistics.pstdev(curve.residuals)
    return [
        "# How loss falls with size and data",
        "",
        f"Written by `python benchmarks/scaling.py`, {date.today():%Y-%m-%d}, from the logs of the [ladder](ladder.md):"
        f" {len(runs)} trained models of {len({run.parameters for run in runs})} sizes,"
        f" up to {len({run.tokens for run in runs})} amounts of text each.",
        "Loss is in bits per byte of held-out files. N counts all parameters, embeddings among them.",
        "",
        f"    L(N, D) = {curve.irreducible:.3f} + {curve.size_coefficient:.4g} / N^{curve.size_exponent:.2f}"
        f" + {curve.data_coefficient:.4g} / D^{curve.data_exponent:.2f}",
        "",
        f"The exponent of size lies in {curve.exponent().low:.2f} to {curve.exponent().high:.2f} (80 %)."
        f" The curve misses single models by {residual:.1f} % (standard deviation).",
        "",
        "![Loss over parameters, with the fitted curves](scaling.svg)",
        "",
    ]


def table(curve: LossCurve, runs: list[Run]) -> list[str]:
    rows = [
        "| parameters | tokens | measured | curve | off by | next doubling of size brings |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run, residual in zip(runs, curve.residuals, strict=True):
        gain = (
            said(curve.gain_per_doubling(run.parameters, run.tokens)) if run.tokens == COMMON_TOKENS else ""
        )
        fitted = curve.loss(run.parameters, run.tokens)
        rows.append(
            f"| {units.count(run.parameters)} | {units.count(run.tokens)} | {run.loss:.3f} | {fitted:.3f} |"
            f" {100 * math.expm1(residual):+.1f} % | {gain} |"
        )
    return [*rows, ""]


def counts(run: Run) -> bool:
    return run.tokens >= LEAST_TOKENS_PER_PARAMETER * run.parameters


def not_counted(curve: LossCurve, runs: list[Run]) -> list[str]:
    """Runs that are not in the fit."""
    if not runs:
        return []
    beside = [
        f"{units.count(run.parameters)} after {units.count(run.tokens)} tokens: {run.loss:.3f}, where the curve has"
        f" {curve.loss(run.parameters, run.tokens):.3f}"
        for run in runs
    ]
    return [
        f"Not in the fit: sizes still in training, and runs with fewer than {LEAST_TOKENS_PER_PARAMETER:g} tokens for"
        f" a parameter, a bound that was drawn after they were seen. {'; '.join(beside)}.",
        "",
    ]


def sizes_left_out(runs: list[Run]) -> list[str]:
    """Each size foretold by the others, the largest being the one that matters."""
    rows = [
        "## Sizes left out",
        "",
        f"Loss of each size at {units.count(COMMON_TOKENS)} tokens, by a curve fitted to the other sizes alone.",
        "",
        "| parameters | measured | foretold | off by |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for run in (run for run in runs if run.tokens == COMMON_TOKENS):
        others = [other for other in runs if other.parameters != run.parameters]
        if len({other.parameters for other in others}) < 4:
            continue
        told = fit_loss_curve(others, UNIT).at(run.parameters, run.tokens)
        rows.append(
            f"| {units.count(run.parameters)} | {run.loss:.3f} | {said(told)} |"
            f" {100 * (told.value / run.loss - 1):+.1f} % |"
        )
    return [*rows, ""]


def data(curve: LossCurve, runs: list[Run], noisy: list[Run]) -> list[str]:
    """The other axis: less text, and worse text."""
    lines = ["## Less text, and worse text", ""]
    for bad in noisy:
        same = [run for run in runs if run.parameters == bad.parameters]
        good = next(run for run in same if run.tokens == bad.tokens)
        lines.append(
            f"The model of {units.count(bad.parameters)} trained on {units.count(bad.tokens)} tokens of noisy text"
            f" (3 % of its characters struck over) reaches {bad.loss:.3f} bits per byte, on clean text {good.loss:.3f}."
        )
        lines += [
            f"On {units.count(run.tokens)} clean tokens it reaches {run.loss:.3f}."
            for run in same
            if run.tokens < bad.tokens
        ]
    top = max(run.parameters for run in runs)
    lines += [
        "",
        f"At {units.count(top)} parameters and {units.count(COMMON_TOKENS)} tokens the curve says:"
        f" twice the parameters bring {said(curve.gain_per_doubling(top, COMMON_TOKENS))} bits per byte,"
        f" twice the text {curve.loss(top, COMMON_TOKENS) - curve.loss(top, 2 * COMMON_TOKENS):.3f}.",
    ]
    return lines


def said(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def draw(curve: LossCurve, runs: list[Run]) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Page

    page = Page(figsize=(7, 4.5), layout="constrained")
    FigureCanvasSVG(page)
    axes = page.subplots()
    smallest, largest = curve.smallest, 4 * curve.largest
    sizes = [smallest * (largest / smallest) ** (step / 60) for step in range(61)]
    for tokens in sorted({run.tokens for run in runs}):
        figures = [curve.at(round(size), tokens) for size in sizes]
        points = [run for run in runs if run.tokens == tokens]
        (line,) = axes.plot(sizes, [one.value for one in figures], linewidth=1)
        axes.fill_between(
            sizes, [f.low for f in figures], [f.high for f in figures], alpha=0.12, color=line.get_color()
        )
        axes.plot(
            [run.parameters for run in points],
            [run.loss for run in points],
            "o",
            markersize=4,
            color=line.get_color(),
            label=f"{units.count(tokens)} tokens",
        )
    axes.axvline(curve.largest, color="grey", linewidth=0.6, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("parameters (dashed: the largest trained; beyond it the curve is an extrapolation)")
    axes.set_ylabel("held-out loss (bits per byte)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    page.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
