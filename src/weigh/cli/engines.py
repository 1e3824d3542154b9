"""`weigh engines`: what is found here, and installing or removing one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from weigh.cli import options

if TYPE_CHECKING:
    from weigh.engines.environments import Environment
    from weigh.engines.recipes import Recipe

_NO = 1
_yes = click.option("--yes", is_flag=True, help="Do not ask first.")


@click.group(invoke_without_command=True)
@options.as_json
@click.pass_context
def engines(ctx: click.Context, as_json: bool) -> int | None:
    """Every engine weigh knows: found here or not, which version, where, what it runs, how to get it.

    Nothing heavy is started for it: versions are read off installed packages, programs and servers are asked.
    """
    if ctx.invoked_subcommand is not None:
        return None
    from weigh.engines.installed import known_engines

    found = known_engines()
    if as_json:
        from weigh.cli.render import print_json

        print_json({"engines": [asdict(one) for one in found]})
    else:
        from weigh.cli.screens.engines import show_engines

        show_engines(found)
    return 0


@engines.command()
@click.argument("name")
@_yes
@options.as_json
def add(name: str, yes: bool, as_json: bool) -> int:
    """Install the engine NAME (vllm, transformers) into a virtual environment of its own.

    In the user's data folder, or where WEIGH_ENGINES says; with uv where it is on PATH, else with pip. Exit
    code 1 when the answer to the question was no.
    """
    from weigh.cli.screens.engines import say_what_it_takes, show_added
    from weigh.engines.environments import Environment
    from weigh.engines.install import room

    recipe = _recipe(name)
    environment = Environment(recipe.engine)
    was_there = environment.usable
    if not was_there and not yes:
        for line in say_what_it_takes(recipe, environment, room(recipe)):
            click.echo(line, err=True)
        if not _agreed("Install it?"):
            return _NO
    _install(recipe)
    if as_json:
        _print(environment, was_there)
    else:
        show_added(environment, was_there=was_there)
    return 0


@engines.command()
@click.argument("name")
@_yes
@options.as_json
def remove(name: str, yes: bool, as_json: bool) -> int:
    """Remove the environment that `weigh engines add NAME` made. Exit code 1 when the answer was no."""
    from weigh.cli.screens.engines import show_gone
    from weigh.engines.environments import Environment
    from weigh.engines.install import remove as take_away

    environment = Environment(_recipe(name).engine)
    if environment.folder.exists() and not yes:
        click.echo(str(environment.folder), err=True)
        if not _agreed("Remove it?"):
            return _NO
    size_bytes = take_away(environment.name)
    if as_json:
        from weigh.cli.render import print_json

        print_json({"engine": environment.name, "removed_bytes": size_bytes})
    else:
        show_gone(environment.name, size_bytes)
    return 0


def _recipe(name: str) -> Recipe:
    """Raises BadInput for what no package installs, with what does."""
    from weigh.engines.recipes import NAMES, recipe
    from weigh.errors import BadInput, UnknownName
    from weigh.machine import probe

    found = recipe(name, cuda=any("CUDA" in gpu.backends for gpu in probe().gpus))
    if found is not None:
        return found
    from weigh.engines.installed import known_engines

    known = {one.name: one for one in known_engines()}
    if name in known:
        one = known[name]
        raise BadInput(
            f"{one.what} is not installed by weigh",
            hint=f"how to get it: {one.get}" if one.get else f"it is here already: {one.where}",
        )
    from difflib import get_close_matches

    raise UnknownName("engine", name, close=get_close_matches(name, known), hint=f"one of {', '.join(NAMES)}")


def _install(recipe: Recipe) -> None:
    from weigh.cli.render import ProgressLine
    from weigh.engines.install import add as install

    line = ProgressLine(f"Installing {recipe.engine}")
    try:
        install(recipe, progress=line)
    finally:
        line.close()


def _agreed(question: str) -> bool:
    """Raises BadInput where nobody can be asked."""
    import sys

    from weigh.errors import BadInput

    if not sys.stdin.isatty():
        raise BadInput("nobody is there to be asked", hint="--yes goes ahead without")
    return click.confirm(question, err=True)


def _print(environment: Environment, was_there: bool) -> None:
    from weigh.cli.render import print_json

    receipt = environment.receipt
    assert receipt is not None
    print_json(asdict(receipt) | {"folder": str(environment.folder), "was_there": was_there})
