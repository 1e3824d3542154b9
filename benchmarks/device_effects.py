"""Effects of device, engine and format on a run's time, fitted to published runs.

The logarithm of a run's time is fitted by Gauss-Newton under a likelihood with heavy tails; every effect is
drawn to a prior (Gaussian, `PRIORS`), so that those with few runs stay near one. Many runs of one model on one
device count as the root of their number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from device_observed import Observed, cards_share

from weigh.estimate.device_rates import Pipeline
from weigh.estimate.device_terms import (
    Term,
)

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
