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
from datetime import date
from pathlib import Path

from weigh import units
from weigh.machine import probe

ROOT = Path(__file__).parents[1]
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
    rows = ["| part | took | command |", "| --- | ---: | --- |"]
    for name, words in chosen.items():
        began_s = time.monotonic()
        print(f"{name}: {' '.join(words)}", file=sys.stderr, flush=True)
        code = subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode
        took = units.seconds(time.monotonic() - began_s)
        ended = took if code == 0 else f"{took}, exit code {code}"
        shown = " ".join(words).replace(str(given.work.resolve()), "ladder/work")
        rows.append(f"| {name} | {ended} | `python {shown}` |")
        print(f"{name}: {ended}", file=sys.stderr, flush=True)
    machine = probe.probe()
    told = f"{date.today():%d %B %Y}, {machine.cpu.model}, {machine.cpu.threads} cores:"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join([BEGIN, "", told, "", *rows, "", END])
    PAGE.write_text(f"{before}{text}{after}", encoding="utf-8")
    return 0


def _parts(work: Path, most_steps: str) -> dict[str, list[str]]:
    ladder = ["-m", "ladder", "--work", str(work)]
    held_out, models, files = work / "held_out", work / "models", work / "gguf"
    largest = files / f"ladder-29m-{TOKENS}-F16.gguf"
    every = [str(files / f"ladder-{name}-{TOKENS}-F16.gguf") for name in SIZES]
    weigh = ["-m", "weigh"]
    return {
        "training": [*ladder, "train", "--most-steps", most_steps],
        "export": [*ladder, "export"],
        "held-out": [*ladder, "corpus", "--held-out", str(held_out)],
        "scaling": ["benchmarks/scaling.py"],
        "loss": [
            "benchmarks/quantization_loss_check.py",
            "--models",
            str(models),
            "--out",
            "docs/quantization_loss.md",
        ],
        "distill": ["benchmarks/distill.py", str(models / f"ladder-4m-{TOKENS}")],
        "front": ["benchmarks/quantizer_front.py", str(largest), "--text", str(held_out), "--make-imatrix"],
        "repo": [*weigh, "quality", *every, "--repo", "."],
    }


SIZES = ("230k", "520k", "1m", "2m", "4m", "11m", "29m")


if __name__ == "__main__":
    sys.exit(main())
