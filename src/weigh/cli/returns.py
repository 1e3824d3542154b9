"""`weigh returns`: what the next size up brings, and size against bits for the same bytes."""

from __future__ import annotations

import click

from weigh.cli import options


@click.command()
@click.option(
    "--task", default="coding", show_default=True, help="What it is for; `weigh recommend --task list`."
)
@click.option("--quant", default="Q4_K_M", show_default=True, help="Recipe in which doublings are weighed.")
@click.option(
    "--weights",
    multiple=True,
    type=options.Bytes(),
    help="Bytes of weights to spend, again for more (default: 1, 2, 4 … 64 GiB).",
)
@options.as_json
def returns(task: str, quant: str, weights: tuple[int, ...], as_json: bool) -> int:
    """What twice the parameters bring, and whether to spend bytes on a bigger model or on more bits.

    Told from published families of models: the answer is about a family, not about one model of it; `weigh
    recommend` ranks models by what is known of each.
    """
    from weigh import units
    from weigh.advise.needs import task as named
    from weigh.estimate.returns import doublings, same_bytes

    wanted = named(task)
    steps = doublings(wanted.axis, quant.upper())
    spent = {size: same_bytes(size, wanted.axis) for size in weights or [units.GIB << n for n in range(7)]}
    if as_json:
        from weigh.cli.render import print_json

        print_json(
            {
                "task": wanted.name,
                "axis": wanted.axis,
                "recipe": quant.upper(),
                "doublings": [
                    {
                        "parameters": step.parameters,
                        "weights_bytes": step.weights_bytes,
                        "gain": step.gain.to_json(),
                        "per_gib": step.per_gib.to_json(),
                        "score": step.score.to_json(),
                    }
                    for step in steps
                ],
                "same_bytes": [
                    {
                        "weights_bytes": size,
                        "ways": [
                            {
                                "recipe": way.recipe,
                                "parameters": way.parameters,
                                "loss": way.loss.to_json(),
                                "behind": way.behind.to_json(),
                                "best_chance": way.best_chance,
                                "known": way.known,
                            }
                            for way in ways
                        ],
                    }
                    for size, ways in spent.items()
                ],
            }
        )
    else:
        from weigh.cli.screens.returns import show_returns

        show_returns(wanted.name, quant.upper(), steps, spent)
    return 0
