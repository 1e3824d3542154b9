"""How fast the commands answer: median of whole processes, written into docs/startup.md.

    python benchmarks/startup.py

Needs a calibrated machine (run `weigh` once before) and the machine to itself.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "startup.md"
RUNS = 15


def times_s(*arguments: str) -> list[float]:
    """Wall times of RUNS processes after one that warms the file cache."""
    command = [str(Path(sys.executable).with_name("weigh")), *arguments]
    found = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        found.append(time.perf_counter() - started)
    return found[1:]


def main() -> None:
    from weigh.model.catalog import catalog
    from weigh.model.quantization import quantize
    from weigh.synth import write_gguf

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "llama-3.1-70b-q4_k_m.gguf"
        spec = catalog().by_id["meta-llama/Llama-3.1-70B-Instruct"].spec()
        write_gguf(quantize(spec, "Q4_K_M"), file, weights=False)
        rows = [
            ("`weigh --help`", "150 ms", times_s("--help")),
            ("`weigh model FILE` (70B, 128k vocabulary)", "150 ms", times_s("model", str(file))),
            ("`weigh model FILE --json`", "", times_s("model", str(file), "--json")),
            ("`weigh recommend`, calibrated", "400 ms", times_s("recommend")),
            ("`weigh fit qwen2.5-7b`, calibrated", "", times_s("fit", "qwen2.5-7b")),
        ]
    lines = [
        "# How fast the commands answer",
        "",
        f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, {RUNS} whole processes each"
        " after one warm-up, by `python benchmarks/startup.py`.",
        "",
        "| command | goal | median | fastest | slowest |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, goal, found in rows:
        figures = (statistics.median(found), min(found), max(found))
        lines.append(f"| {name} | {goal} | " + " | ".join(f"{1000 * f:.0f} ms" for f in figures) + " |")
    lines += [
        "",
        "A shared host's speed drifts: compare with `weigh --help` of the same table. On 2026-11-22 a run a few minutes"
        " before one that met every goal took 134, 214 and 411 ms for --help, model FILE and recommend.",
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
