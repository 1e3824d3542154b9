"""`weigh compare`: measurements side by side."""

from __future__ import annotations

from pathlib import Path

import click

from weigh.cli import options


@click.command()
@click.argument("asked", nargs=-1, required=True, metavar="A B...")
@click.option("--plot", type=click.Path(), help="Write the picture to a .png or .svg file, too.")
@options.as_json
def compare(asked: tuple[str, ...], plot: str | None, as_json: bool) -> int:
    """What was measured of A, B and more under equal conditions, side by side, with ratios to A.

    A and B are beginnings of ids as `weigh history` shows them, or models' names: then your newest measurement
    of it. Only what was measured is compared, the models' quality among it; estimates never are. A ratio has the
    interval that holds it in 8 of 10 cases, and is marked where it is not beyond noise. Exit code 1 when nothing can
    be compared.
    """
    from weigh.advise.compare import MOST_COMPARED, picked
    from weigh.advise.compare import compare as side_by_side
    from weigh.store import Store
    from weigh.store.quality_result import quality_results

    if not 1 < len(asked) <= MOST_COMPARED:
        raise click.UsageError(f"give two to {MOST_COMPARED} measurements")
    if plot is not None:
        from weigh.cli import picture

        picture.check(Path(plot))
    store = Store()
    chosen = {one.id: one for one in (picked(store, name) for name in asked)}
    if len(chosen) < 2:
        raise click.UsageError("these are one and the same measurement")
    results = [
        result
        for model in dict.fromkeys(one.model for one in chosen.values())
        for result in quality_results(store, model, pieces=True)
        if result.model.name == model
    ]
    found = side_by_side(list(chosen.values()), sorted(results, key=lambda one: -one.when_unix_s))
    drawn = plot is not None and bool(found.points)
    if plot is not None and drawn:
        picture.draw_front(found, Path(plot))
    if as_json:
        from weigh.cli.render import print_json
        from weigh.cli.runs_document import compared_document

        print_json(compared_document(found))
    else:
        from weigh.cli.screens.compare import show_compared

        show_compared(found, plot or "" if drawn else "")
    return 0 if found.rows or found.gaps else 1
