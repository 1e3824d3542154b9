"""The ladder of really trained small models: what docs/ladder.md tells, made anew."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from ladder.corpus import Corpus, read_corpus, text_bytes
from ladder.run import BRANCH_STEPS, WINDOWS_PER_STEP, Run, rate_runs, runs

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Workshop:
    """The folders of one making of the ladder, and what is made from the corpus on the way."""

    folder: Path
    logs: Path

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @cached_property
    def corpus(self) -> Corpus:
        return read_corpus()

    @cached_property
    def tokenizer(self) -> Any:
        from ladder.tokenizer import train_tokenizer

        return train_tokenizer(self.corpus.training)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the logs tell of corpus and tokenizer."""
        return {
            "python": self.corpus.python_version,
            "corpus_sha256": self.corpus.sha256,
            "training_files": len(self.corpus.training),
            "training_bytes": text_bytes(self.corpus.training),
            "held_out_files": len(self.corpus.held_out),
            "held_out_bytes": text_bytes(self.corpus.held_out),
            "tokenizer_sha256": hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest(),
        }

    def train(self, run: Run, most_steps: int | None = None) -> None:
        from ladder.heldout import HeldOut
        from ladder.stream import training_windows
        from ladder.tokenizer import write_tokenizer
        from ladder.train import train

        for folder in (self.models, self.logs, self.folder / "states"):
            folder.mkdir(parents=True, exist_ok=True)
        if all((self.models / run.model_name(end)).exists() for end in run.ends):
            return
        windows = training_windows(
            self.corpus.training,
            self.tokenizer,
            windows=BRANCH_STEPS[-1] * WINDOWS_PER_STEP,
            seed=run.seed,
            noise=run.noise,
        )
        train(
            run,
            windows,
            HeldOut.of(self.corpus.held_out, self.tokenizer),
            states=self.folder / "states",
            models=self.models,
            log=self.logs / f"{run.name}.jsonl",
            about=self.about,
            beside=lambda folder: write_tokenizer(self.tokenizer, folder),
            say=lambda line: click.echo(line, err=True),
            most_steps=most_steps,
        )


def _chosen(names: tuple[str, ...]) -> list[Run]:
    known = runs()
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no run is called `{name}`; there are {', '.join(known)}")
    return [known[name] for name in names] or list(known.values())


@click.group(help=__doc__)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=HERE / "work",
    help="Checkpoints and models. The same folder goes on where a stopped run ended.",
)
@click.option(
    "--logs",
    type=click.Path(file_okay=False, path_type=Path),
    default=HERE / "logs",
    help="One file of JSON lines for each run.",
)
@click.pass_context
def main(context: click.Context, work: Path, logs: Path) -> None:
    context.obj = Workshop(work, logs)


@main.command()
@click.option(
    "--held-out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the held-out files into this folder, for `weigh quality --text`.",
)
@click.pass_obj
def corpus(workshop: Workshop, held_out: Path | None) -> None:
    """What the text is made of."""
    for file in workshop.corpus.held_out:
        click.echo(f"held out  {file.path}")
        if held_out is not None:
            path = held_out / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
    click.echo(
        json.dumps({k: v for k, v in workshop.about.items() if not k.startswith("tokenizer")}, indent=2)
    )


@main.command()
@click.pass_obj
def tokenizer(workshop: Workshop) -> None:
    """Train the tokenizer and write it where the models will lie."""
    from ladder.tokenizer import write_tokenizer

    folder = workshop.folder / "tokenizer"
    write_tokenizer(workshop.tokenizer, folder)
    click.echo(f"{folder}: sha256 {workshop.about['tokenizer_sha256']}")


@main.command()
@click.pass_obj
def rates(workshop: Workshop) -> None:
    """Short runs at several learning rates, which the rule for them was chosen by."""
    for run in rate_runs():
        workshop.train(run)


@main.command()
@click.argument("names", nargs=-1)
@click.option("--most-steps", type=click.IntRange(min=1), help="Leave longer branches for another time.")
@click.pass_obj
def train(workshop: Workshop, names: tuple[str, ...], most_steps: int | None) -> None:
    """Train the runs named, or all that are not finished, smallest first."""
    for run in _chosen(names):
        workshop.train(run, most_steps)


@main.command()
@click.pass_obj
def export(workshop: Workshop) -> None:
    """Write every trained model as an F16 GGUF file, and the models of the repository."""
    from ladder.export import KEPT, write_gguf

    trained = sorted(path.parent for path in workshop.models.glob("*/tokenizer.json"))
    for folder in trained:
        click.echo(write_gguf(folder, "F16", workshop.folder / "gguf"))
    for folder in trained:
        if folder.name in KEPT:
            click.echo(write_gguf(folder, KEPT[folder.name], HERE / "models"))


@main.command()
@click.pass_obj
def check(workshop: Workshop) -> None:
    """Hold transformers and llama.cpp against each other on the held-out files."""
    from ladder.check import agreement

    for gguf in sorted((workshop.folder / "gguf").glob("*-F16.gguf")):
        folder = workshop.models / gguf.stem.removesuffix("-F16")
        found = agreement(folder, gguf, workshop.corpus.held_out)
        click.echo(
            f"{folder.name}: {found.transformers:.5f} nats per token with transformers, {found.llama_cpp:.5f} with "
            f"llama.cpp in F16; perplexity {found.perplexity_differs_fraction:+.3%}"
        )


@main.command()
@click.pass_obj
def table(workshop: Workshop) -> None:
    """The table of docs/ladder.md, from the logs."""
    from ladder.table import table

    click.echo(table(workshop.logs))


@main.command(name="all")
@click.pass_context
def everything(context: click.Context) -> None:
    """Train what is not trained yet, export it, and print the table."""
    context.invoke(train, names=(), most_steps=None)
    context.invoke(export)
    context.invoke(table)


if __name__ == "__main__":
    from ladder.train import OtherRun, Stopped

    try:
        main.main(standalone_mode=True)
    except (OtherRun, Stopped) as ended:
        click.echo(str(ended), err=True)
        sys.exit(130 if isinstance(ended, Stopped) else 2)
