"""What decides a training's weights, and where it keeps its state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ladder.shapes import RUNGS, Rung, rung
from ladder.tokenizer import CONTEXT_TOKENS

WINDOWS_PER_STEP = 8
TOKENS_PER_STEP = WINDOWS_PER_STEP * CONTEXT_TOKENS
WARM_UP_STEPS = 20
DECAY_SHARE = 0.25  # of a branch's steps, at its end
BRANCH_STEPS = (128, 256, 512, 1024)  # an eighth, a quarter, half, all of the tokens
SEED = 1
NOISY_RUNG = "1m"
RATE_RUNGS, RATES_TIMES_WIDTH, RATE_STEPS = ("2m", "230k", "11m"), (0.25, 1.0), 128


@dataclass(frozen=True, slots=True)
class Run:
    """One training: warm up, hold the learning rate, and decay it in branches that end at `ends` steps.

    A branch that ends at `end` starts from the trunk three quarters of the way there and has seen exactly the
    first `end` steps' tokens: the same as a training planned for that length (Hägele et al. 2024,
    arXiv:2405.18392), so that one run gives the whole data axis.
    """

    name: str
    rung: Rung
    learning_rate: float
    ends: tuple[int, ...] = BRANCH_STEPS
    noise: bool = False
    seed: int = SEED

    @property
    def embedding_times(self) -> float:
        """By how much embedding and norms learn faster: muP has their rate stay the same at every width."""
        return self.rung.hidden / RUNGS[0].hidden

    def rate(self, step: int, end: int) -> float:
        """Learning rate of the step after `step` steps, in the branch that ends at `end` (1 - sqrt decay)."""
        warm = min(1.0, (step + 1) / WARM_UP_STEPS)
        decayed = max(0.0, (step - decay_start(end)) / (end - decay_start(end)))
        return self.learning_rate * warm * (1 - math.sqrt(decayed))

    def model_name(self, end: int) -> str:
        """Of the model a branch gives; the longest bears the run's own name."""
        tokens = f"-{end * TOKENS_PER_STEP // 1024}ktok" if end != self.ends[-1] else ""
        return f"ladder-{self.name}{tokens}"


def decay_start(end: int) -> int:
    return round(end * (1 - DECAY_SHARE))


def runs() -> dict[str, Run]:
    """The ladder, by name: every rung, and one rung on noisy text."""
    every = [Run(each.name, each, each.learning_rate) for each in RUNGS]
    noisy = rung(NOISY_RUNG)
    every.append(Run(f"{NOISY_RUNG}-noisy", noisy, noisy.learning_rate, ends=BRANCH_STEPS[-2:], noise=True))
    return {run.name: run for run in every}


def rate_runs() -> list[Run]:
    """Half and double the learning rate: the check of the rule for it, beside the rungs' own first branches."""
    return [
        Run(f"{name}-rate-{constant:g}", rung(name), constant / rung(name).hidden, ends=(RATE_STEPS,))
        for name in RATE_RUNGS
        for constant in RATES_TIMES_WIDTH
    ]
