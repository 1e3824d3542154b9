"""`weigh quality MODEL… --repo FOLDER`: its options, and what it does with them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weigh.cli import options
from weigh.cli.bench import is_url
from weigh.cli.durations import Seconds
from weigh.cli.options import Command
from weigh.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weigh.quality.own_code import Budget

_BUDGET_S = 120.0
_SEED = 0


class BudgetType(click.ParamType["Budget"]):
    """What may be spent: a time such as `2min`, or text such as `256KiB` for each model."""

    name = "time|bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        from weigh.quality.own_code import Budget

        if isinstance(value, Budget):
            return value
        if value.lower().rstrip().endswith("b"):
            return Budget(text_bytes=options.Bytes().convert(value, param, ctx))
        return Budget(seconds=Seconds().convert(value, param, ctx))


@dataclass(frozen=True, slots=True)
class RepoAsked:
    """What the options say; None where they do not."""

    folder: Path
    budget: Budget | None
    files: int | None
    seed: int | None


_OPTIONS = {
    "budget": click.option(
        "--budget",
        type=BudgetType(),
        help="Time for all models together, or text for each, e.g. 256KiB (default: 2min).",
    ),
    "files": click.option(
        "--files", type=click.IntRange(1, 100_000), help="Hold out so many, the newest (default: 200)."
    ),
    "seed": click.option(
        "--seed", type=click.IntRange(0), help="The same seed draws the same lines (default: 0)."
    ),
}


def repo_options(command: Command) -> Command:
    """Give `command` the options of a repository; it gets them as `repo`: a `RepoAsked`, or None without `--repo`."""

    @wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        folder = given.pop("repo")
        words = {name: given.pop(name) for name in _OPTIONS}
        said = [name for name, value in words.items() if value is not None]
        if said and folder is None:
            raise click.UsageError(f"--{said[0]} is of a repository; add --repo")
        return command(*args, repo=None if folder is None else RepoAsked(folder, **words), **given)

    made: Any = gathered
    for option in reversed(list(_OPTIONS.values())):
        made = option(made)
    found: Command = click.option(
        "--repo", type=click.Path(path_type=Path), help="Folder of your code; its newest files are held out."
    )(made)
    return found


def run_repo(
    models: Sequence[str], asked: RepoAsked, *, threads: int | None = None, as_json: bool = False
) -> int:
    """Measure models on a repository and show what was found; what ended it early then goes its usual way.

    Raises:
        BadInput, EngineError: as `weigh.quality.code_model.on_repository`.
    """
    from weigh.cli.render import ProgressLine
    from weigh.engines.engine import Limits
    from weigh.machine.memory import read_memory
    from weigh.model.resolve import resolve
    from weigh.quality.code_model import on_repository
    from weigh.quality.keep import of_repository
    from weigh.quality.own_code import Budget
    from weigh.quality.repository import MOST_FILES
    from weigh.store import Store
    from weigh.store.quality_result import try_to_save

    if served := [model for model in models if is_url(model)]:
        raise BadInput(
            f"{served[0]} is a server, and a repository is measured with model files",
            hint="name the model's own file",
        )
    specs = [resolve(model) for model in models]
    with closing(ProgressLine(f"Reading {asked.folder}")) as progress:
        found = on_repository(
            specs,
            asked.folder,
            budget=asked.budget or Budget(seconds=_BUDGET_S),
            seed=_SEED if asked.seed is None else asked.seed,
            most_files=asked.files or MOST_FILES,
            threads=threads,
            limits=Limits(memory_bytes=read_memory().available_bytes),
            progress=progress,
        )
    not_kept = try_to_save(Store(), of_repository(found, specs, asked.folder))
    if as_json:
        from weigh.cli.quality_repo_document import repo_document
        from weigh.cli.render import print_json

        print_json(repo_document(found))
    else:
        from weigh.cli.screens.quality_repo import show_repo

        show_repo(found, models, asked.folder)
    if (error := not_kept or found.error) is not None:
        raise error
    return 0
