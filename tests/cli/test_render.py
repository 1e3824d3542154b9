"""Figures and grids as people see them, on a screen and in a pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from weigh.bench.here import Here
from weigh.cli.render import Bold, Grid, interval, show
from weigh.figure import Basis, Figure


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (Figure(9.81, 9.3, 10.44, "tokens/s", Basis.CALIBRATED), "9.8 (9.3–10.4)"),
        (Figure(31.4, 25, 150, "s", Basis.CALIBRATED), "31 s (25 s–2 min)"),
        (Figure(31.4, 25, 40, "s", Basis.CALIBRATED), "31 s (25–40 s)"),
        (Figure.exact(5 << 30, "bytes"), "5.00 GiB"),
        (None, "unknown"),
    ],
)
def test_a_figure_is_said_with_its_range(figure: Figure | None, said: str) -> None:
    assert interval(figure) == said


def test_a_pipe_gets_aligned_lines_without_padding(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Grid(("name", "size"), right=("size",), note="that is all")
    grid.add("a [bold]name[/]", "1")
    grid.add("b", "1000")
    show(grid)
    show("plain ", Bold("and strong"), " words ")
    assert capsys.readouterr().out == (
        "name             size\n"
        "a [bold]name[/]     1\n"
        "b                1000\n"
        "that is all\n"
        "plain and strong words\n"
    )


def _on_a_screen(columns: int, **environment: str) -> str:
    """What a terminal of that width shows for a recommendation."""
    run = subprocess.run(
        [sys.executable, "-m", "weigh", "recommend", "--min-speed", "0.1", "--max-ttft", "1e9"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(columns), **environment},
    )
    return run.stdout


@pytest.mark.parametrize("columns", [50, 60, 80, 100, 120, 140, 200])
def test_a_screen_is_never_overrun(calibrated: Here, columns: int) -> None:
    shown = _on_a_screen(columns)
    assert "\x1b[1m" in shown
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= columns
    assert any("▶" in line for line in lines)
    (head,) = (line for line in lines if line.startswith("model"))
    assert "decode" in head
    assert ("quality" in head) == (columns >= 90)


def test_no_colour_leaves_only_weight(calibrated: Here) -> None:
    assert re.search(r"\x1b\[3\d", _on_a_screen(120, NO_COLOR="1")) is None
