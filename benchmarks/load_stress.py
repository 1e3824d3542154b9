"""200 streaming clients for two minutes against a local server: does every stream come through, and how late are we?

    python benchmarks/load_stress.py                           writes the table of docs/load.md
    python benchmarks/load_stress.py --clients 20 --seconds 10  a try; prints only

The server is the embedded llama.cpp with a slot for every client, on SmolLM2-135M's shapes shortened to two layers with
random weights and a small vocabulary: cheap to compute, so that streams, not the model, are what is hard.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import psutil

from weigh import units
from weigh.bench.arrivals import Lengths
from weigh.bench.latency import Percentile
from weigh.bench.load import Asked
from weigh.bench.load_run import run_load
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.engines.openai_api import OpenAiModel
from weigh.machine import probe
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.synth.files import synthetic_file
from weigh.synth.shortened import shortened

DOCUMENT = Path(__file__).parents[1] / "docs" / "load.md"
MODEL, RECIPE, LAYERS, VOCAB = "HuggingFaceTB/SmolLM2-135M-Instruct", "Q4_K_M", 2, 2048
PROMPT, OUTPUT = Lengths(32, 128), Lengths(64, 256)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120.0)
    given = parser.parse_args()
    spec = shortened(quantize(catalog().by_id[MODEL].spec(), RECIPE), LAYERS, vocab=VOCAB)
    settings = Settings(context_tokens=PROMPT.most + OUTPUT.most, parallel=given.clients)
    engine, this = EmbeddedLlamaCpp(), psutil.Process()
    with (
        tempfile.TemporaryDirectory() as folder,
        synthetic_file(spec, Path(folder)) as path,
        engine.start(path, settings, Limits()) as session,
    ):
        asked = Asked(clients=given.clients, seconds=given.seconds, prompt=PROMPT, output=OUTPUT, drain_s=60)
        before_bytes = this.memory_info().rss
        load = run_load(OpenAiModel(session.url), asked, check=session.check)
        grown_bytes = this.memory_info().rss - before_bytes
        server = session.memory()
    (level,) = load.levels
    machine = probe()
    rows = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine.cpu.model}, {os.cpu_count()} processors for server and client"
        f" together, Python {platform.python_version()}, {engine.version()}, {LAYERS} layers of {MODEL} at {RECIPE}.",
        "",
        "| what | |",
        "| --- | --- |",
        f"| clients, seconds | {given.clients}, {given.seconds:g} |",
        f"| requests (of them warm-up) | {len(level.requests):,} ({level.warm_up:,}) |",
        f"| failed | {level.failed} {', '.join(level.failures)} |",
        f"| tokens | {sum(len(one.pieces.token_times_s) for one in level.requests):,} |",
        f"| tokens/s, requests/s | {level.output_tokens_per_s:,.0f}, {level.completed_per_s:.1f} |",
        f"| first token, p50 and p99 | {ends(level.latencies['ttft_s'])} |",
        f"| gap between tokens, p50 and p99 | {ends(level.latencies['itl_s'])} |",
        f"| weigh read late, p50 and p99 | {ms(level.client_lag_s[0])}, {ms(level.client_lag_s[1])} |",
        f"| weigh took | {level.client_cores:.2f} of a core, {units.gib(grown_bytes)} more memory |",
        f"| server's memory at most | {units.gib(server.peak_bytes)} |",
        f"| ended early | {load.ended or 'no'} |",
    ]
    print("\n".join(rows))
    if given.clients == 200 and given.seconds == 120:
        replace_between(DOCUMENT, "stress", "\n".join(rows))


def ends(found: tuple[Percentile, ...]) -> str:
    return f"{ms(found[0].value)}, {ms(found[-1].value)}"


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else units.seconds(seconds)


def replace_between(document: Path, marker: str, text: str) -> None:
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, found, rest = document.read_text().partition(start)
    if not found or end not in rest:
        raise SystemExit(f"{document} has no place marked `{marker}`")
    document.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
