"""Does a teacher help? A student as large as one rung of the ladder, taught by a larger rung and trained alone.

The teacher is a folder that `python -m ladder train 4m` made; --like names the student's rung. Both students begin
with the same weights, pruned from the teacher's (--random: a second pair begins with random ones), see the same text
of the ladder's corpus in the same order, and are scored on its held-out files, which neither they nor the teacher
were trained on. The table of docs/distill.md is written anew.

    python benchmarks/distill.py ladder/work/models/ladder-4m-2048ktok
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ladder.corpus import SourceFile, read_corpus  # noqa: E402
from ladder.shapes import Rung, rung  # noqa: E402
from weigh import units  # noqa: E402
from weigh.model.resolve import resolve  # noqa: E402
from weigh.quality.text import Text, Texts, sections  # noqa: E402
from weigh.shrink.recipe import Recipe, Shape  # noqa: E402
from weigh.shrink.taught import ARMS, Contender, Taught, teach_on  # noqa: E402

PAGE = ROOT / "docs" / "distill.md"
BEGIN, END = "<!-- table: benchmarks/distill.py -->", "<!-- end of table -->"


@click.command(help=__doc__)
@click.argument("teacher", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--like", default="1m", show_default=True, help="The rung whose shape the student has.")
@click.option("--steps", default=256, show_default=True, help="Of 8 windows of 512 tokens.")
@click.option("--random", is_flag=True, help="A second pair of students begins with random weights.")
@click.option("--work", type=click.Path(path_type=Path), help="Where the students are kept and gone on with.")
@click.option("--threads", type=int, help="Threads that train and score.")
@click.option("--write/--no-write", default=True, help="Whether docs/distill.md gets the table.")
def main(
    teacher: Path, like: str, steps: int, random: bool, work: Path | None, threads: int | None, write: bool
) -> None:
    started = time.monotonic()
    corpus = read_corpus()
    spec = resolve(str(teacher))
    with tempfile.TemporaryDirectory() as made:
        folder = work or Path(made)
        found = {
            begun: teach_on(
                spec,
                _texts(corpus.training),
                Texts(tuple(_texts(corpus.held_out)), 0),
                folder / begun,
                Recipe(
                    shape=_shape(rung(like), teacher), from_teacher=begun == "pruned", steps=steps, windows=8
                ),
                arms=ARMS,
                threads=threads,
                most_s=None,
                progress=_said(begun),
            )
            for begun in (("pruned", "random") if random else ("pruned",))
        }
    took = units.seconds(time.monotonic() - started)
    table = "\n".join(_table(found, steps, took))
    click.echo(table)
    if write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def _shape(like: Rung, teacher: Path) -> Shape:
    """Of heads as many channels as the rung has; how large each is, the teacher decides."""
    head_dim = json.loads((teacher / "config.json").read_text(encoding="utf-8"))["head_dim"]
    return Shape(
        like.layers, like.hidden, like.feed_forward, max(1, like.kv_heads * like.head_dim // head_dim)
    )


def _texts(files: tuple[SourceFile, ...]) -> list[Text]:
    return [
        Text(file.path, number, part, at)
        for number, file in enumerate(files)
        for at, part in enumerate(sections(file.text))
    ]


def _said(begun: str) -> Callable[[str, float], None]:
    """A line for every twentieth of the way."""
    last = [-1]

    def say(stage: str, done: float) -> None:
        if int(done * 20) != last[0]:
            last[0] = int(done * 20)
            click.echo(f"{begun}: {done:4.0%} {stage}", err=True)

    return say


def _table(found: dict[str, Taught], steps: int, took: str) -> list[str]:
    first = next(iter(found.values()))
    teacher = first.contenders[-1]
    lines = [
        "| | parameters | bits per byte | KL from the teacher, nats | same top token | trained for |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        _row(f"teacher, {teacher.spec.name}", teacher),
    ]
    for begun, one in found.items():
        lines += [_row(f"{student.name}, begun {begun}", student) for student in one.contenders[:-1]]
    lines.append("")
    for begun, one in found.items():
        pair = one.pair("distilled", "alone")
        if pair is not None:
            stated = pair.difference.stated
            lines.append(
                f"Begun {begun}, the distilled student needs {-stated.value:.4f} bits per byte less than the one alone "
                f"(95 %: {-stated.high:.4f} to {-stated.low:.4f}): "
                f"{'sure' if pair.difference.decided else 'not sure'}."
            )
    files, size = first.run.texts.files, units.gib(first.run.texts.bytes)
    lines += [
        "",
        f"{steps} steps of 4,096 tokens; scored on {files} held-out files, {size} ({first.run.ended}). Run time "
        f"{took} in all; {datetime.datetime.now(datetime.UTC).date()}.",
    ]
    return lines


def _row(name: str, one: Contender) -> str:
    bits = one.quality and one.quality.bits_per_byte
    kl = one.diverged and one.diverged.found.kl
    same = one.diverged and one.diverged.found.same_top
    cells = [
        name,
        units.count(one.spec.parameters),
        f"{bits.value:.3f} ({bits.low:.3f} to {bits.high:.3f})" if bits else "",
        f"{kl.value:.3f} ({kl.low:.3f} to {kl.high:.3f})" if kl else "",
        f"{same.value:.1%}" if same else "",
        units.seconds(one.student.trained_s) if one.student else "",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
