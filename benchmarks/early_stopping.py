"""How often each rule sees a difference between models that are equal, when one looks after every file.

    python benchmarks/early_stopping.py [--out PAGE]

With --out the part of the page between the marks `early_stopping` is written again. Takes some seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.quality.test_paired import DRAWS, LOOKS, RUNS, usual, wrong  # noqa: E402
from weigh.quality.paired import any_time_t  # noqa: E402

BEGIN, END = "<!-- early_stopping -->", "<!-- /early_stopping -->"
SKEWED = {"very skewed (lognormal)": lambda draw: draw.lognormal(0, 1, (RUNS, LOOKS)) - math.exp(0.5)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = ["| differences | this rule | usual 95 % interval |", "| --- | ---: | ---: |"]
    for kind, draw in (DRAWS | SKEWED).items():
        lines.append(f"| {kind} | {wrong(draw, any_time_t):.1%} | {wrong(draw, usual):.1%} |")
    said = "\n".join(lines)
    print(said)
    if given.out:
        before, mark, rest = given.out.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not mark or not end:
            sys.exit(f"{given.out} has no {BEGIN} … {END}")
        given.out.write_text(f"{before}{BEGIN}\n{said}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
