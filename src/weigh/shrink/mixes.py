"""Mixes of number formats: which tensor gets more bits, when bytes are short.

Each tensor has options, of so many bytes and so much loss. Losses are taken to add up, which holds to the first
order in the squared errors (Malinovskii et al. 2024, arXiv:2411.17525, "the linearity theorem"). Then the best
mixes for all sizes are found by the Lagrangian: options above the lower convex hull of a tensor are never worth
their bytes, and along the hulls the steps that save the most loss per byte are taken first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from weigh.model.ggml_types import GgmlType


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
        """The mix of least expected loss within `most_bytes`; None when the smallest is larger.

        Where the next step does not fit, later ones of other tensors may.
        """
        left = most_bytes - sum(option.bytes for option in self._smallest.values())
        if left < 0:
            return None
        taken: list[Step] = []
        stopped: set[str] = set()
        for step in self._steps:
            if step.tensor not in stopped and step.bytes <= left:
                taken.append(step)
                left -= step.bytes
            else:
                stopped.add(step.tensor)
        return self._made(taken)

    def _made(self, steps: Sequence[Step]) -> Mix:
        chosen = self._smallest | {step.tensor: step.after for step in steps}
        return Mix(
            {name: option.type for name, option in chosen.items()},
            sum(option.bytes for option in chosen.values()),
            sum(option.loss for option in chosen.values()),
        )
