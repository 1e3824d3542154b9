"""Students beside their teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.cli.screens.facts import facts
from weigh.cli.screens.quality_text import between
from weigh.quality.text_run import Ended

if TYPE_CHECKING:
    from weigh.shrink.taught import Contender, Taught

_ENDED = {
    Ended.ALL_READ: "all there is was read",
    Ended.TIME_UP: "stopped because the time was up",
    Ended.INTERRUPTED: "interrupted; the students are made, and the same command measures anew",
    Ended.FAILED: "an engine failed; the students are made, and the same command measures anew",
}


def show_taught(found: Taught) -> None:
    """What each is and does, which student is better, and what was made."""
    columns = ("", "parameters", "size", "bits/byte", "divergence, nats", "same top token")
    grid = Grid(columns, right=columns[1:])
    teacher = found.contenders[-1]
    for one in (teacher, *found.contenders[:-1]):
        grid.add(
            one.name,
            _count(one, teacher),
            "unknown" if one.spec.file_bytes is None else units.gib(one.spec.file_bytes),
            "not measured" if one.quality is None else between(one.quality.bits_per_byte, "{:.3f}"),
            *_divergence(one),
        )
    grid.note = "on held-out text, with intervals that hold in 8 of 10 cases; divergence is from the teacher"
    show(grid)
    show()
    for first, second in (("distilled", "alone"), ("distilled", "teacher")):
        said = _statement(found, first, second)
        if said:
            show(Bold(said))
    show()
    facts(_rows(found))


def _count(one: Contender, teacher: Contender) -> str:
    said = units.count(one.spec.parameters)
    return said if one is teacher else f"{said} ({one.spec.parameters / teacher.spec.parameters:.0%})"


def _divergence(one: Contender) -> tuple[str, str]:
    if one.diverged is None:
        return "", ""
    made = one.diverged.found
    return between(made.kl, "{:.3f}"), between(made.same_top, "{:.1f}", 100, " %")


def _statement(found: Taught, first: str, second: str) -> str:
    """By how many bits one is better, on which interval that rests."""
    pair = found.pair(first, second)
    if pair is None:
        return ""
    stated = pair.difference.stated
    sign = 1 if stated.value > 0 else -1
    low, high = sorted(sign * end for end in (stated.low, stated.high))
    sure = f"95 %: {low:.3f} to {high:.3f}" if stated.bounded else "too little text for an interval of 95 %"
    margin = f"{abs(stated.value):.3f} bits per byte ({sure})"
    better, worse = (second, first) if stated.value > 0 else (first, second)
    if pair.difference.decided:
        return f"{better} is better than {worse} by {margin}"
    return f"{better} or {worse}: not sure which is better; {better} is ahead by {margin}"


def _rows(found: Taught) -> list[tuple[str, str]]:
    recipe, students = found.recipe, [one.student for one in found.contenders if one.student is not None]
    took = ", ".join(f"{one.name} {units.seconds(one.trained_s)}" for one in students)
    begun = "the teacher's own weights" if recipe.from_teacher else "random weights"
    read = max((one.quality.text_bytes for one in found.contenders if one.quality is not None), default=0)
    rows = [
        (
            "Trained",
            f"from {begun}, {recipe.steps:,} steps of {recipe.windows * recipe.window_tokens:,} tokens "
            f"of {_files(found.training_files)}: {took}",
        ),
        (
            "Held out",
            f"{_files(found.run.texts.files)}, {units.gib(read)} of {units.gib(found.run.texts.bytes)}: "
            f"{_ENDED[found.run.ended]}",
        ),
    ]
    if any(one.quality is not None and not one.quality.by_file for one in found.contenders):
        rows.append(
            ("Intervals", "are of pieces of files, for files are few: they speak for more of the same text")
        )
    if found.not_compared:
        rows.append(("Divergence", f"not measured: {found.not_compared}"))
    rows.append(("Made", ", ".join(str(one.folder) for one in students)))
    rows.append(("Next", f"weigh shrink quantize {students[0].folder} Q8_0"))
    return rows


def _files(count: int) -> str:
    return f"{count:,} file{'s' if count != 1 else ''}"
