"""A model's card in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weigh.cli.card_layout import headline, parts
from weigh.cli.render import Bold, screen_width, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weigh.advise.card import Card


def show_cards(cards: Sequence[Card]) -> None:
    for number, card in enumerate(cards):
        show("\n\n" if number else "", Bold(headline(card)))
        for part in parts(card, screen_width()):
            show("\n" if part.title else "", Bold(part.title))
            show(part.grid)
