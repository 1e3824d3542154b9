"""The engines found here, and what an installation takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, show
from weigh.cli.screens.facts import facts

if TYPE_CHECKING:
    from weigh.engines.environments import Environment
    from weigh.engines.install import Room
    from weigh.engines.installed import Known
    from weigh.engines.recipes import Recipe


def show_engines(found: Sequence[Known]) -> None:
    show(Bold("Found here"), "\n")
    facts([row for one in found if one.found for row in _here(one)])
    show()
    show(Bold("To be had"), "\n")
    facts([row for one in found if not one.found for row in _to_be_had(one)])


def _here(one: Known) -> list[tuple[str, str]]:
    return [
        (one.name, f"{one.version or 'of unknown version'}; takes {one.takes}"),
        ("", f"measured with it: {', '.join(one.measures)}"),
        ("", one.where),
    ]


def _to_be_had(one: Known) -> list[tuple[str, str]]:
    now = [("", f"now: {one.problem}")] if one.problem else []
    return [(one.name, f"{one.what}; takes {one.takes}"), ("", one.get), *now]


def say_what_it_takes(recipe: Recipe, environment: Environment, room: Room) -> list[str]:
    """What one is asked to agree to."""
    return [
        f"{recipe.title}: {', '.join(recipe.asked_for)}, with what they need",
        f"into {environment.folder}, an environment of its own",
        f"about {units.gib(recipe.download_bytes)} to download, {units.gib(recipe.disk_bytes)} on the disk;"
        f" {units.gib(room.free_bytes)} are free",
    ]


def show_added(environment: Environment, *, was_there: bool) -> None:
    receipt = environment.receipt
    assert receipt is not None
    took = "was there already" if was_there else f"installed in {units.seconds(receipt.took_s)}"
    facts(
        [
            (environment.name, took),
            ("Size", units.gib(receipt.size_bytes)),
            ("Where", str(environment.folder)),
            ("Try it", f"weigh try qwen2.5-0.5b --engine {environment.name}"),
        ]
    )


def show_gone(name: str, size_bytes: int) -> None:
    show(
        f"{name} is removed: {units.gib(size_bytes)} are free again"
        if size_bytes
        else f"{name} was not there"
    )
