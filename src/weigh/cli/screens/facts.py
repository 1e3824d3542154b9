"""Words on the left, what they say on the right: how most answers are laid out."""

from __future__ import annotations

from weigh.cli.render import Grid, show


def facts(rows: list[tuple[str, str]]) -> None:
    """Words on the left, what they say on the right, wrapped under itself."""
    grid = Grid(("", "said"), prose=("said",), head=False)
    for row in rows:
        grid.add(*row)
    show(grid)
