"""Fit what size is worth within a family and write src/weigh/data/quality_returns.json.

    python benchmarks/returns_fit.py            # fit, write, print the figures of docs/returns.md
    python benchmarks/returns_fit.py --check    # fit and compare with the file that is there

Models of one family share their makers, their data and their year, so that size is what tells them apart. The index
of docs/quality.md (points, 10 = one logit) is fitted over them as `level of the family - C x N^-gamma`, N in billions
of parameters, in least squares over all dense families of one generation with three scored sizes or more. The
uncertainty comes from drawing families anew: which families were published says more than their scores' errors.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from weigh.model.catalog import catalog

DATA = Path(__file__).parents[1] / "src" / "weigh" / "data"
EXPONENTS = [step / 50 for step in range(1, 101)]  # gamma: 0.02 is nearly a straight line over log size
LEAST_SIZES, LEAST_RATIO = 3, 4.0
MOST_YEARS = 0.7  # between the members of a family: what came later is better at any size
DRAWS, SEED = 200, 7
Family = Sequence[tuple[float, float]]  # billions of parameters, points


def families(axis: str) -> dict[str, list[tuple[float, float]]]:
    """Dense models with at least one score, by family and kind; of two of one size the better one."""
    index = json.loads((DATA / "quality_index.json").read_text(encoding="utf-8"))["models"]
    found: dict[str, dict[float, float]] = {}
    years: dict[str, list[float]] = {}
    for entry in catalog().entries:
        model = index.get(entry.id)
        if model is None or model["moe"] or not model["code"]["n"] + model["general"]["n"]:
            continue
        name = f"{entry.family} ({model['kind']})"
        size, points = round((entry.stated_total or entry.spec().parameters) / 1e9, 2), model[axis]["value"]
        years.setdefault(name, []).append(model["year"])
        sizes = found.setdefault(name, {})
        sizes[size] = max(points, sizes.get(size, points))
    kept = {name: sorted(sizes.items()) for name, sizes in found.items()}
    return {
        name: sizes
        for name, sizes in kept.items()
        if len(sizes) >= LEAST_SIZES
        and sizes[-1][0] / sizes[0][0] >= LEAST_RATIO
        and max(years[name]) - min(years[name]) <= MOST_YEARS
    }


def fit(group: Sequence[Family]) -> tuple[float, float, float]:
    """C, gamma and the sum of squares, every family about its own level."""
    best = (0.0, 0.0, float("inf"))
    for gamma in EXPONENTS:
        pairs = []
        for family in group:
            xs, ys = [size**-gamma for size, _ in family], [points for _, points in family]
            pairs += [(x - fmean(xs), y - fmean(ys)) for x, y in zip(xs, ys, strict=True)]
        slope = sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)
        error = sum((y - slope * x) ** 2 for x, y in pairs)
        if error < best[2]:
            best = (-slope, gamma, error)
    return best


def gain(cost: float, gamma: float, size_b: float) -> float:
    """Points when the parameters double."""
    return cost * (size_b**-gamma - (2 * size_b) ** -gamma)


def left_out(groups: dict[str, list[tuple[float, float]]]) -> tuple[list[float], list[float]]:
    """Errors of steps between neighbouring sizes, in points: of the curve fitted without the family, and of a
    straight line over log size fitted without it."""
    curve, straight = [], []
    for name, family in groups.items():
        others = [sizes for other, sizes in groups.items() if other != name]
        cost, gamma, _ = fit(others)
        flat_cost, flat, _ = _line(others)
        for (n0, y0), (n1, y1) in pairwise(family):
            curve.append(cost * (n0**-gamma - n1**-gamma) - (y1 - y0))
            straight.append(flat_cost * (n0**-flat - n1**-flat) - (y1 - y0))
    return curve, straight


def _line(group: Sequence[Family]) -> tuple[float, float, float]:
    """As `fit`, at an exponent so small that it is a line over log size."""
    pairs, gamma = [], 0.001
    for family in group:
        xs, ys = [size**-gamma for size, _ in family], [points for _, points in family]
        pairs += [(x - fmean(xs), y - fmean(ys)) for x, y in zip(xs, ys, strict=True)]
    return -sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs), gamma, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    result, lines = {}, []
    for axis in ("code", "general"):
        groups = families(axis)
        cost, gamma, error = fit(list(groups.values()))
        rng = random.Random(SEED)
        draws = []
        for _ in range(DRAWS):
            drawn = fit(rng.choices(list(groups.values()), k=len(groups)))
            draws.append([round(drawn[0], 2), drawn[1]])
        steps, models = left_out(groups), sum(map(len, groups.values()))
        result[axis] = {
            "cost": round(cost, 2),
            "exponent": gamma,
            "draws": draws,
            "families": len(groups),
            "models": models,
            "smallest_b": min(family[0][0] for family in groups.values()),
            "largest_b": max(family[-1][0] for family in groups.values()),
        }
        lines += [
            f"{axis}: {models} models of {len(groups)} families: {', '.join(groups)}",
            f"{axis}: level - {cost:.1f} x N^-{gamma:.2f},"
            f" residual {(error / (models - len(groups) - 2)) ** 0.5:.1f} points",
            f"{axis}: a step to the next size, family left out: median error {median(map(abs, steps[0])):.1f} points,"
            f" straight line {median(map(abs, steps[1])):.1f}",
            *(
                f"{axis}: {size:g} B doubled: {gain(cost, gamma, size):+.1f}"
                f" ({low:+.1f} to {high:+.1f}) points"
                for size in (0.5, 1, 2, 4, 8, 16, 32, 64)
                for low, high in [_between([gain(c, g, size) for c, g in draws])]
            ),
        ]
    text = json.dumps(result) + "\n"
    target = DATA / "quality_returns.json"
    if check:
        same = target.read_text(encoding="utf-8") == text
        print("quality_returns.json is up to date" if same else "quality_returns.json differs")
        raise SystemExit(0 if same else 1)
    target.write_text(text, encoding="utf-8")
    print("\n".join(lines))


def _between(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]


if __name__ == "__main__":
    main()
