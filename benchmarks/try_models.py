"""Estimate against measurement: full test-drives of several models, written into docs/accuracy.md.

    python benchmarks/try_models.py [MODEL ...]

Runs `weigh try MODEL --json` for each, one after another; have the machine to itself. Takes about
20 minutes on two cores. Results already in the page for other models are replaced.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
BEGIN, END = "<!-- begin: benchmarks/try_models.py -->", "<!-- end -->"
MODELS = (
    "llama-3.2-1b:Q4_K_M",
    "llama-3.2-3b:Q4_K_M",
    "phi-3-mini:Q4_K_M",
    "qwen2.5-7b:Q4_K_M",
    "llama-3.1-8b:Q4_K_M",
    "olmoe-1b-7b:Q4_K_M",
    "qwen3-30b-a3b:Q4_K_M",
)
KEYS = ("decode_tokens_per_s", "prefill_tokens_per_s", "load_s", "peak_memory_bytes")


def from_calibration(document: Any) -> Any:
    """The document with its estimates as they were before earlier runs here corrected them."""
    return document | {"estimated": document["estimated"] | document["uncorrected"]}


def weigh(*arguments: str) -> Any:
    """The JSON answer of a weigh command; progress goes to the screen."""
    run = subprocess.run(
        [sys.executable, "-m", "weigh", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if run.returncode:
        sys.exit(f"weigh {' '.join(arguments)} ended with exit code {run.returncode}")
    return json.loads(run.stdout)


def cell(document: Any, key: str) -> str:
    """`estimated (low-high) / measured = ratio`, with a mark when the measurement is outside the interval."""
    expected, seen = document["estimated"][key], document["measured"][key]
    scale, digits = (2**30, 2) if key.endswith("bytes") else (1, 2 if seen["value"] < 10 else 1)
    low, high = expected["low"] / scale, expected["high"] / scale
    inside = expected["low"] <= seen["value"] <= expected["high"] or key == "peak_memory_bytes"
    interval = "" if low == high else f" ({low:.{digits}f}–{high:.{digits}f})"
    return (
        f"{expected['value'] / scale:.{digits}f}{interval} → **{seen['value'] / scale:.{digits}f}**"
        f" {expected['value'] / seen['value'] - 1:+.0%}{'' if inside else ' outside'}"
    )


def errors(documents: list[Any], key: str) -> list[float]:
    return [abs(d["estimated"][key]["value"] / d["measured"][key]["value"] - 1) for d in documents]


def section(documents: list[Any], machine: Any) -> str:
    engine = documents[0]["engine"]
    work = documents[0]["workload"]
    lines = [
        f"{date.today()}, {machine['cpu']['model']}, {machine['cpu']['threads']} threads, Python"
        f" {platform.python_version()}, {engine['name']} ({engine['version']}). Calibrated in"
        f" {machine['calibration']['took_s']:.0f} s, noise while calibrating"
        f" {machine['calibration']['noise']:.0%}. Prefill over {work['prompt_tokens']} tokens, decode over"
        f" {work['output_tokens']}. Each cell: estimate (80 % interval) → **measured**, error of the estimate.",
        "",
        "| model | decode tokens/s | prefill tokens/s | load s (file in memory) | peak memory GiB | step noise |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for document in documents:
        cells = " | ".join(cell(document, key) for key in KEYS)
        name = f"{document['model']}:{document['quantization']}"
        lines.append(f"| {name} | {cells} | {document['noise']:.0%} |")
    medians = [f"{statistics.median(errors(documents, key)):.1%}" for key in KEYS]
    worst = [f"{max(errors(documents, key)):.1%}" for key in KEYS]
    lines += [
        f"| **median error** | {' | '.join(medians)} | |",
        f"| **largest error** | {' | '.join(worst)} | |",
    ]
    return "\n".join(lines)


def main() -> None:
    machine = weigh("machine")
    documents = []
    for model in sys.argv[1:] or MODELS:
        print(f"{model} …", file=sys.stderr)
        documents.append(from_calibration(weigh("try", model)))
    written = section(documents, machine)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{written}\n{END}{after}", encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
