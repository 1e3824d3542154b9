"""Run loaded models in turns, so that a machine that drifts meanwhile drifts for all of them alike.

Prefill and decode are run apart, as llama-bench does: pp `prompt_tokens`, tg `output_tokens`, both at depth.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Thread

from weigh.engines.engine import Generation, ProcessMemory, Session
from weigh.estimate.speed import Workload

Progress = Callable[[str, float], None]
"""Told what is being done and how much of it is done, 0 to 1."""

LEAST_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Driven:
    """A loaded model and what it does in its turn.

    Attributes:
        vocab: words its prompts are drawn from.
        prompt_tokens: of a prefill; 0 for none.
        output_tokens: of a decode; 0 for none.
        depth_tokens: in the cache before either; filled once.
        parallel: sequences decoded at once.
    """

    session: Session
    vocab: int
    prompt_tokens: int
    output_tokens: int
    depth_tokens: int = 0
    parallel: int = 1

    @classmethod
    def of(cls, session: Session, vocab: int, work: Workload) -> Driven:
        tokens = work.prompt_tokens, work.output_tokens, work.depth_tokens
        return cls(session, vocab, *tokens, work.parallel)


@dataclass
class Seen:
    """What one model did over all its turns: seconds by the engine's clock.

    Attributes:
        prefills_s: of prompts that found what lies before them in the cache. A model whose state cannot be
            wound back computes that anew each time, and has none at depth.
    """

    load_s: float
    prefills_s: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    step_medians_s: list[float] = field(default_factory=list)  # one a turn
    memory: ProcessMemory | None = None

    @property
    def prefill_s(self) -> float:
        return statistics.median(self.prefills_s)

    @property
    def step_s(self) -> float:
        """Median over turns of the median step: neither a burst nor a bad turn moves it much."""
        return statistics.median(self.step_medians_s)

    @property
    def spread(self) -> float:
        """Relative 80 % half-width of single steps."""
        return relative_spread(self.steps_s)

    @property
    def step_drift(self) -> float:
        """Half the range of the turns' steps over their median: what is not known of the typical step."""
        return _half_range(self.step_medians_s)

    @property
    def prefill_drift(self) -> float:
        """Likewise of prefills."""
        return _half_range(self.prefills_s)


def prompt_ids(vocab: int, tokens: int, seed: int) -> list[int]:
    """Token ids drawn from the plain part of the vocabulary: past the bytes, before the special ones."""
    draw = random.Random(seed)
    return [draw.randrange(min(256, vocab // 2), vocab - 8) for _ in range(tokens)]


def relative_spread(samples: Sequence[float]) -> float:
    """Half the 10th-to-90th percentile range over the median: the relative 80 % half-width."""
    if len(samples) < 3:
        return 0.1
    tenths = statistics.quantiles(samples, n=10)
    return (tenths[8] - tenths[0]) / 2 / statistics.median(samples)


def _half_range(samples: Sequence[float]) -> float:
    return (max(samples) - min(samples)) / 2 / statistics.median(samples)


def in_turns(
    models: Sequence[Driven],
    *,
    rounds: int,
    deadline_s: float | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> list[Seen]:
    """Run every model once a round, `rounds` times, or until monotonic `deadline_s` with two rounds done.

    The order turns round from one round to the next, so that none always comes after the same one.
    """
    seen = [Seen(model.session.load_s) for model in models]
    for model in models:
        if model.depth_tokens:
            model.session.generate(_past(model), 1)
    for number in range(rounds):
        order = list(range(len(models)))
        for place, i in enumerate(order if number % 2 == 0 else reversed(order)):
            _turn(models[i], seen[i], number)
            progress((number * len(models) + place + 1) / (rounds * len(models)))
        if deadline_s is not None and number + 1 >= LEAST_ROUNDS and time.monotonic() > deadline_s:
            break
    for model, one in zip(models, seen, strict=True):
        one.memory = model.session.memory()
    return seen


def _past(model: Driven) -> list[int]:
    return prompt_ids(model.vocab, model.depth_tokens, seed=0)


def _turn(model: Driven, seen: Seen, number: int) -> None:
    """Decode comes first, and the first third of its steps does not count: processors that were idle, or did other
    work, are slower for some tenths of a second."""
    past, reuse = _past(model), bool(model.depth_tokens)
    if model.output_tokens:
        start = prompt_ids(model.vocab, 1, seed=2 * number + 2)
        steps = _steps_s(model, [*past, *start], reuse)
        seen.steps_s += steps
        seen.step_medians_s.append(statistics.median(steps))
    if model.prompt_tokens:
        prompt = prompt_ids(model.vocab, model.prompt_tokens, seed=2 * number + 1)
        run = model.session.generate([*past, *prompt], 1, reuse_cache=reuse)
        if run.cached_tokens >= model.depth_tokens:
            seen.prefills_s.append(run.prefill_s)


def _steps_s(model: Driven, prompt: list[int], reuse: bool) -> list[float]:
    """Steps of one decode but for its start, or of several sequences at once while all of them are at it."""
    if model.parallel == 1:
        steps = model.session.generate(prompt, model.output_tokens, reuse_cache=reuse).step_times_s
        return list(steps[len(steps) // 3 :])
    found: list[Generation] = []
    failed: list[BaseException] = []

    def one() -> None:
        try:
            found.append(model.session.generate(prompt, model.output_tokens, reuse_cache=reuse))
        except BaseException as error:  # raised again below, in the caller's thread
            failed.append(error)

    threads = [Thread(target=one) for _ in range(model.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    edge = min(model.parallel, model.output_tokens // 4)  # sequences join and leave one after another
    return [s for g in found for s in g.step_times_s[edge : len(g.step_times_s) - edge]]
