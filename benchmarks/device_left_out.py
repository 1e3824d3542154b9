"""How far off a device or a model comes out that the fit has not seen.

Each device is left out in turn, and so is each model. What formula and noise to take (`VARIANTS`) is chosen by
folds inside what is left in, never on what is predicted. The interval of a device or a model that was left out is
set from the errors on the others (device_intervals.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
from device_effects import NOTHING, PIECES, PRIORS, VARIANTS, Design, Variant
from device_intervals import Miss, learned, width
from device_observed import Observed, observed, read_runs

from weigh.estimate.device_rates import MANY_RUNS, Case
from weigh.estimate.device_terms import (
    distance,
)

INNER_FOLDS, MODEL_FOLDS = 4, 10
LARGEST_GAP = 1.0  # a worse miss counts as one of a factor of e where variants are compared
Effects = dict[str, float]


class Gap(NamedTuple):
    """A run predicted without its device (`device`), its generation (`generation`) or its model (`model`)."""

    left_out: str
    known: str
    run: Observed
    value: float
    far: float

    @property
    def miss(self) -> Miss:
        return Miss(EVIDENCE[self.left_out], self.case, self.run.era, self.run.model, self.value)

    @property
    def case(self) -> Case:
        run, device = self.run, self.run.device.removesuffix(" CPU")
        several = run.cards > 1
        return Case(
            self.known, device, run.backend, run.family, run.experts, run.bits, several, run.depth, self.far
        )


# What is left out tells of devices that are known so well.
EVIDENCE = {"model": "published", "device": "related", "generation": "sheet"}


def chosen(
    designs: Mapping[Variant, Design], some: np.ndarray, starts: Mapping[Variant, np.ndarray]
) -> Variant:
    """The variant that predicts left-out devices and left-out models best, by folds within `some`."""
    runs = next(iter(designs.values())).runs
    counts = Counter(runs[i].device for i in some)

    def folds(names: Sequence[str]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        number = {name: i % INNER_FOLDS for i, name in enumerate(sorted(set(names)))}
        for fold in range(INNER_FOLDS):
            out = np.array([number[name] == fold for name in names])
            yield some[~out], some[out]

    splits = [*folds([runs[i].device for i in some]), *folds([runs[i].model for i in some])]

    def loss(variant: Variant) -> float:
        design, total = designs[variant], 0.0
        for inside, outside in splits:
            gaps = design.gaps(design.fit(inside, variant, starts[variant], rounds=4), outside)
            shares = np.array([1 / math.sqrt(counts[runs[i].device]) for i in outside])
            total += float((np.minimum(np.abs(gaps), LARGEST_GAP) * shares).sum())
        return total

    return min(designs, key=loss)


class Judge:
    """Fits to all runs but some."""

    def __init__(self, kind: str, code: str) -> None:
        self.kind = kind
        self.runs = observed(read_runs(), code)
        self.variants = VARIANTS[kind]
        shared = {(v.without, v.line): Design(self.runs, PRIORS[kind], v) for v in self.variants}
        self.designs = {v: shared[v.without, v.line] for v in self.variants}
        self.fitted = np.arange(len(self.runs))
        self.starts = {v: self.designs[v].fit(self.fitted, v) for v in self.variants}

    def all_runs(self) -> tuple[Variant, Effects]:
        variant = chosen(self.designs, self.fitted, self.starts)
        return variant, self._named(variant, self.starts[variant])

    def without(self, device: str) -> Effects:
        """What would be known if nobody had published a run on `device`."""
        inside = np.array([i for i in self.fitted if self.runs[i].device != device])
        variant = chosen(self.designs, inside, self.starts)
        return self._named(variant, self.designs[variant].fit(inside, variant))

    def _named(self, variant: Variant, theta: np.ndarray) -> Effects:
        named = dict(zip(self.designs[variant].names, (float(t) for t in theta), strict=True))
        return {**named, **dict.fromkeys(PIECES & set(variant.without), NOTHING)}

    def left_out(self, what: str, left: frozenset[str], together: bool = True) -> list[Gap]:
        """Runs of the groups `left`, predicted without them: all at once, or each without itself alone.

        The variant is chosen without all of them either way.
        """
        group = GROUPS[what]
        inside = np.array([i for i in self.fitted if group(self.runs[i]) not in left])
        variant = chosen(self.designs, inside, self.starts)
        return [
            gap
            for one in ([left] if together else [{x} for x in left])
            for gap in self._gaps(what, one, variant)
        ]

    def _gaps(self, what: str, left: Iterable[str], variant: Variant) -> list[Gap]:
        group = GROUPS[what]
        inside = np.array([i for i in self.fitted if group(self.runs[i]) not in left])
        outside = np.array([i for i, run in enumerate(self.runs) if group(run) in left])
        design = self.designs[variant]
        start = self.starts[variant].copy()
        if what != "model":  # no word of what is left out may stay in it
            names = {f"device {self.runs[i].device.removesuffix(' CPU')} " for i in outside}
            own = [i for i, name in enumerate(design.names) if name.startswith(tuple(names))]
            start[own] = design.means[own]
        gaps = design.gaps(design.fit(inside, variant, start), outside)
        counts = Counter((self.runs[i].device, self.runs[i].backend) for i in inside)
        seen = {(self.runs[i].backend, self.runs[i].generation) for i in inside}
        found = []
        for i, value in zip(outside, gaps, strict=True):
            run = self.runs[i]
            known = "related" if (run.backend, run.generation) in seen else "sheet"
            if counts[run.device, run.backend] >= MANY_RUNS:
                known = "published"
            measured = {self.runs[j].weights for j in inside if self._alike(j, i)}
            found.append(Gap(what, known, run, float(value), distance(run.weights, measured)))
        return found

    def _alike(self, one: int, other: int) -> bool:
        a, b = self.runs[one], self.runs[other]
        return (a.device, a.backend) == (b.device, b.backend)

    def tasks(self) -> list[tuple[str, str, frozenset[str], bool]]:
        """Each device, each generation, and models that share a choice of variant, each by itself."""
        models = sorted({run.model for run in self.runs})
        return [
            *((self.kind, "device", frozenset([x]), True) for x in sorted({r.device for r in self.runs})),
            *(
                (self.kind, "generation", frozenset([x]), True)
                for x in sorted({r.generation for r in self.runs})
            ),
            *((self.kind, "model", frozenset(models[i::MODEL_FOLDS]), False) for i in range(MODEL_FOLDS)),
        ]


GROUPS: Mapping[str, Callable[[Observed], str]] = {
    "device": lambda run: run.device,
    "generation": lambda run: run.generation,
    "model": lambda run: run.model,
}
KINDS = {"decode": "tg", "prefill": "pp"}


@cache
def judge_of(kind: str) -> Judge:
    """For `decode` or `prefill`."""
    return Judge(kind, KINDS[kind])


def _task(task: tuple[str, str, frozenset[str], bool]) -> list[Gap]:
    kind, what, left, together = task
    return judge_of(kind).left_out(what, left, together)


def all_gaps(kind: str) -> list[Gap]:
    with ProcessPoolExecutor() as pool:
        found = [gap for gaps in pool.map(_task, judge_of(kind).tasks()) for gap in gaps]
    # a model's runs on a device with few others say nothing of how a well-known device is predicted
    return [g for g in found if g.left_out != "model" or g.known == "published"]


class Judged(NamedTuple):
    """A gap with the half-width that was set without its device, or without its model on a device seen."""

    gap: Gap
    width: float

    @property
    def inside(self) -> bool:
        return abs(self.gap.value) <= self.width


def judged(gaps: Sequence[Gap]) -> list[Judged]:
    with ProcessPoolExecutor() as pool:
        tasks = [
            (gaps, of_model, name)
            for of_model in (False, True)
            for name in sorted({g.run.model if of_model else g.run.device for g in gaps})
        ]
        return [result for results in pool.map(_judge_one, tasks) for result in results]


def _judge_one(task: tuple[Sequence[Gap], bool, str]) -> list[Judged]:
    gaps, of_model, name = task

    def belongs(gap: Gap) -> bool:
        return (gap.run.model if of_model else gap.run.device) == name

    table = learned([g.miss for g in gaps if not belongs(g)])
    mine = [g for g in gaps if belongs(g) and (g.left_out == "model") == of_model]
    return [Judged(g, width(table, g.case, g.run.era)) for g in mine]
