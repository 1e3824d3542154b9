"""Cards as files: Markdown to read and keep beside a model, HTML that needs nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.cli import html
from weigh.cli.card_layout import headline, parts
from weigh.errors import BadInput

if TYPE_CHECKING:
    from weigh.advise.card import Card
    from weigh.cli.render import Grid

# What Markdown, or HTML within it, would take for markup; a name may hold any of it.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$!@]|:(?=//)|(?<=www)\.)")


def as_file(path: Path) -> Callable[[Sequence[Card]], str]:
    """What writes cards in the kind that a file's name says.

    Raises:
        BadInput: it says no kind, or another.
    """
    found = {".md": markdown, ".html": page, ".htm": page}.get(path.suffix.lower())
    if found is None:
        raise BadInput(
            f"{path}: cards are written as .md or .html",
            hint="models come before `--card`, and the file's name ends in one of these",
        )
    return found


def markdown(cards: Sequence[Card]) -> str:
    """One chapter for each."""
    return "\n\n".join("\n\n".join(_markdown(card)) for card in cards) + "\n"


def page(cards: Sequence[Card]) -> str:
    """One section for each, in a page of HTML that needs nothing else."""
    names = ", ".join(headline(card) for card in cards)
    return html.document(f"weigh: {names}", (_section(card) for card in cards))


def _markdown(card: Card) -> Iterator[str]:
    yield f"# {_plain(headline(card))}"
    yield _written()
    for part in parts(card):
        if part.title:
            yield f"## {_plain(part.title)}"
        yield _markdown_table(part.grid)
        if part.grid.note:
            yield _plain(part.grid.note)


def _markdown_table(grid: Grid) -> str:
    if not grid.head:
        return "\n".join(f"- **{_plain(name)}**: {_plain(said)}" for name, said in grid.rows)
    rule = ("---:" if name in grid.right else "---" for name in grid.columns)
    lines = [" | ".join(map(_plain, grid.columns)), " | ".join(rule)]
    for number, row in enumerate(grid.rows):
        cells = map(_plain, row)
        lines.append(" | ".join(f"**{c}**" if c and number in grid.strong else c for c in cells))
    return "\n".join(f"| {line} |" for line in lines)


def _plain(words: str) -> str:
    return " ".join(_MARKUP.sub(r"\\\1", words).split())


def _section(card: Card) -> str:
    made = [f"<section>\n<h1>{html.text(headline(card))}</h1>", f'<p class="faint">{_written()}</p>']
    for part in parts(card):
        if part.title:
            made.append(f"<h2>{html.text(part.title)}</h2>")
        made.append(_html_table(part.grid))
        if part.grid.note:
            made.append(f'<p class="faint">{html.text(part.grid.note)}</p>')
    return "\n".join([*made, "</section>"])


def _html_table(grid: Grid) -> str:
    if not grid.head:
        return html.facts((name, html.text(said)) for name, said in grid.rows)
    rows = [
        [f"<strong>{html.text(cell)}</strong>" if number in grid.strong else html.text(cell) for cell in row]
        for number, row in enumerate(grid.rows)
    ]
    numbers = [place for place, name in enumerate(grid.columns) if name in grid.right]
    return html.table("", grid.columns, rows, numbers)


def _written() -> str:
    return f"Written by weigh on {datetime.fromtimestamp(time.time(), UTC):%Y-%m-%d}."
