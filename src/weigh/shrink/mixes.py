"""Mixes of number formats: which tensor gets more bits, when bytes are short.

Each tensor has options, of so many bytes and so much loss. Losses are taken to add up, which holds to the first
order in the squared errors (Malinovskii et al. 2024, arXiv:2411.17525, "the linearity theorem"). Then the best
mixes are found by the Lagrangian: along the lower convex hull of each tensor's options, the steps that save the most
loss per byte are taken first. Between two such mixes, where one large tensor's step does not fit, a knapsack over
bytes rounded up to a grain may find a better one; the better of both is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from weigh.model.ggml_types import GgmlType

_PARTS = 4  # budgets tried between two mixes of the front
_GRAINS = 4096  # into which the bytes between the smallest and the largest mix are cut


@dataclass(frozen=True, slots=True)
class Option:
    """A format that a tensor can have; `bytes` with the padding in the file, `loss` in nats."""

    type: GgmlType
    bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Step:
    """From one option of a tensor's hull to the next larger one."""

    tensor: str
    before: Option
    after: Option

    @property
    def bytes(self) -> int:
        return self.after.bytes - self.before.bytes

    @property
    def saved(self) -> float:
        return self.before.loss - self.after.loss


@dataclass(frozen=True, slots=True)
class Mix:
    """A format for each tensor, the bytes of all, and the loss they are expected to add up to."""

    types: Mapping[str, GgmlType]
    bytes: int
    loss: float


def hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull, smallest first: each step saves less per byte than the one before."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.loss)):
        if kept and option.loss >= kept[-1].loss:
            continue  # larger and no better
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-1], option):
            kept.pop()
        kept.append(option)
    return kept


def _slope(one: Option, other: Option) -> float:
    """Loss saved per byte; infinite where it costs none."""
    more = other.bytes - one.bytes
    return (one.loss - other.loss) / more if more else float("inf")


class Front:
    """The best mixes of all sizes, numbered from the smallest."""

    def __init__(self, options: Mapping[str, Sequence[Option]]) -> None:
        self._options = {name: sorted(each, key=lambda o: o.bytes) for name, each in options.items()}
        hulls = {name: hull(each) for name, each in options.items()}
        self._smallest = {name: each[0] for name, each in hulls.items()}
        steps = [
            Step(name, before, after) for name, each in hulls.items() for before, after in pairwise(each)
        ]
        # within a hull savings per byte fall, so that this order takes each tensor's steps one after another
        self._steps = sorted(steps, key=lambda step: (-step.saved / step.bytes, step.after.bytes))

    def __len__(self) -> int:
        return len(self._steps) + 1

    def mix(self, number: int) -> Mix:
        """The mix after `number` steps."""
        return self._made(self._steps[:number])

    def within(self, most_bytes: int) -> Mix | None:
        """The mix of least expected loss found within `most_bytes`; None when the smallest is larger."""
        left = most_bytes - sum(option.bytes for option in self._smallest.values())
        if left < 0:
            return None
        return min(self._by_steps(left), self._by_grains(left), key=lambda mix: (mix.loss, mix.bytes))

    def _by_steps(self, left: int) -> Mix:
        """Steps in order as long as they fit; where one does not, later ones of other tensors may."""
        taken: list[Step] = []
        stopped: set[str] = set()
        for step in self._steps:
            if step.tensor not in stopped and step.bytes <= left:
                taken.append(step)
                left -= step.bytes
            else:
                stopped.add(step.tensor)
        return self._made(taken)

    def _by_grains(self, left: int) -> Mix:
        grain, choices = self._knapsack
        at = min(left // grain, _GRAINS)
        chosen = dict(self._smallest)
        for name, choice in reversed(choices):
            chosen[name] = self._options[name][choice[at]]
            at -= self._cost(name, chosen[name], grain)
        return _mix(chosen)

    def _cost(self, name: str, option: Option, grain: int) -> int:
        """Grains that an option takes beyond the tensor's smallest, rounded up."""
        return -(-max(0, option.bytes - self._smallest[name].bytes) // grain)

    @cached_property
    def _knapsack(self) -> tuple[int, list[tuple[str, NDArray[np.uint8]]]]:
        """Bytes of a grain, and of each tensor the best option for each budget of it and those before."""
        least, most = (self.mix(number).bytes for number in (0, len(self._steps)))
        grain = max(1, -(-(most - least) // _GRAINS))
        best = np.zeros(_GRAINS + 1)
        choices = []
        for name, each in self._options.items():
            losses = np.full((len(each), _GRAINS + 1), np.inf)
            for row, option in zip(losses, each, strict=True):
                cost = self._cost(name, option, grain)
                if option.bytes >= self._smallest[name].bytes and cost <= _GRAINS:
                    row[cost:] = best[: _GRAINS + 1 - cost] + option.loss
            choices.append((name, losses.argmin(axis=0).astype(np.uint8)))
            best = losses.min(axis=0)
        return grain, choices

    def fine(self) -> list[Mix]:
        """Mixes from the smallest to the largest, with those between two of the front where a step is large.

        Each is expected to lose less than the one before.
        """
        sizes = [self.mix(number).bytes for number in range(len(self))]
        budgets = {a + (b - a) * part // _PARTS for a, b in pairwise(sizes) for part in range(_PARTS)}
        made = [self.within(budget) for budget in sorted({*budgets, sizes[-1]})]
        found: list[Mix] = []
        for mix in made:
            if mix is not None and (not found or mix.loss < found[-1].loss):
                found.append(mix)
        return found

    def _made(self, steps: Sequence[Step]) -> Mix:
        return _mix(self._smallest | {step.tensor: step.after for step in steps})


def _mix(chosen: Mapping[str, Option]) -> Mix:
    return Mix(
        {name: option.type for name, option in chosen.items()},
        sum(option.bytes for option in chosen.values()),
        sum(option.loss for option in chosen.values()),
    )
