"""Fit the effects of `weigh.estimate.device_speed` to published runs, and say how far off strangers come out.

Reads `benchmarks/data/device_runs.csv` (made by device_rows.py); writes `src/weigh/data/device_rates.json` and,
run by run, what was predicted without it, `benchmarks/data/device_predictions.csv`. Needs numpy.

The logarithm of a run's time is fitted by Gauss-Newton under a likelihood with heavy tails; every effect is
drawn to a prior (Gaussian, `PRIORS`), so that those with few runs stay near one. Many runs of one model on one
device count as the root of their number.

Judging: each device is left out in turn, and so is each model. What formula and noise to take (`VARIANTS`) is
chosen by folds inside what is left in, never on what is predicted. The interval of a device or a model that was
left out is set from the errors on the others (device_intervals.py).

    python benchmarks/device_rates_fit.py            # fit, judge, write
    python benchmarks/device_rates_fit.py --check    # fit, compare all but the widths with the file
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from device_intervals import Miss, learned, width

from weigh.engines.engine import Settings
from weigh.estimate.device_rates import MANY_RUNS, VECTOR_ATTENTION, Case, Pipeline, integer_gain
from weigh.estimate.device_speed import LAUNCH_QUEUE, LONGER_QUEUE, pipeline_share
from weigh.estimate.device_terms import (
    DP4A_CAPABILITY,
    Peaks,
    Run,
    Term,
    bits_of,
    decode_terms,
    distance,
    prefill_terms,
    weights_of,
)
from weigh.estimate.device_work import whole
from weigh.machine.device_names import Ram
from weigh.machine.device_sheets import gpu_sheets, host_sheets
from weigh.machine.target import Backend
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec

DATA = Path(__file__).with_name("data")
RUNS, PREDICTIONS = DATA / "device_runs.csv", DATA / "device_predictions.csv"
RATES = Path(__file__).parents[1] / "src" / "weigh" / "data" / "device_rates.json"

# First words of an effect's name, for all or for one backend or more, -> (mean, standard deviation) of its
# logarithm. From what is known of such devices and engines, where a line says no more.
PRIORS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "decode": {
        "bytes": (math.log(1.3), 0.3),
        "bytes * *": (0.0, 0.12),
        "bytes HBM": (0.3, 0.3),
        "device": (0.0, 0.12),
        "format": (0.0, 0.2),
        "format * *": (0.0, 0.12),
        "experts": (0.2, 0.3),
        "experts *": (0.0, 0.2),
        "vocabulary": (-1.0, 0.7),
        "kv": (math.log(1.5), 0.5),
        "kv *": (0.0, 0.4),
        "launch": (0.0, 0.6),
        "launch *": (0.0, 0.4),
        "route": (0.0, 0.6),
        "route *": (0.0, 0.4),
        "era": (0.0, 0.4),
        "era * bytes": (0.0, 0.15),
        "era 2024 kv": (0.0, 0.6),
    },
    "prefill": {
        "flops": (math.log(2.0), 0.6),
        "flops * *": (0.0, 0.3),
        # its matrix units reach 63 % of their peak by the instructions that llama.cpp uses (mma, not wgmma)
        # Source: Luo et al. 2024, arXiv:2402.13499 (from memory: unverified)
        "flops CUDA Hopper": (math.log(1 / 0.63), 0.3),
        "size": (0.0, 0.3),
        "size *": (0.0, 0.15),
        "size CUDA": (0.0, 0.3),
        "device": (0.0, 0.2),
        "format": (0.0, 0.35),
        "experts": (0.3, 0.5),
        "experts *": (0.0, 0.3),
        "tile": (-0.7, 0.7),
        "weights": (0.0, 0.7),
        "weights *": (0.0, 0.4),
        "attention": (math.log(3.0), 0.8),
        "attention *": (0.0, 0.5),
        "scores": (0.0, 0.7),
        "recurrent": (math.log(10.0), 0.8),
        "launch": (0.0, 0.8),
        "launch *": (0.0, 0.5),
        "stream": (-0.3, 0.5),
        "era": (0.0, 0.5),
        # no matrix units: a fourth of the peak is left (see `Run.era` in device_rows.py)
        "era 2025 ROCm": (math.log(4.0), 0.5),
        "era amdvlk attention": (0.7, 0.5),
        "era * quantized": (0.0, 0.2),
        "era * F16": (0.0, 0.2),
        "era * BF16": (0.0, 0.2),
        "era rocblas ROCm": (0.0, 0.3),
        "era rocblas BF16": (0.0, 1.0),
    },
}


class Variant(NamedTuple):
    """A formula less one piece, and the noise that is taken for granted.

    Attributes:
        without: first words of effects; terms that only they describe fall away (`PIECES`).
        noise: of one run, in logarithms.
        degrees: of freedom of Student's t; 0 for Huber's likelihood.
        line: how cards pass on a prompt's micro-batches.
    """

    without: tuple[str, ...] = ()
    noise: float = 0.08
    degrees: int = 0
    line: Pipeline = Pipeline(58, 1.1)


UNPACKED_PER_LAYER = 7  # matrices, which older builds turned into 16 bits before they multiplied them
PLAIN = Variant()
PIECES = frozenset({"vocabulary", "tile", "weights", "recurrent", "scores"})
VARIANTS: Mapping[str, Sequence[Variant]] = {
    "decode": (
        Variant(),
        Variant(without=("vocabulary",)),
        Variant(noise=0.05),
        Variant(noise=0.12),
        Variant(degrees=4),
    ),
    "prefill": (
        Variant(noise=0.2, degrees=4),
        Variant(noise=0.12, degrees=4),
        Variant(("size",), noise=0.2, degrees=4),
        Variant(("weights",), noise=0.2, degrees=4),
        Variant(("recurrent",), noise=0.2, degrees=4),
        Variant(("scores",), noise=0.2, degrees=4),
        Variant(noise=0.12, degrees=4, line=Pipeline(58, 1.0)),
        Variant(noise=0.12, degrees=4, line=Pipeline(46, 1.1)),
        Variant(noise=0.12, degrees=4, line=Pipeline(70, 1.1)),
    ),
}
NOTHING = -99.0  # logarithm of the cost of a piece that is left out
HUBER = 1.5
INNER_FOLDS, MODEL_FOLDS = 4, 10
LARGEST_GAP = 1.0  # a worse miss counts as one of a factor of e where variants are compared
PRINTED_13900K_MT_PER_S = 6400  # said in its rows
DEFAULTS = Settings()
Effects = dict[str, float]
Row = Mapping[str, str]


class Observed(NamedTuple):
    """A published run in the formula's terms.

    Attributes:
        family: `discrete`, `unified` or `host`.
        cards: alike, on which the run is fitted as on one that takes as long (`cards_share`).
        log_s: of what was measured.
        batches: micro-batches of a prompt, 1 in decode.
    """

    number: int
    device: str
    backend: str
    generation: str
    model: str
    recipe: str
    experts: bool
    family: str
    cards: int
    terms: tuple[Term, ...]
    log_s: float
    layers: int = 0
    batches: int = 1
    depth: int = 0
    bits: str = ""
    era: str = ""
    weights: int = 0

    @property
    def kind(self) -> str:
        return "experts" if self.experts else "dense"


# --- rows ---------------------------------------------------------------------------------------------------


def read_runs() -> list[dict[str, str]]:
    with RUNS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Machine:
    run: Run
    peaks: Peaks
    family: str


def machine(row: Row) -> Machine:
    if row["on"] == "host":
        host = next(h for h in host_sheets() if h.name == row["device"])
        rate = PRINTED_13900K_MT_PER_S if "13900K" in host.name else None
        run = Run("CPU", host.generation, host.name, era=row["era"])
        peak = host.fp32_flops_per_s * integer_gain(host.features)
        return Machine(run, Peaks(host.bandwidth_bytes_per_s(Ram(None, None, rate)), peak, peak), "host")
    sheet = next(g for g in gpu_sheets() if g.name == row["device"])
    dp4a = row["backend"] == Backend.CUDA and sheet.compute_capability == DP4A_CAPABILITY
    run = Run(row["backend"], sheet.generation, sheet.name, "HBM" in sheet.memory_type, dp4a, row["era"])
    assert sheet.fp16_flops_per_s is not None
    vector = sheet.fp32_flops_per_s if Backend(row["backend"]) in VECTOR_ATTENTION else None
    peaks = Peaks(sheet.bandwidth_bytes_per_s, sheet.fp16_flops_per_s, vector or sheet.fp16_flops_per_s)
    return Machine(run, peaks, "unified" if sheet.unified else "discrete")


@cache
def _spec(model: str, recipe: str) -> ModelSpec:
    return quantize(catalog().by_id[model].spec(), recipe)


def observed(rows: Sequence[Row], code: str) -> list[Observed]:
    """Runs of one kind."""
    found = []
    for number, row in enumerate(rows):
        if row["kind"] != code:
            continue
        on, spec = machine(row), _spec(row["model"], row["recipe"])
        name = row["device"] if row["on"] == "gpu" else f"{row['device']} CPU"
        terms, seconds = terms_of(row, on, spec)
        found.append(
            Observed(
                number,
                name,
                row["backend"],
                on.run.generation,
                row["model"],
                row["recipe"],
                bool(spec.experts),
                on.family,
                max(1, int(row["gpus"])),
                terms,
                math.log(seconds),
                spec.layers,
                1 if code == "tg" else math.ceil(int(row["tokens"]) / int(row["ubatch"])),
                int(row["depth"]),
                bits_of(whole(spec)),
                row["era"],
                weights_of(whole(spec)),
            )
        )
    return found


def cards_share(run: Observed, line: Pipeline) -> float:
    """Decode takes as long as on one such card, had it the memory; prefill is shared out by micro-batches."""
    if run.batches == 1:
        return 1.0
    old = run.era == "2024"
    unpacked = UNPACKED_PER_LAYER if old and run.bits == "16" else 0
    line = line._replace(operations_per_layer=line.operations_per_layer - unpacked)
    queue = LAUNCH_QUEUE * (1 if old else LONGER_QUEUE)
    return pipeline_share(run.cards, run.layers, run.batches, line, queue)


def terms_of(row: Row, on: Machine, spec: ModelSpec) -> tuple[tuple[Term, ...], float]:
    """The run's terms, and its seconds: of a step in decode, of the whole prompt in prefill."""
    tokens, depth, speed = int(row["tokens"]), int(row["depth"]), float(row["tokens_per_s"])
    part = whole(spec)
    if row["kind"] == "tg":
        cached = depth + tokens / 2
        terms = decode_terms(part, on.run, on.peaks.bytes_per_s, DEFAULTS, cached_tokens=cached)
        return tuple(terms), 1 / speed
    terms = prefill_terms(
        part,
        on.run,
        on.peaks,
        tokens=tokens,
        depth=depth,
        ubatch=int(row["ubatch"]),
        flash_attention=row["flash_attention"] == "True",
    )
    return tuple(terms), tokens / speed


# --- the fit ------------------------------------------------------------------------------------------------


def prior(name: str, table: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Of the nearest pattern: `bytes * *` for `bytes CUDA Ampere`, whose last word may hold spaces."""
    if name in table:
        return table[name]
    first, *rest = name.split(" ")
    if first == "era":
        starred = f"era * {rest[-1]}"
        return table.get(starred, table["era"])
    for stars in range(min(len(rest), 2), -1, -1):
        found = table.get(" ".join([first, *"*" * stars]))
        if found is not None:
            return found
    raise KeyError(name)


class Design:
    """Runs as arrays: logarithms of seconds, (runs, terms), and powers of effects, (runs, terms, effects)."""

    def __init__(
        self,
        runs: Sequence[Observed],
        priors: Mapping[str, tuple[float, float]],
        variant: Variant = PLAIN,
    ) -> None:
        self.runs = runs
        kept = [[self._term(term, variant.without) for term in run.terms] for run in runs]
        terms = [[t for t in each if t is not None and t[0] > 0] for each in kept]
        self.names = sorted({name for each in terms for _, powers in each for name in powers})
        place = {name: i for i, name in enumerate(self.names)}
        widest = max(len(each) for each in terms)
        self.log_s = np.full((len(runs), widest), -1e9)
        self.powers = np.zeros((len(runs), widest, len(self.names)))
        for i, each in enumerate(terms):
            for j, (seconds, powers) in enumerate(each):
                self.log_s[i, j] = math.log(seconds)
                for name, power in powers.items():
                    self.powers[i, j, place[name]] += power
        pairs = [prior(name, priors) for name in self.names]
        self.means, self.deviations = (np.array(column) for column in zip(*pairs, strict=True))
        self.truth = np.array([run.log_s - math.log(cards_share(run, variant.line)) for run in runs])
        self.cells = [(run.device, run.backend, run.model, run.recipe) for run in runs]

    @staticmethod
    def _term(term: Term, without: tuple[str, ...]) -> tuple[float, dict[str, float]] | None:
        powers = dict.fromkeys(term.effects, 1.0)
        for name, power in term.slopes:
            powers[name] = powers.get(name, 0.0) + power
        gone = [name for name in powers if name.split(" ")[0] in without]
        if any(name in PIECES for name in gone):
            return None
        return term.seconds, {name: power for name, power in powers.items() if name not in gone}

    def gaps(self, theta: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Logarithms of measured over predicted time."""
        return self.truth[some] - _summed(self.log_s[some] + self.powers[some] @ theta)[0]

    def fit(
        self, some: np.ndarray, variant: Variant, start: np.ndarray | None = None, rounds: int = 12
    ) -> np.ndarray:
        """Effects by these runs alone; those that none of them has stay at their prior's mean."""
        counts = Counter(self.cells[i] for i in some)
        cell_weights = np.array([1 / math.sqrt(counts[self.cells[i]]) for i in some])
        used = np.flatnonzero(np.abs(self.powers[some]).sum(axis=(0, 1)))
        powers, log_s, truth = (
            self.powers[np.ix_(some, range(self.log_s.shape[1]), used)],
            self.log_s[some],
            self.truth[some],
        )
        means, precision = self.means[used], self.deviations[used] ** -2
        theta = means.copy() if start is None else start[used].copy()
        for _ in range(rounds):
            total, shares = _summed(log_s + powers @ theta)
            gap = truth - total
            slopes = np.matmul(shares[:, None, :], powers)[:, 0, :]
            weights = cell_weights * _robust(gap, variant) / variant.noise**2
            matrix = (slopes * weights[:, None]).T @ slopes + np.diag(precision)
            right = slopes.T @ (weights * gap) + precision * (means - theta)
            change = np.linalg.solve(matrix, right)
            largest = np.abs(change).max()
            theta += change / max(1.0, largest)
            if largest < 1e-3:
                break
        found = self.means.copy()
        found[used] = theta
        return found


def _summed(each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of sums over terms, and the share of each term."""
    largest = each.max(axis=1, keepdims=True)
    times = np.exp(each - largest)
    total = times.sum(axis=1, keepdims=True)
    return (largest + np.log(total))[:, 0], times / total


def _robust(gap: np.ndarray, variant: Variant) -> np.ndarray:
    """Weights that keep far-off runs from pulling the rest."""
    far = np.abs(gap) / variant.noise
    if variant.degrees:
        return (variant.degrees + 1) / (variant.degrees + far**2)
    return np.minimum(1.0, HUBER / np.maximum(far, 1e-12))


# --- left out ----------------------------------------------------------------------------------------------


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


# --- intervals ---------------------------------------------------------------------------------------------


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


# --- what is told ------------------------------------------------------------------------------------------


def percent(log_gaps: Iterable[float]) -> float:
    """Median of |predicted / measured - 1| of speeds."""
    return 100 * median(abs(math.expm1(g)) for g in log_gaps)


def measured_weights(runs: Sequence[Observed]) -> dict[str, list[int]]:
    """Of the models that were measured on each device."""
    found: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        found[f"{run.device.removesuffix(' CPU')} {run.backend}"].add(run.weights)
    return {name: sorted(each) for name, each in sorted(found.items())}


def report(kind: str, results: Sequence[Judged]) -> None:
    for what in ("device", "generation", "model"):
        cells: dict[tuple[str, str, str], list[Judged]] = defaultdict(list)
        for result in results:
            if result.gap.left_out == what:
                run = result.gap.run
                cells[run.family, run.kind, "several" if run.cards > 1 else "one"].append(result)
        for cell, some in sorted(cells.items()):
            print(
                f"{kind} without its {what}, {' '.join(cell)}: {len(some)} runs,"
                f" {len({r.gap.run.device for r in some})} devices,"
                f" median error {percent(r.gap.value for r in some):.1f} %,"
                f" interval holds {100 * sum(r.inside for r in some) / len(some):.0f} %"
            )
    by_device: dict[tuple[str, str], list[float]] = defaultdict(list)
    for r in results:
        if r.gap.left_out == "device":
            by_device[r.gap.run.device, r.gap.run.backend].append(r.gap.value)
    for (device, backend), values in sorted(by_device.items()):
        times = math.exp(median(values))
        print(f"      {device:34} {backend:7} {len(values):3} runs, takes {times:.2f} x the time predicted")


def todays(terms: Mapping[str, float]) -> dict[str, float]:
    """Terms less those of older builds."""
    return {name: round(value, 4) for name, value in terms.items() if not name.startswith("era")}


def write_predictions(results: Mapping[str, Sequence[Judged]]) -> None:
    """A line for each run and what it was predicted without; `row` counts the lines of device_runs.csv from 0."""
    rows = read_runs()
    lines = []
    for kind, some in results.items():
        for r in some:
            g = r.gap
            row = rows[g.run.number]
            predicted = float(row["tokens_per_s"]) * math.exp(g.value)
            low, high = predicted / math.exp(r.width), predicted * math.exp(r.width)
            described = (kind, g.left_out, g.known, g.run.family, g.run.kind)
            lines.append((g.run.number, *described, f"{predicted:.4g}", f"{low:.4g}", f"{high:.4g}"))
    with PREDICTIONS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "speed", "without", "known", "device", "model", "predicted", "low", "high"))
        writer.writerows(sorted(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare all but the widths with the file")
    check = parser.parse_args().check
    content: dict[str, dict[str, object]] = {}
    results: dict[str, list[Judged]] = {}
    for kind in KINDS:
        judge = judge_of(kind)
        variant, effects = judge.all_runs()
        print(f"{kind}: {variant}")
        if check:
            gaps: list[Gap] = []
        else:
            gaps = all_gaps(kind)
            results[kind] = judged(gaps)
            report(kind, results[kind])
        counts = Counter(f"{r.device.removesuffix(' CPU')} {r.backend}" for r in judge.runs)
        content[kind] = {
            "effects": todays(effects),
            "weights": measured_weights(judge.runs),
            "pipeline": tuple(variant.line),
            "widths": todays(learned([g.miss for g in gaps])) if gaps else None,
            "runs": dict(sorted(counts.items())),
            "generations": sorted({f"{r.backend} {r.generation}" for r in judge.runs}),
        }
    if check:
        kept = json.loads(RATES.read_text(encoding="utf-8"))
        made = json.loads(json.dumps(content))
        same = all({**made[kind], "widths": kept[kind]["widths"]} == kept[kind] for kind in KINDS)
        print("device_rates.json is up to date" if same else "device_rates.json differs")
        raise SystemExit(0 if same else 1)
    RATES.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_predictions(results)


if __name__ == "__main__":
    main()
