"""`weigh shrink distill`: a smaller model that learns from a larger one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import click

from weigh.cli import options
from weigh.shrink.recipe import Recipe, Shape

_Command = TypeVar("_Command", bound=Callable[..., Any])
_COUNT = click.IntRange(min=1)


def _setting(name: str, kind: click.ParamType[Any], field: str, said: str) -> Callable[[_Command], _Command]:
    """An option for a field of the recipe, with what it is by default."""
    return click.option(name, type=kind, default=getattr(Recipe(), field), show_default=True, help=said)


@click.command()
@click.argument("teacher")
@click.option(
    "--text",
    required=True,
    type=click.Path(path_type=Path),
    help="File or folder of text to train on; one file in eight is held out and measured on.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder that the students are written to."
)
@click.option("--layers", type=_COUNT, help="Layers of the student (default: half, when no size is said).")
@click.option("--hidden", type=_COUNT, help="Width of its hidden state (default: as the teacher).")
@click.option(
    "--feed-forward", type=_COUNT, help="Width of its feed-forward parts (default: as the teacher)."
)
@click.option("--kv-heads", type=_COUNT, help="Its heads of keys and values (default: as the teacher).")
@click.option("--random", is_flag=True, help="Begin with random weights, not with the teacher's.")
@_setting("--steps", _COUNT, "steps", "Steps of training.")
@_setting("--windows", _COUNT, "windows", "Windows of text in a step.")
@_setting("--window-tokens", _COUNT, "window_tokens", "Their length.")
@click.option("--learning-rate", type=float, help="At its highest (default: 0.5 divided by the width).")
@_setting("--share", click.FLOAT, "share", "Of the loss, the teacher's; the text has the rest.")
@_setting("--temperature", click.FLOAT, "temperature", "Softens what teacher and student foretell.")
@_setting("--hidden-share", click.FLOAT, "hidden", "Weight of the distance of hidden states.")
@_setting("--seed", click.IntRange(0, 1 << 31), "seed", "Of random weights and the order of the text.")
@click.option("--not-alone", is_flag=True, help="Leave out the same student trained without the teacher.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads that train (default: all cores).")
@options.as_json
def distill(
    teacher: str,
    text: Path,
    out: Path,
    layers: int | None,
    hidden: int | None,
    feed_forward: int | None,
    kv_heads: int | None,
    random: bool,
    steps: int,
    windows: int,
    window_tokens: int,
    learning_rate: float | None,
    share: float,
    temperature: float,
    hidden_share: float,
    seed: int,
    not_alone: bool,
    threads: int | None,
    as_json: bool,
) -> int:
    """Train a smaller model to foretell what TEACHER foretells, a folder of safetensors files.

    The student begins with those of the teacher's layers, channels and heads that matter most: this is pruning, and
    distillation heals it. Beside it the same student is trained without the teacher, and all are measured on text
    that was held out. Ctrl-C keeps what was trained, and the same command goes on from there.
    """
    from weigh.cli.render import ProgressLine
    from weigh.model.resolve import resolve
    from weigh.quality.text import read_texts
    from weigh.shrink.taught import ARMS, teach

    recipe = Recipe(
        shape=Shape(layers=layers, hidden=hidden, feed_forward=feed_forward, kv_heads=kv_heads),
        from_teacher=not random,
        steps=steps,
        windows=windows,
        window_tokens=window_tokens,
        learning_rate=learning_rate,
        share=share,
        temperature=temperature,
        hidden=hidden_share,
        seed=seed,
    )
    spec = resolve(teacher)
    with closing(ProgressLine(f"Teaching by {spec.name}")) as progress:
        try:
            found = teach(
                spec,
                read_texts(text),
                out,
                recipe,
                arms=ARMS[:1] if not_alone else ARMS,
                threads=threads,
                progress=progress,
            )
        except KeyboardInterrupt:
            progress.close()
            click.echo(f"what was trained is kept in {out}; the same command goes on from there", err=True)
            raise
    if as_json:
        from weigh.cli.distill_document import distill_document
        from weigh.cli.render import print_json

        print_json(distill_document(found))
    else:
        from weigh.cli.screens.distill import show_taught

        show_taught(found)
    if found.error is not None:
        raise found.error
    return 0
