"""Models as people name them on a text: files in child processes, servers by URL, candidates against a reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from weigh.engines.engine import Limits
from weigh.errors import BadInput, WeighError
from weigh.quality.divergence import DivergedWindow, Divergence, compared, divergence
from weigh.quality.scorer import Scorer, Scores, held_bytes, open_scorer
from weigh.quality.text import (
    LLAMA_WINDOW_TOKENS,
    WINDOW_TOKENS,
    Texts,
    judged_half,
    llama_windows,
    windows_perplexity,
)
from weigh.quality.text_run import SEED, Candidate, Clock, Ended, Progress, TextRun, run_texts
from weigh.quality.url_scorer import UrlScorer

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.model.spec import ModelSpec

S = TypeVar("S", bound=Scorer)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """A model at a URL; `key_variable` of the environment holds the key."""

    url: str
    model: str | None = None
    key_variable: str | None = None


@dataclass(frozen=True, slots=True)
class Diverged:
    """A candidate beside the reference; `planned` windows there are, of which those in `found` were read.

    Attributes:
        windows: what each that was read came to, in the order in which they were read.
    """

    name: str
    found: Divergence
    planned: int
    windows: tuple[DivergedWindow, ...]


@dataclass(frozen=True, slots=True)
class DivergenceRun:
    """What came of it. `error` is what ended it early, to be raised when this is shown."""

    reference: str
    diverged: tuple[Diverged, ...]
    text_bytes: int
    ended: Ended
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Perplexed:
    """A model's perplexity on as many windows of those `planned` as `nats` has, one of each: tokens and nats."""

    name: str
    perplexity: Figure
    planned: int
    nats: tuple[tuple[int, float], ...]

    @property
    def windows(self) -> int:
        return len(self.nats)


@dataclass(frozen=True, slots=True)
class PerplexityRun:
    """What came of it. `error` is what ended it early, to be raised when this is shown."""

    perplexed: tuple[Perplexed, ...]
    text_bytes: int
    ended: Ended
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Read(Generic[T]):
    """What a model made of `found` of the `planned` windows, drawn at random."""

    name: str
    found: list[T]
    planned: int


def on_text(
    models: Sequence[ModelSpec | Server],
    texts: Texts,
    *,
    threads: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    stop_early: bool = True,
    most_s: float | None = None,
    progress: Progress | None = None,
) -> TextRun:
    """Bits per byte of each model, and how they differ; see `run_texts`.

    Raises:
        BadInput, EngineError: as the scorers.
    """
    from weigh.machine.memory import read_memory

    held = sum(held_bytes(one) for one in models if not isinstance(one, Server))
    return run_texts(
        [
            Candidate(name, partial(_opened, model, WINDOW_TOKENS, threads, limits))
            for name, model in zip(names(models), models, strict=True)
        ],
        texts,
        together=held < read_memory().available_bytes,
        stop_early=stop_early,
        most_s=most_s,
        progress=progress,
    )


def on_llama_windows(
    models: Sequence[ModelSpec | Server],
    texts: Texts,
    *,
    threads: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    most_s: float | None = None,
    progress: Progress | None = None,
) -> PerplexityRun:
    """Perplexity of each model as llama-perplexity defines it; broken off as `against` is.

    Raises:
        BadInput, EngineError: as the scorers and `llama_windows`, before anything was read.
    """
    openers = [
        (name, partial(_opened, model, LLAMA_WINDOW_TOKENS, threads, limits))
        for name, model in zip(names(models), models, strict=True)
    ]
    reads, ended, error = _read(openers, judged_half, texts, most_s, progress)
    found = [
        Perplexed(read.name, windows_perplexity(read.found), read.planned, tuple(map(_nats, read.found)))
        for read in reads
    ]
    return PerplexityRun(tuple(found), texts.bytes, ended, error)


def against(
    reference: ModelSpec | Server,
    models: Sequence[ModelSpec | Server],
    texts: Texts,
    *,
    threads: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    most_s: float | None = None,
    progress: Progress | None = None,
) -> DivergenceRun:
    """Divergence of each model from the reference.

    Windows are read in random order, so that those read stand for all when it is broken off. Ctrl-C and the end of
    `most_s`, which is shared out evenly, keep what was read.

    Raises:
        BadInput: a server, whose distributions are not to be had; as `open_scorer` and `llama_windows`.
        EngineError: as the scorer, before anything was compared.
    """
    reference_name, *candidates = names([reference, *models])
    openers = [
        (
            name,
            partial(
                open_scorer,
                of_file(model),
                context_tokens=LLAMA_WINDOW_TOKENS,
                limits=limits,
                threads=threads,
                reference=of_file(reference),
            ),
        )
        for name, model in zip(candidates, models, strict=True)
    ]
    reads, ended, error = _read(openers, compared, texts, most_s, progress)
    found = [
        Diverged(read.name, divergence(read.found), read.planned, tuple(map(DivergedWindow.of, read.found)))
        for read in reads
    ]
    return DivergenceRun(reference_name, tuple(found), texts.bytes, ended, error)


def _nats(window: Scores) -> tuple[int, float]:
    return len(window.log_probs), -float(window.log_probs.sum())


def _read(
    openers: Sequence[tuple[str, Callable[[], S]]],
    judge: Callable[[S, list[int]], T],
    texts: Texts,
    most_s: float | None,
    progress: Progress | None,
) -> tuple[list[_Read[T]], Ended, BaseException | None]:
    """One model after another, so that only one is held."""
    clock = Clock(most_s)
    made: list[_Read[T]] = []
    ended, caught = Ended.ALL_READ, None
    for number, (name, opener) in enumerate(openers):
        found: list[T] = []
        planned = 0
        share = clock.share(len(openers) - number)
        try:
            with opener() as scorer:
                windows = llama_windows(scorer, texts)
                planned = len(windows)
                for window in random.Random(SEED).sample(windows, planned):
                    found.append(judge(scorer, window))
                    if progress is not None:
                        progress(name, (number + len(found) / planned) / len(openers))
                    if share.is_up():
                        break
        except (KeyboardInterrupt, WeighError) as error:
            if not made and not found:
                raise
            ended = Ended.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Ended.FAILED
            caught = error
        if found:
            made.append(_Read(name, found, planned))
        if caught is not None:
            break
        if len(found) < planned:
            ended = Ended.TIME_UP
    return made, ended, caught


def names(models: Sequence[ModelSpec | Server]) -> list[str]:
    """What tells the models apart."""
    from weigh.quality.code_model import names as of_files

    files = [one for one in models if not isinstance(one, Server)]
    left = iter(of_files(files))
    return [
        " at ".join(filter(None, (one.model, one.url))) if isinstance(one, Server) else next(left)
        for one in models
    ]


def _opened(model: ModelSpec | Server, context_tokens: int, threads: int | None, limits: Limits) -> Scorer:
    if isinstance(model, Server):
        return UrlScorer(model.url, model=model.model, key_variable=model.key_variable, limits=limits)
    return open_scorer(model, context_tokens=context_tokens, limits=limits, threads=threads)


def of_file(model: ModelSpec | Server) -> ModelSpec:
    """Raises BadInput: it is a server."""
    if isinstance(model, Server):
        raise BadInput(
            f"{model.url} gives log-probabilities of a few tokens at most, and divergence needs them all",
            hint="compare the models' own files",
        )
    return model
