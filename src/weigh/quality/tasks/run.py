"""Put tasks to a model: answers are written, judged and kept one by one, in an order fair to every need.

The first sample of every task comes before the second of any, in a random order that is the same for all
models, so that what is there when a run ends early stands for the whole.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from weigh.engines.endpoint import Refused
from weigh.errors import BadInput, NoSpace, WeighError
from weigh.quality.sandbox.judged import Verdict, require_sandbox
from weigh.quality.tasks.judge import judge
from weigh.quality.tasks.passing import Outcome
from weigh.quality.tasks.task import Kind, Task
from weigh.quality.tasks.writers import Sampling, Style, Writer

Progress = Callable[[str, float], None]
LONGEST_LOOK_S = 0.2  # between two looks at Ctrl-C


class Ended(StrEnum):
    ALL_ASKED = "all asked"
    TIME_UP = "time up"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Asked:
    """How tasks are put.

    Attributes:
        samples: answers to each task.
        parallel: answers written at once.
        most_s: no answer is begun after so many seconds.
    """

    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    parallel: int = 1
    most_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, judged."""

    task: str
    sample: int
    text: str
    verdict: Verdict
    output_tokens: int | None
    cut: bool
    took_s: float

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "sample": self.sample,
            "passed": self.verdict.passed,
            "why": self.verdict.why,
            "output_tokens": self.output_tokens,
            "cut": self.cut,
            "took_s": round(self.took_s, 3),
            "text": self.text,
        }


@dataclass(slots=True)
class TaskRun:
    """What came of it. `error` is what ended it early, to be raised when this is shown.

    Attributes:
        tasks: those put to the model; a base model gets only those with a gap.
        left_out: how many it could not be asked.
        engine: what the server says of itself; "" of one that was started here.
    """

    model: str
    engine: str
    style: Style
    asked: Asked
    tasks: tuple[Task, ...]
    left_out: int
    answers: list[Answer] = field(default_factory=list)
    took_s: float = 0.0
    ended: Ended = Ended.ALL_ASKED
    error: BaseException | None = None

    def outcomes(self) -> list[Outcome]:
        """Of the tasks with an answer, in their order."""
        found = []
        for task in self.tasks:
            passed = [answer.verdict.passed for answer in self.answers if answer.task == task.id]
            if passed:
                found.append(Outcome(task.id, task.need, task.difficulty, len(passed), sum(passed)))
        return found


class Kept:
    """Answers in a file as they come, one JSON object a line; a killed run loses none."""

    def __init__(self, path: Path) -> None:
        """Raises BadInput: the file cannot be written."""
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # half a character from a server (a lone surrogate) becomes `\ud83d`, as JSON spells it
            self._file: TextIO = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise BadInput(f"{path}: answers cannot be kept there ({error.strerror})") from error

    def add(self, model: str, answer: Answer) -> None:
        """Raises NoSpace: the disk is full."""
        line = json.dumps({"model": model, **answer.to_json()}, ensure_ascii=False)
        try:
            with self._lock:
                self._file.write(line + "\n")
                self._file.flush()
        except OSError as error:
            raise NoSpace(f"{self.path}: an answer cannot be kept ({error.strerror})") from error

    def close(self) -> None:
        self._file.close()


def put(
    writer: Writer,
    tasks: Sequence[Task],
    asked: Asked,
    *,
    keep: Callable[[str, Answer], None] = lambda model, answer: None,
    progress: Progress = lambda stage, done: None,
) -> TaskRun:
    """Put `tasks` to a model and judge its answers; errors and Ctrl-C end it with what is done.

    Raises:
        NotSupported: there is no sandbox for tasks whose answers are code; nothing is asked.
        BadInput: the model cannot be asked any of the tasks, or not in the time.
        KeyboardInterrupt, WeighError: before the first answer.
    """
    if any(task.kind is Kind.CODE for task in tasks):
        require_sandbox()
    taken = tuple(task for task in tasks if writer.takes(task))
    if not taken:
        raise BadInput(
            f"{writer.model} is a base model, and none of these tasks has a gap to fill",
            hint="completion tasks have; or ask it as a chat",
        )
    run = TaskRun(writer.model, writer.engine, writer.style, asked, taken, len(tasks) - len(taken))
    began_s = time.monotonic()
    stop = threading.Event()
    pool = ThreadPoolExecutor(asked.parallel)

    def one(task: Task, sample: int) -> Answer:
        return answered(writer, task, asked.sampling, sample, stop.is_set)

    try:
        for answer in _in_turns(pool, one, order(taken, asked), asked, began_s, run):
            run.answers.append(answer)
            keep(run.model, answer)
            progress(answer.task, len(run.answers) / (len(taken) * asked.samples))
    except KeyboardInterrupt as error:
        run.ended, run.error = Ended.INTERRUPTED, error
    except WeighError as error:
        run.ended, run.error = Ended.FAILED, error
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)  # what is under way sees `stop`
    run.took_s = time.monotonic() - began_s
    if not run.answers:
        raise run.error or BadInput("the time was up before the first answer", hint="give it more")
    return run


def order(tasks: Sequence[Task], asked: Asked) -> Iterator[tuple[Task, int]]:
    """Task and sample number in the order in which they are asked."""
    shuffled = list(tasks)
    random.Random(asked.sampling.seed).shuffle(shuffled)
    return ((task, sample) for sample in range(asked.samples) for task in shuffled)


def _in_turns(
    pool: ThreadPoolExecutor,
    one: Callable[[Task, int], Answer],
    turns: Iterator[tuple[Task, int]],
    asked: Asked,
    began_s: float,
    run: TaskRun,
) -> Iterator[Answer]:
    """Answers as they are done, never more under way than may be."""
    under_way: set[Future[Answer]] = set()
    while True:
        while len(under_way) < asked.parallel and run.ended is Ended.ALL_ASKED:
            if asked.most_s is not None and time.monotonic() - began_s > asked.most_s:
                run.ended = Ended.TIME_UP
                break
            turn = next(turns, None)
            if turn is None:
                break
            under_way.add(pool.submit(one, *turn))
        if not under_way:
            return
        done, under_way = wait(under_way, LONGEST_LOOK_S, FIRST_COMPLETED)
        for future in done:
            yield future.result()


def answered(
    writer: Writer, task: Task, sampling: Sampling, sample: int, stopped: Callable[[], bool]
) -> Answer:
    """One answer, judged. A request that is too long for the model is an answer that fails.

    Raises:
        WeighError: the model or the sandbox fails.
    """
    try:
        reply = writer.write(task, sampling, sample, stopped)
    except Refused as error:
        if error.status != 400 or "context" not in error.message.lower():
            raise
        return Answer(task.id, sample, "", Verdict(False, error.message[:200]), None, True, 0.0)
    verdict = judge(task, reply.text, completes=writer.style is Style.COMPLETION, stopped=stopped)
    if reply.cut and not verdict.passed:
        verdict = Verdict(False, f"cut after {sampling.most_tokens} tokens; {verdict.why}")
    return Answer(task.id, sample, reply.text, verdict, reply.output_tokens, reply.cut, reply.took_s)
