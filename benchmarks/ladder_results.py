"""All that is said of the ladder, made again: one command, each part with the time it took.

    python benchmarks/ladder_results.py [--work ladder/work] [--most-steps 512] [--only scaling --only repo]

What is trained already is not trained again. Each part is a command of its own and writes its own page; their times
land in docs/ladder.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ladder.shapes import RUNGS  # noqa: E402
from weigh import units  # noqa: E402

PAGE = ROOT / "docs" / "ladder.md"
BEGIN, END = "<!-- times: benchmarks/ladder_results.py -->", "<!-- end of times -->"
TOKENS = "2048ktok"  # of the models that all sizes have


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "ladder" / "work")
    parser.add_argument("--most-steps", default="512", help="branches beyond are left alone")
    parser.add_argument("--only", action="append", default=[], help="a part's name; may be given again")
    given = parser.parse_args()
    parts = _parts(given.work.resolve(), given.most_steps)
    if unknown := set(given.only) - set(parts):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    chosen = {name: parts[name] for name in given.only} if given.only else parts
    for name, command in chosen.items():
        words = command()
        print(f"{name}: {' '.join(words)}", file=sys.stderr, flush=True)
        began_s = time.monotonic()
        code = subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode
        took = units.seconds(time.monotonic() - began_s) + (f", exit code {code}" if code else "")
        print(f"{name}: {took}", file=sys.stderr, flush=True)
        shown = " ".join(words).replace(str(given.work.resolve()), "ladder/work")
        _keep(name, f"| {name} | {date.today():%Y-%m-%d} | {took} | `python {shown}` |", list(parts))
    return 0


def _keep(name: str, row: str, order: list[str]) -> None:
    """Into the page's table; rows of other parts stay."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    rows[name] = row
    known = [rows[one] for one in order if one in rows]
    text = "\n".join(
        [BEGIN, "", "| part | date | took | command |", "| --- | --- | ---: | --- |", *known, "", END]
    )
    PAGE.write_text(f"{before}{text}{after}", encoding="utf-8")


def _parts(work: Path, most_steps: str) -> dict[str, Callable[[], list[str]]]:
    """Their commands, each told when its turn comes: what it works on may be made by those before."""
    ladder = ["-m", "ladder", "--work", str(work)]
    held_out, models = str(work / "held_out"), work / "models"

    def files() -> list[str]:
        """Of all sizes that have read as much, smallest first."""
        paths = (work / "gguf" / f"ladder-{rung.name}-{TOKENS}-F16.gguf" for rung in RUNGS)
        return [str(path) for path in paths if path.exists()]

    return {
        "training": lambda: [*ladder, "train", "--most-steps", most_steps],
        "export": lambda: [*ladder, "export"],
        "held-out": lambda: [*ladder, "corpus", "--held-out", held_out],
        "scaling": lambda: ["benchmarks/scaling.py"],
        "loss": lambda: [
            *("benchmarks/quantization_loss_check.py", "--models", str(models)),
            *("--out", "docs/quantization_loss.md"),
        ],
        "distill": lambda: ["benchmarks/distill.py", str(models / f"ladder-4m-{TOKENS}")],
        "front": lambda: ["benchmarks/quantizer_front.py", files()[-1], "--text", held_out],
        "repo": lambda: ["-m", "weigh", "quality", *files(), "--repo", "."],
    }


if __name__ == "__main__":
    sys.exit(main())
