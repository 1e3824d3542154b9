"""Drive the real engine over one model file and keep what happened."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weigh.engines.engine import Generation, ProcessMemory, Session

Progress = Callable[[str, float], None]
"""Told what is being done and how much of it is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Drive:
    """What one loaded model did.

    Attributes:
        prefills: one request per repetition, each with a prompt of its own.
        decodes: likewise, decoding after `depth` tokens.
    """

    load_s: float
    prefills: tuple[Generation, ...]
    decodes: tuple[Generation, ...]
    memory: ProcessMemory

    @property
    def typical_step_s(self) -> float:
        """Median of single decode steps: a burst of other work on the machine hardly moves it."""
        return statistics.median(self.step_times_s)

    @property
    def typical_prefill_s(self) -> float:
        """Mean of the prefills; the fastest alone would promise what a longer prompt does not keep."""
        return statistics.fmean(g.prefill_s for g in self.prefills)

    @property
    def step_times_s(self) -> tuple[float, ...]:
        """Every decode step by the engine's clock."""
        return tuple(step for g in self.decodes for step in g.step_times_s)


def prompt_ids(vocab: int, tokens: int, seed: int) -> list[int]:
    """Token ids drawn from the plain part of the vocabulary: past the bytes, before the special ones."""
    draw = random.Random(seed)
    return [draw.randrange(min(256, vocab // 2), vocab - 8) for _ in range(tokens)]


def drive(
    session: Session,
    *,
    vocab: int,
    prompt_tokens: int,
    output_tokens: int,
    depth_tokens: int = 0,
    repetitions: int = 1,
    progress: Progress | None = None,
) -> Drive:
    """Prefill and decode apart, as llama-bench does: pp `prompt_tokens`, tg `output_tokens`, both at depth.

    The first `depth_tokens` are prefilled once and then found in the engine's cache. Prompts differ
    between repetitions, so that nothing else is.
    """
    tell = progress or (lambda stage, done: None)
    past = prompt_ids(vocab, depth_tokens, seed=0)
    if past:
        tell("filling the context", 0.0)
        session.generate(past, 1)
    prefills, decodes = [], []
    for number in range(repetitions):
        tell("prefill", number / repetitions)
        prompt = prompt_ids(vocab, prompt_tokens, seed=2 * number + 1)
        prefills.append(session.generate([*past, *prompt], 1, reuse_cache=bool(past)))
        tell("decode", (number + 0.5) / repetitions)
        start = prompt_ids(vocab, 1, seed=2 * number + 2)
        decodes.append(session.generate([*past, *start], output_tokens, reuse_cache=bool(past)))
    return Drive(session.load_s, tuple(prefills), tuple(decodes), session.memory())


def relative_spread(samples: Sequence[float]) -> float:
    """Half the 10th-to-90th percentile range over the median: the relative 80 % half-width."""
    if len(samples) < 3:
        return 0.1
    tenths = statistics.quantiles(samples, n=10)
    return (tenths[8] - tenths[0]) / 2 / statistics.median(samples)
