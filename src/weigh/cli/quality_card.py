"""`weigh quality MODEL|URL… --card [FILE]`: its options, and what it does with them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weigh.cli import options
from weigh.cli.options import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weigh.advise.card import Card
    from weigh.estimate.site import Site

_SCREEN = "-"
_SHARED = ("served_model", "key_env")  # with other ways of asking


@dataclass(frozen=True, slots=True)
class CardAsked:
    """What the options say; `file` None prints the card, `devices` () is this machine."""

    file: Path | None
    context: int | None
    devices: tuple[Site, ...]
    calibrate: bool
    served_model: str | None
    key_env: str | None


def card_options(command: Command) -> Command:
    """Give `command` the options of cards; it gets them as `card`: a `CardAsked`, or None without `--card`.

    Options that it shares with other ways of asking are taken from those where a card is meant, so this has to
    be the outermost of them.
    """

    @wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        wanted, context = given.pop("card"), given.pop("context")
        asked, no_calibrate = given.pop("asked"), given.pop("no_calibrate")
        if wanted is None:
            said = {"context": context, "on": asked, "no-calibrate": no_calibrate}
            if named := next((name for name, value in said.items() if value), None):
                raise click.UsageError(f"--{named} is of a card; add --card")
            return command(*args, card=None, **given)
        shared = {name: given.get(name) for name in _SHARED}
        given |= dict.fromkeys(shared)
        file = None if wanted == _SCREEN else Path(wanted)
        return command(*args, card=CardAsked(file, context, asked, not no_calibrate, **shared), **given)

    made: Any = gathered
    for option in (
        options.no_calibrate,
        options.device,
        click.option(
            "--context", type=options.Tokens(), help="Of a card: tokens that sizes are for (default: 4096)."
        ),
        click.option(
            "--card",
            is_flag=False,
            flag_value=_SCREEN,
            metavar="[FILE]",
            help="A page on each model: print it, or write FILE.md or FILE.html.",
        ),
    ):
        made = option(made)
    found: Command = made
    return found


def run_cards(models: Sequence[str], asked: CardAsked, *, as_json: bool = False) -> int:
    """Make a card of each model, and print or write them.

    Raises:
        BadInput: the file's name is of no kind that is written, or it cannot be; as `resolve` and servers.
    """
    from weigh.cli.card_file import as_file
    from weigh.cli.render import Bold, print_json, show
    from weigh.cli.whole_file import write_whole

    writes = as_file(asked.file) if asked.file is not None else None
    cards = _cards(models, asked)
    if asked.file is not None and writes is not None:
        write_whole(asked.file, writes(cards))
    if as_json:
        from weigh.cli.card_document import cards_document

        print_json(cards_document(cards, asked.file))
    elif asked.file is not None:
        show(Bold(f"{len(cards)} card{'s' if len(cards) > 1 else ''}"), f" written to {asked.file}")
    else:
        from weigh.cli.screens.card import show_cards

        show_cards(cards)
    return 0


def _cards(models: Sequence[str], asked: CardAsked) -> list[Card]:
    from weigh.advise.card import card, served_card
    from weigh.cli.answering import site_asked_for, this_machine
    from weigh.cli.bench import is_url
    from weigh.engines import served_model
    from weigh.model.resolve import resolve
    from weigh.store import Store

    store, made = Store(), []
    specs = {model: resolve(model) for model in models if not is_url(model)}  # before anything takes long
    with ExitStack() as held:
        if specs:
            site = held.enter_context(site_asked_for(asked.devices, calibrate=asked.calibrate))
        for model in models:
            if model in specs:
                made.append(card(model, specs[model], site, store, context_tokens=asked.context))
                continue
            here = held.enter_context(this_machine(calibrate=False))
            with served_model(model, model=asked.served_model, key_variable=asked.key_env) as served:
                made.append(served_card(served, model, store, here))
    return made
