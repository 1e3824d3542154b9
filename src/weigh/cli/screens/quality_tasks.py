"""Models on tasks: how many they pass, by need and by difficulty, and which is the better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from weigh import units
from weigh.cli.render import Bold, Grid, show
from weigh.figure import Figure
from weigh.quality.tasks.passing import Outcome, difference, rate
from weigh.quality.tasks.run import Ended, TaskRun
from weigh.quality.tasks.task import NEEDS
from weigh.quality.tasks.writers import Style

_ENDED = {
    Ended.TIME_UP: "the time was up; this is what was done until then",
    Ended.INTERRUPTED: "interrupted; this is what was done until then",
    Ended.FAILED: "it failed; this is what was done until then",
}


def show_tasks(runs: Sequence[TaskRun], answers: Path) -> None:
    for run in runs:
        show(Bold(_headline(run)))
    samples = max(run.asked.samples for run in runs)
    show()
    show(_table(runs, samples))
    for line in _statements(runs):
        show(line)
    show()
    for run in runs:
        show(_about(run))
    show(f"answers: {answers}")


def _headline(run: TaskRun) -> str:
    found = rate(run.outcomes())
    assert found is not None  # a run without answers is an error
    of = f"{found.tasks:,} task{'s' if found.tasks != 1 else ''}"
    return f"{run.model} passes {_share(found.figure)} of {of}"


def _table(runs: Sequence[TaskRun], samples: int) -> Grid:
    several = samples > 1
    columns = [
        (run, k, f"{run.model if len(runs) > 1 else ''} pass@{k}".strip())
        for run in runs
        for k in ((1, samples) if several else (1,))
    ]
    grid = Grid(
        ("", "tasks", *(name for _, _, name in columns)), right=("tasks", *(n for _, _, n in columns))
    )
    for title, belongs in _rows([one for run in runs for one in run.outcomes()]):
        rates = [rate(list(filter(belongs, run.outcomes())), k) for run, k, _ in columns]
        tasks = max((found.tasks for found in rates if found), default=0)
        grid.add(title, f"{tasks:,}", *(_share(found.figure) if found else "-" for found in rates))
    grid.strong = (len(grid.rows) - 1,)
    grid.note = "pass@1: one answer passes; with the interval that holds it in 8 of 10 cases"
    if several:
        grid.note = f"pass@{samples}: one of {samples} answers passes; intervals hold in 8 of 10 cases"
    return grid


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, Callable[[Outcome], bool]]]:
    """Titles, and which tasks belong to each: needs, difficulties, all."""
    needs = [need for need in NEEDS if any(one.need == need for one in outcomes)]
    levels = sorted({one.difficulty for one in outcomes})
    return [
        *((need.replace("_", " "), lambda one, need=need: one.need == need) for need in needs),
        *((f"difficulty {level}", lambda one, level=level: one.difficulty == level) for level in levels),
        ("all", lambda one: True),
    ]


def _share(figure: Figure) -> str:
    return f"{100 * figure.value:.0f} % ({100 * figure.low:.0f}–{100 * figure.high:.0f})"


def _statements(runs: Sequence[TaskRun]) -> list[str]:
    lines = []
    for one, other in combinations(runs, 2):
        found = difference(one.outcomes(), other.outcomes())
        if found is None:
            continue
        figure, on = found.figure, f"on {found.tasks:,} tasks"
        if found.better is None:
            lines.append(f"{one.model} or {other.model}: not sure which is better {on}")
            continue
        first, second, sign = (one, other, 1) if found.better == 0 else (other, one, -1)
        low, high = sorted((sign * figure.low, sign * figure.high))
        points = f"{100 * abs(figure.value):.0f} points ({100 * low:.0f} to {100 * high:.0f})"
        lines.append(f"{first.model} passes {points} more than {second.model}, sure at 95 % {on}")
    return lines


def _about(run: TaskRun) -> str:
    answers = len(run.answers)
    words = [f"{run.model}: {answers:,} answer{'s' if answers != 1 else ''} in {units.seconds(run.took_s)}"]
    words.append(f"asked as a {'chat' if run.style is Style.CHAT else 'base model, to fill gaps'}")
    words.append(f"temperature {run.asked.sampling.temperature:g}")
    if run.left_out:
        words.append(f"{run.left_out:,} tasks without a gap left out")
    if cut := sum(answer.cut for answer in run.answers):
        words.append(f"{cut:,} cut at {run.asked.sampling.most_tokens:,} tokens")
    if run.ended in _ENDED:
        words.append(_ENDED[run.ended])
    return ", ".join(words)
