"""`weigh quality MODEL|URL… --tasks [NEED,…]`: its options, and what it does with them."""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weigh.cli.bench import is_url
from weigh.cli.options import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weigh.engines.engine import Limits
    from weigh.errors import NotKept
    from weigh.model.spec import ModelSpec
    from weigh.quality.tasks.run import Asked, TaskRun
    from weigh.quality.tasks.task import Task
    from weigh.quality.tasks.writers import Style, Writer

_EVERY = "all"
_SAMPLED = 0.8  # temperature where several answers are wanted; as Chen et al. 2021 for large k
_SHARED = ("max_time", "memory_limit", "served_model", "key_env", "seed")  # with other ways of asking


@dataclass(frozen=True, slots=True)
class TasksAsked:
    """What the options say; None where they do not."""

    wanted: str
    samples: int | None
    temperature: float | None
    max_tokens: int | None
    style: str | None
    parallel: int | None
    tasks_from: Path | None
    answers: Path | None
    max_time: float | None
    memory_limit: int | None
    served_model: str | None
    key_env: str | None
    seed: int | None


_OPTIONS = {
    "samples": click.option(
        "--samples", type=click.IntRange(1, 1000), help="Answers to each task, for pass@k (default: 1)."
    ),
    "temperature": click.option(
        "--temperature",
        type=click.FloatRange(0, 2),
        help="Of sampling (default: 0, with several samples 0.8).",
    ),
    "max_tokens": click.option(
        "--max-tokens", type=click.IntRange(16, 1 << 20), help="Longest answer, in tokens (default: 1024)."
    ),
    "style": click.option(
        "--style",
        type=click.Choice(["chat", "completion"]),
        help="Ask as a chat, or a base model to go on (default: by the file's chat template).",
    ),
    "parallel": click.option(
        "--parallel", type=click.IntRange(1, 256), help="Answers written at once (default: 1)."
    ),
    "tasks_from": click.option(
        "--tasks-from", type=click.Path(path_type=Path), help="Folder of your own tasks, as NEED/NAME.toml."
    ),
    "answers": click.option(
        "--answers", type=click.Path(path_type=Path), help="File for the answers (default: beside the store)."
    ),
}


def tasks_options(command: Command) -> Command:
    """Give `command` the options of tasks; it gets them as `tasks`: a `TasksAsked`, or None without `--tasks`.

    Options that it shares with other ways of asking are taken from those where tasks are meant, so this has to
    be the outermost of them.
    """

    @wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        wanted = given.pop("tasks")
        words = {name: given.pop(name) for name in _OPTIONS}
        said = [name for name, value in words.items() if value is not None]
        if wanted is None:
            if said:
                raise click.UsageError(f"--{said[0].replace('_', '-')} is of tasks; add --tasks")
            return command(*args, tasks=None, **given)
        shared = {name: given.get(name) for name in _SHARED}
        given |= dict.fromkeys(shared)
        return command(*args, tasks=TasksAsked(wanted, **words, **shared), **given)

    made: Any = gathered
    for option in reversed(list(_OPTIONS.values())):
        made = option(made)
    found: Command = click.option(
        "--tasks",
        is_flag=False,
        flag_value=_EVERY,
        metavar="[NEED,...]",
        help="Tasks to be solved: all, or some needs or tasks by name.",
    )(made)
    return found


def run_tasks(
    models: Sequence[str], asked: TasksAsked, *, threads: int | None = None, as_json: bool = False
) -> int:
    """Put tasks to models and show how they did; what ended it early then goes its usual way.

    Raises:
        BadInput, EngineError: as `weigh.quality.tasks.run.put`.
    """
    from weigh.cli.render import ProgressLine, print_json
    from weigh.engines.engine import Limits
    from weigh.errors import WeighError
    from weigh.machine.memory import read_memory
    from weigh.model.resolve import resolve
    from weigh.quality.keep import of_tasks
    from weigh.quality.tasks.run import Kept, put
    from weigh.quality.tasks.task import DATA, load_tasks
    from weigh.store import Store
    from weigh.store.quality_result import try_to_save

    names = () if asked.wanted == _EVERY else [name.strip() for name in asked.wanted.split(",")]
    tasks = load_tasks(asked.tasks_from or DATA, names)
    how = _how(asked)
    limits = Limits(memory_bytes=asked.memory_limit or read_memory().available_bytes)
    kept = Kept(asked.answers or _answers_file(models))
    runs: list[TaskRun] = []
    error: BaseException | None = None
    not_kept: NotKept | None = None
    with closing(kept):
        for model in models:
            try:
                spec = None if is_url(model) else resolve(model)
                with (
                    _opened(spec or model, asked, how, tasks, limits, threads) as writer,
                    closing(ProgressLine(f"{len(tasks):,} tasks for {writer.model}")) as progress,
                ):
                    run = put(writer, tasks, how, keep=kept.add, progress=progress)
                    runs.append(run)
                    not_kept = try_to_save(Store(), [of_tasks(run, spec, asked.tasks_from)]) or not_kept
                error = run.error
            except (WeighError, KeyboardInterrupt) as ended:  # the models before it are shown all the same
                error = ended
            if error is not None:
                break
    if not runs:
        assert error is not None
        raise error
    if as_json:
        from weigh.cli.quality_tasks_document import tasks_document

        print_json(tasks_document(runs, kept.path))
    else:
        from weigh.cli.screens.quality_tasks import show_tasks

        show_tasks(runs, kept.path)
    if (error := not_kept or error) is not None:
        raise error
    return 0


def _how(asked: TasksAsked) -> Asked:
    from weigh.quality.tasks.run import Asked
    from weigh.quality.tasks.writers import Sampling

    samples = asked.samples or 1
    usual = _SAMPLED if samples > 1 else 0.0
    sampling = Sampling(
        usual if asked.temperature is None else asked.temperature,
        asked.max_tokens or Sampling().most_tokens,
        asked.seed or 0,
    )
    return Asked(samples, sampling, asked.parallel or 1, asked.max_time)


def _opened(
    model: ModelSpec | str,
    asked: TasksAsked,
    how: Asked,
    tasks: Sequence[Task],
    limits: Limits,
    threads: int | None,
) -> AbstractContextManager[Writer]:
    """A model's own file, or a server by its URL."""
    from weigh.quality.tasks.writers import Style, from_file, from_url

    style: Style | None = Style(asked.style) if asked.style else None
    if isinstance(model, str):
        return from_url(
            model, model=asked.served_model, key_variable=asked.key_env, style=style, limits=limits
        )
    return from_file(
        model,
        tasks,
        how.sampling,
        style=style,
        parallel=how.parallel,
        threads=threads,
        limits=limits,
    )


def _answers_file(models: Sequence[str]) -> Path:
    from weigh.store.store import default_path

    named = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(models[0]).name).strip("-.")[:60] or "model"
    return default_path().parent / "answers" / f"{time.strftime('%Y%m%d-%H%M%S')}-{named}.jsonl"
