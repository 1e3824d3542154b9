"""How long and how much memory each hostile case takes, through the command line.

    python benchmarks/hostile.py            # every case; fails where one takes over a second or 200 MB
    python benchmarks/hostile.py gguf       # those whose name begins so

Time is that of the processor, without the start of Python; memory is the most the process held.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.hostile.corpus import corpus  # noqa: E402
from tests.hostile.walk import MOST_MEMORY_BYTES, Outcome  # noqa: E402

MOST_CPU_S = 1.0


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    outcomes = _walked(kind)
    cases = {case.name: case for case in corpus(kind)}
    print(f"{'kind':12} {'refused':>8} {'accepted':>9}  {'most s':>7} {'most MB':>8}  slowest")
    for name in dict.fromkeys(case.partition(":")[0] for case in cases):
        of_kind = [o for o in outcomes if o.name.startswith(f"{name}:")]
        slowest = max(of_kind, key=lambda o: o.cpu_s)
        accepted = sum(cases[o.name].accepted for o in of_kind)
        peak_mb = max(o.peak_bytes for o in of_kind) / 1e6
        print(
            f"{name:12} {len(of_kind) - accepted:8} {accepted:9}  {slowest.cpu_s:7.3f} {peak_mb:8.0f}"
            f"  {slowest.name.partition(': ')[2]}"
        )
    wrong = [o.name for o in outcomes if not _right(o, cases[o.name].says)]
    heavy = [o.name for o in outcomes if o.cpu_s > MOST_CPU_S or o.peak_bytes > MOST_MEMORY_BYTES]
    for what, names in (("not as expected", wrong), ("too heavy", heavy)):
        print(*(f"{what}: {name}" for name in names), sep="\n", end="\n" if names else "")
    print(
        f"{len(outcomes)} cases, {len(wrong)} not as expected, {len(heavy)} over {MOST_CPU_S:.0f} s or 200 MB"
    )
    return 1 if wrong or heavy else 0


def _walked(kind: str) -> list[Outcome]:
    walk = [sys.executable, "-m", "tests.hostile.walk", *([kind] if kind else [])]
    done = subprocess.run(walk, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = (json.loads(line) for line in done.stdout.splitlines())
    return [Outcome(**line) for line in lines if "name" in line]


def _right(outcome: Outcome, says: str) -> bool:
    if not says:
        return outcome.code == 0
    return outcome.code == 2 and outcome.error.count("\n") == 1 and bool(re.search(says, outcome.error))


if __name__ == "__main__":
    sys.exit(main())
