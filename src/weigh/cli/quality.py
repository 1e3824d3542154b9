"""`weigh quality`: how good models are, on text, on a repository. Each way of asking is a module with its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weigh.cli import options
from weigh.cli.quality_card import card_options, run_cards
from weigh.cli.quality_repo import repo_options, run_repo
from weigh.cli.quality_tasks import run_tasks, tasks_options
from weigh.cli.quality_text import run_text, text_options

if TYPE_CHECKING:
    from weigh.cli.quality_card import CardAsked
    from weigh.cli.quality_repo import RepoAsked
    from weigh.cli.quality_tasks import TasksAsked
    from weigh.cli.quality_text import TextAsked


@click.command()
@click.argument("models", nargs=-1, metavar="MODEL...")
@card_options
@tasks_options
@text_options
@repo_options
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads (default: all cores).")
@options.as_json
def quality(
    models: tuple[str, ...],
    text: TextAsked | None,
    repo: RepoAsked | None,
    tasks: TasksAsked | None,
    card: CardAsked | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """How good each MODEL is, measured: a GGUF file, a safetensors folder, or (on text and tasks) a server's URL.

    With --text: bits per byte, which compares across tokenizers, and whether one model is better than another. With
    --text and --against: how far each model lies from its reference. With --repo: on the code of a repository. With
    --tasks: tasks to be solved, whose code is run in a sandbox. Ctrl-C keeps what was measured.

    With --card nothing is measured: all that is known of each model on a page, what it is good and bad for with the
    evidence, and what was measured of it before. MODEL may then be a name of the catalog, too.
    """
    if not models:  # or --card and --tasks, whose values may be left out, took it for theirs
        raise click.UsageError("name a MODEL, before any --card or --tasks")
    if sum(way is not None for way in (text, repo, tasks, card)) != 1:
        raise click.UsageError(
            "say what to measure on: --text FILE|FOLDER, --repo FOLDER, or --tasks [NEED,...]; or --card alone"
        )
    if card is not None:
        if threads is not None:
            raise click.UsageError("--threads is of what is measured, and a card measures nothing")
        return run_cards(models, card, as_json=as_json)
    if tasks is not None:
        return run_tasks(models, tasks, threads=threads, as_json=as_json)
    if repo is not None:
        return run_repo(models, repo, threads=threads, as_json=as_json)
    assert text is not None
    return run_text(models, text, threads=threads, as_json=as_json)
