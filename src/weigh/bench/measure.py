"""Run what is to be measured, turn by turn, and keep every event as it came.

Loading comes first: starts with the file's pages dropped and starts with them in memory, in turns. Then prefill and
decode run apart, as llama-bench does (pp, tg), all conditions of a depth one after another and the order turned round
from one round to the next, so that a machine that drifts drifts for all of them alike. Rounds go on until each
condition is known well enough or the time is over; the next depth follows, since changing it costs a prefill of all of
it. Nothing is worked out here: see `figures`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from weigh.bench.conditions import During, Instruments, Observed
from weigh.bench.turns import Progress
from weigh.engines.engine import AnswersWhole, Generation, ProcessMemory
from weigh.errors import WeighError
from weigh.machine import page_cache

LEAST_TURNS = 4  # three give no 80 % interval of a median
MOST_TURNS = 500
LOADING_SHARE = 0.35  # of the time, at most, goes into starts beyond the first two


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What one turn runs: `parallel` requests at once, each with so much in the cache before it.

    Attributes:
        prompt_tokens: of a prefill, which ends with its first token; 0 for a decode, which begins with one.
        output_tokens: 1 for a prefill.
    """

    prompt_tokens: int
    output_tokens: int
    depth_tokens: int
    parallel: int

    @property
    def is_prefill(self) -> bool:
        return self.prompt_tokens > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be measured, and how well.

    Attributes:
        precision: half the 80 % interval of a median over it; a condition that is known so well is left.
        most_s: no turn is begun after so many seconds, but each condition is run once.
        starts: of each kind, cold and cached; with 0 the model is started once, as it has to be.
    """

    prompts: tuple[int, ...] = (512,)
    output_tokens: int = 128
    depths: tuple[int, ...] = (0,)
    parallel: tuple[int, ...] = (1,)
    precision: float = 0.02
    most_s: float = 120.0
    starts: int = 3

    def conditions(self, parallel: int, depth: int) -> list[Condition]:
        """The decode first: of prefills after it the processors are awake."""
        decode = Condition(
            prompt_tokens=0, output_tokens=self.output_tokens, depth_tokens=depth, parallel=parallel
        )
        prefills = [
            Condition(prompt_tokens=prompt, output_tokens=1, depth_tokens=depth, parallel=parallel)
            for prompt in self.prompts
        ]
        return [decode, *prefills] if self.output_tokens > 1 else prefills


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the engine on the model: seconds until it answered, and its memory then.

    Attributes:
        cold: the file's pages had left the page cache before; else they were in memory.
        cached_bytes: of the file, in the page cache afterwards; None where that cannot be told.
    """

    cold: bool
    load_s: float
    memory: ProcessMemory
    cached_bytes: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """`sent_s` counts from the turn's beginning."""

    sent_s: float
    made: Generation


@dataclass(frozen=True, slots=True)
class Turn:
    """`began_s` counts from the beginning of the measurement; `memory` is the engine's at the turn's end."""

    condition: Condition
    began_s: float
    requests: tuple[Request, ...]
    during: During
    memory: ProcessMemory | None


@dataclass
class Seen:
    """Everything that happened, in order.

    Attributes:
        ended: what ended it early, Ctrl-C or the engine's error; None when all was done.
        cold_unknown: pages of the file did not leave the page cache, or nobody can tell.
    """

    starts: list[Start] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    peaks: dict[int, ProcessMemory] = field(default_factory=dict)  # by sequences at once
    seed: int = field(default_factory=lambda: int.from_bytes(os.urandom(4), "big"))
    command: tuple[str, ...] = ()
    cold_unknown: bool = False
    ended: BaseException | None = None

    def of(self, condition: Condition) -> list[Turn]:
        return [turn for turn in self.turns if turn.condition == condition]

    def __bool__(self) -> bool:
        return bool(self.starts or self.turns)


class Loaded(Protocol):
    """What a `Session` and a `ServedModel` have in common."""

    @property
    def load_s(self) -> float | None: ...

    @property
    def command(self) -> tuple[str, ...]: ...

    def generate(self, prompt: Any, output_tokens: int, *, reuse_cache: bool = False) -> Generation: ...

    def memory(self) -> ProcessMemory | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Source:
    """What is measured.

    Attributes:
        start: gives a model that holds so many sequences at once.
        prompt: of so many tokens, by a seed: token ids, or text for servers that take nothing else.
        files: what is read when it loads; () when it is loaded already, or loads nothing.
        engine_pid: of a server that was there before; None when the engine is this process's child.
    """

    start: Callable[[int], Loaded]
    prompt: Callable[[int, int], list[int] | str]
    files: tuple[Path, ...] = ()
    engine_pid: int | None = None


def measure(
    source: Source,
    asked: Asked,
    settled: Callable[[Sequence[Turn]], bool],
    progress: Progress = lambda stage, done: None,
) -> Seen:
    """Run it. What ends it early is kept in what was seen, unless nothing was seen by then.

    Args:
        settled: whether the turns of one condition tell its figures well enough.

    Raises:
        WeighError, KeyboardInterrupt: it ended before anything was measured.
    """
    return _Run(source, asked, settled, progress).run()


class _Run:
    def __init__(
        self, source: Source, asked: Asked, settled: Callable[[Sequence[Turn]], bool], progress: Progress
    ) -> None:
        self._source, self._asked, self._settled, self._progress = source, asked, settled, progress
        self._seen = Seen()
        self._began_s = time.monotonic()
        self._instruments = Instruments()
        self._prompts = 0

    def run(self) -> Seen:
        try:
            for number, parallel in enumerate(self._asked.parallel):
                with ExitStack() as stack:
                    session = self._loaded(stack, parallel, first=number == 0)
                    self._seen.command = self._seen.command or session.command
                    try:
                        self._depths(session, parallel, number)
                    finally:
                        self._remember_peak(parallel, session)
        except (WeighError, KeyboardInterrupt) as error:
            if not self._seen:
                raise
            self._seen.ended = error
        return self._seen

    @property
    def _took_s(self) -> float:
        return time.monotonic() - self._began_s

    def _tell(self, stage: str) -> None:
        self._progress(stage, min(1.0, self._took_s / self._asked.most_s))

    # --- loading -----------------------------------------------------------------------------------

    def _loaded(self, stack: ExitStack, parallel: int, *, first: bool) -> Loaded:
        """The session that is measured further: the last of the starts."""
        kinds = list(self._kinds_of_start()) if first else [False]
        for number, cold in enumerate(kinds):
            enough = number > 1 and self._took_s > LOADING_SHARE * self._asked.most_s
            last = number == len(kinds) - 1 or (enough and not cold)
            if enough and cold:
                continue
            session = self._start(parallel, cold)
            if last:
                stack.callback(session.close)
                return session
            session.close()
        raise AssertionError("there is a last start")

    def _kinds_of_start(self) -> Iterator[bool]:
        """Cold and cached in turns; the last one cached."""
        for _ in range(self._asked.starts if self._source.files else 0):
            yield True
            yield False
        if not (self._asked.starts and self._source.files):
            yield False

    def _start(self, parallel: int, cold: bool) -> Loaded:
        self._tell("loading, nothing cached" if cold else "loading")
        files = self._source.files
        if cold and not page_cache.make_cold(files):
            self._seen.cold_unknown = True
            cold = False
        elif not cold and files:
            with suppress(OSError):  # the engine says what is wrong with a file that cannot be read
                page_cache.read_through(files)
        session = self._source.start(parallel)
        try:
            memory = session.memory()
            if files and session.load_s is not None and memory is not None:
                cached = page_cache.cached_bytes(files)
                self._seen.starts.append(Start(cold, session.load_s, memory, cached))
        except BaseException:
            session.close()
            raise
        return session

    def _remember_peak(self, parallel: int, session: Loaded) -> None:
        memory = session.memory()
        if memory is not None and any(turn.condition.parallel == parallel for turn in self._seen.turns):
            self._seen.peaks[parallel] = memory

    # --- turns -------------------------------------------------------------------------------------

    def _depths(self, session: Loaded, parallel: int, number: int) -> None:
        """Each depth has its share of the time that is left for these sequences."""
        end_s = self._asked.most_s * (number + 1) / len(self._asked.parallel)
        for place, depth in enumerate(self._asked.depths):
            until_s = self._took_s + (end_s - self._took_s) / (len(self._asked.depths) - place)
            if depth:  # each sequence's cache is filled before anything is timed
                self._tell(f"filling the cache with {depth:,} tokens")
                _together(session, [self._past(depth)] * parallel, 1, reuse=True)
            self._rounds(session, self._asked.conditions(parallel, depth), until_s)

    def _rounds(self, session: Loaded, conditions: list[Condition], until_s: float) -> None:
        left = list(conditions)
        for number in range(MOST_TURNS):
            for condition in left if number % 2 == 0 else left[::-1]:
                if number and self._took_s > until_s:
                    return
                self._tell(_stage(condition))
                self._seen.turns.append(self._turn(session, condition))
            left = [condition for condition in left if not self._enough(condition)]
            if not left:
                return

    def _enough(self, condition: Condition) -> bool:
        turns = self._seen.of(condition)
        return len(turns) >= LEAST_TURNS and self._settled(turns)

    def _turn(self, session: Loaded, condition: Condition) -> Turn:
        past = self._past(condition.depth_tokens)
        prompts = [_after(past, self._fresh(condition.prompt_tokens or 1)) for _ in range(condition.parallel)]
        began_s = self._took_s
        with Observed(self._instruments, self._source.engine_pid) as observed:
            if isinstance(session, AnswersWhole) and self._whole(condition):
                made = session.answer(prompts[0], condition.output_tokens, reuse_cache=bool(past))
                requests: tuple[Request, ...] = (Request(0.0, made),)
            else:
                requests = _together(session, prompts, condition.output_tokens, reuse=bool(past))
        return Turn(condition, began_s, requests, observed.during, session.memory())

    def _whole(self, condition: Condition) -> bool:
        """Every second decode: the engine's own speed is told from these, and latencies from the streamed ones."""
        return not condition.is_prefill and condition.parallel == 1 and len(self._seen.of(condition)) % 2 == 1

    def _past(self, depth_tokens: int) -> list[int] | str:
        """The same for all conditions of a depth, so that it is found in the cache."""
        return self._source.prompt(depth_tokens, self._seen.seed) if depth_tokens else []

    def _fresh(self, tokens: int) -> list[int] | str:
        """A prompt nobody has sent before, so that no cache holds it."""
        self._prompts += 1
        return self._source.prompt(tokens, self._seen.seed + self._prompts)


def _stage(condition: Condition) -> str:
    depth = f" at depth {condition.depth_tokens:,}" if condition.depth_tokens else ""
    several = f", {condition.parallel} at once" if condition.parallel > 1 else ""
    if condition.is_prefill:
        return f"prefill of {condition.prompt_tokens:,} tokens{depth}{several}"
    return f"decode of {condition.output_tokens:,} tokens{depth}{several}"


def _after(past: list[int] | str, prompt: list[int] | str) -> list[int] | str:
    if isinstance(past, str) or isinstance(prompt, str):
        return f"{past} {prompt}" if past else prompt
    return [*past, *prompt]


def _together(
    session: Loaded, prompts: Sequence[list[int] | str], output_tokens: int, *, reuse: bool
) -> tuple[Request, ...]:
    """All prompts at once, each in a thread of its own unless there is one only.

    Raises:
        WeighError: of the request that failed first.
    """
    began_s = time.perf_counter()
    found: dict[int, Request] = {}
    failed: list[BaseException] = []

    def one(place: int) -> None:
        try:
            sent_s = time.perf_counter() - began_s
            made = session.generate(prompts[place], output_tokens, reuse_cache=reuse)
            found[place] = Request(sent_s, made)
        except BaseException as error:  # raised again below, in the caller's thread
            failed.append(error)

    if len(prompts) == 1:
        made = session.generate(prompts[0], output_tokens, reuse_cache=reuse)
        return (Request(0.0, made),)
    threads = [Thread(target=one, args=(place,), daemon=True) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return tuple(found[place] for place in sorted(found))


def raw(seen: Seen) -> dict[str, Any]:
    """Every event as plain JSON, times in seconds to the microsecond."""
    return {
        "seed": seen.seed,
        "starts": [
            {
                "cold": start.cold,
                "load_s": start.load_s,
                "memory": _memory(start.memory),
                "cached_bytes": start.cached_bytes,
            }
            for start in seen.starts
        ],
        "turns": [_turn_json(turn) for turn in seen.turns],
        "peaks": {str(parallel): _memory(memory) for parallel, memory in seen.peaks.items()},
    }


def _turn_json(turn: Turn) -> dict[str, Any]:
    condition = turn.condition
    return {
        "prompt_tokens": condition.prompt_tokens,
        "output_tokens": condition.output_tokens,
        "depth_tokens": condition.depth_tokens,
        "parallel": condition.parallel,
        "began_s": round(turn.began_s, 6),
        "requests": [
            {
                "sent_s": round(request.sent_s, 6),
                "prompt_tokens": request.made.prompt_tokens,
                "cached_tokens": request.made.cached_tokens,
                "prefill_s": request.made.prefill_s,
                "decode_s": request.made.decode_s,
                "token_times_s": [round(at, 6) for at in request.made.token_times_s],
                "step_times_s": [round(step, 6) for step in request.made.step_times_s],
            }
            for request in turn.requests
        ],
        "during": turn.during.to_json(),
        "memory": turn.memory and _memory(turn.memory),
    }


def _memory(memory: ProcessMemory) -> dict[str, int]:
    return {
        "private_bytes": memory.private_bytes,
        "file_bytes": memory.file_bytes,
        "peak_private_bytes": memory.peak_private_bytes,
        "peak_bytes": memory.peak_bytes,
    }
