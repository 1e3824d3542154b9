"""One model of true shapes on llama.cpp, transformers and vLLM, measured by `weigh bench`: docs/bench_engines.md.

    python benchmarks/engines.py [--model NAME] [--rounds 3] [--max-time 40s]

A checkpoint in BF16 and a GGUF file in F16 of the same shapes are written, with random weights. Each round benchmarks
every engine that is found, one after another, the order turned round from one to the next; a figure is the median of
the rounds' medians, its range the rounds'. Engines that are not installed are left out and named (`weigh engines`).
Wants the machine to itself; with three engines and three rounds it takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from weigh import units
from weigh.machine import probe
from weigh.model.quantization import quantize
from weigh.model.resolve import resolve
from weigh.synth.files import synthetic_checkpoint, synthetic_file

PAGE = Path(__file__).parents[1] / "docs" / "bench_engines.md"
ENGINES = ("llama.cpp", "transformers", "vllm")
PROMPT, OUTPUT = 256, 64
ROWS = (  # name in the store, clock, words
    ("load_cached_s", None, "load, file in memory"),
    ("prefill_tokens_per_s", "client", f"prefill of {PROMPT} tokens, tokens/s"),
    ("ttft_s", None, f"time to first token, prompt of {PROMPT}"),
    ("decode_tokens_per_s", "client", f"decode of {OUTPUT} tokens, tokens/s"),
    ("itl_s", None, "gap between tokens"),
    ("peak_memory_bytes", None, "peak memory"),
    ("peak_private_bytes", None, "of it private"),
    ("cpu_cores_busy", None, "processors busy, decode"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-time", default="40s")
    given = parser.parse_args()
    spec = resolve(given.model)
    found: dict[str, list[Mapping[str, Any]]] = {}
    left_out: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        synthetic_file(quantize(spec, "F16"), Path(scratch)) as file,
        synthetic_checkpoint(quantize(spec, "BF16"), Path(scratch)) as folder,
    ):
        for number in range(given.rounds):
            for engine in ENGINES if number % 2 == 0 else ENGINES[::-1]:
                if engine in left_out:
                    continue
                print(f"round {number + 1} of {given.rounds}: {engine}", file=sys.stderr, flush=True)
                done = bench(file if engine == "llama.cpp" else folder, engine, given.max_time)
                if done.returncode:
                    left_out[engine] = done.stderr.strip().splitlines()[-1]
                    print(left_out[engine], file=sys.stderr)
                else:
                    found.setdefault(engine, []).append(json.loads(done.stdout))
    PAGE.write_text(page(spec.name, found, left_out, given.rounds), encoding="utf-8")


def bench(model: Path, engine: str, most: str) -> subprocess.CompletedProcess[str]:
    options = {"--engine": engine, "--prompt": PROMPT, "--output": OUTPUT, "--starts": 1, "--max-time": most}
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "weigh", "bench", str(model), *words, "--no-calibrate", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def page(
    model: str,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    left_out: Mapping[str, str],
    rounds: int,
) -> str:
    machine = probe()
    versions = ", ".join(f"{name}: {runs[0]['engine']['version']}" for name, runs in found.items())
    often = "One round." if rounds == 1 else f"Medians of {rounds} rounds in turns, with the rounds' range."
    lines = [
        "# Engines side by side",
        "",
        "Written by `python benchmarks/engines.py`: what `weigh bench` says of one model of true shapes with random"
        " weights, as a checkpoint in BF16 and as a GGUF file in F16.",
        "",
        f"{date.today()}, {machine.cpu.model}, {machine.cpu.threads} cores, Python {platform.python_version()};"
        f" {model}; {versions}. {often} Speeds are by the"
        " client's clock, which all three have; all cores are each engine's own to use as it does by default.",
        "",
        "| | " + " | ".join(found) + " |",
        "| --- |" + " --: |" * len(found),
    ]
    for name, clock, words in ROWS:
        cells = [cell([value(run, name, clock) for run in runs]) for runs in found.values()]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    lines += [f"\n{name} was left out: {why}" for name, why in left_out.items()]
    problems = sorted({problem for runs in found.values() for run in runs for problem in run["problems"]})
    lines += [f"\nMeanwhile: {problem}." for problem in problems]
    return "\n".join(lines) + "\n"


def value(run: Mapping[str, Any], name: str, clock: str | None) -> tuple[float, str] | None:
    for one in run["measured"]:
        conditions = one["conditions"]
        if one["name"] != name or (clock and conditions.get("clock") != clock):
            continue
        if name == "cpu_cores_busy" and "output_tokens" not in conditions:
            continue
        return one["figure"]["value"], one["figure"]["unit"]
    return None


def cell(values: Sequence[tuple[float, str] | None]) -> str:
    told = [one for one in values if one is not None]
    if not told:
        return "not told"
    numbers, unit = sorted(number for number, _ in told), told[0][1]
    shown = [words(number, unit) for number in (statistics.median(numbers), numbers[0], numbers[-1])]
    return f"{shown[0]} ({shown[1]}–{shown[2]})" if shown[1] != shown[2] else shown[0]


def words(number: float, unit: str) -> str:
    if unit == "bytes":
        return units.gib(number)
    return units.seconds(number) if unit == "s" else f"{number:.3g}"


if __name__ == "__main__":
    main()
