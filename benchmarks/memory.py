"""Estimated memory against what the embedded llama.cpp says it would allocate, model by model.

    python benchmarks/memory.py            the six models of docs/memory.md, at two contexts
    python benchmarks/memory.py --all      every model of the catalog that weigh supports
    python benchmarks/memory.py --resident a real run: resident memory predicted and measured, mapped and not

The engine lays the model out from a header-only file of true shapes. It cuts each figure to whole MiB, so
it may fall short by one MiB in each column. Tables go into docs/memory.md, between their markers.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from weigh.engines.engine import Layout, Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.errors import WeighError
from weigh.estimate.memory import MemoryEstimate, memory
from weigh.machine import probe
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.synth.gguf import write_gguf
from weigh.units import MIB

DOCUMENT = Path(__file__).parents[1] / "docs" / "memory.md"
MODELS = (
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "microsoft/Phi-3-mini-4k-instruct",
    "Qwen/Qwen3-30B-A3B",
)
CONTEXTS = (4096, 32768)
RECIPE = "Q4_K_M"
RESIDENT = "meta-llama/Llama-3.2-1B-Instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--resident", action="store_true")
    chosen = parser.parse_args()
    engine = EmbeddedLlamaCpp()
    cpu = probe().cpu
    features = engine.cpu_features(cpu.instruction_sets)
    said = f"{datetime.now(UTC):%Y-%m-%d}, {engine.version()}, {cpu.model}, {platform.system()}."
    if chosen.resident:
        marker, rows = "resident", resident_rows(engine, features)
    elif chosen.all:
        marker, rows = "all", all_rows(engine, features)
    else:
        marker, rows = "six", six_rows(engine, features)
    table = [said, ""]
    for row in rows:
        print(row, flush=True)
        table.append(row)
    replace_between(DOCUMENT, marker, "\n".join(table))


def six_rows(engine: EmbeddedLlamaCpp, features: Collection[str]) -> Iterator[str]:
    yield "| model | context | weights | KV cache | compute | total | error |"
    yield "| --- | --: | --: | --: | --: | --: | --: |"
    for model, settings, ours, theirs in pairs(engine, features, MODELS):
        yield _row(model, settings, ours, theirs)


def all_rows(engine: EmbeddedLlamaCpp, features: Collection[str]) -> Iterator[str]:
    """One line per architecture: how many shapes, and the worst of them."""
    worst: dict[str, tuple[int, float, float]] = {}
    models = [entry.id for entry in catalog() if entry.unsupported is None]
    for model, _, ours, theirs in pairs(engine, features, models):
        architecture = catalog().by_id[model].spec().architecture
        count, total, compute = worst.get(architecture, (0, 0.0, 0.0))
        total = max(total, _error(_engine_total(ours), theirs.total_bytes), key=abs)
        compute = max(compute, _error(ours.compute_bytes, theirs.compute_bytes), key=abs)
        worst[architecture] = (count + 1, total, compute)
    yield "| architecture | cases | worst total | worst compute buffer |"
    yield "| --- | --: | --: | --: |"
    for architecture, (count, total, compute) in sorted(worst.items()):
        yield f"| {architecture} | {count} | {total:+.2f} % | {compute:+.1f} % |"


def pairs(
    engine: EmbeddedLlamaCpp, features: Collection[str], models: Collection[str]
) -> Iterator[tuple[str, Settings, MemoryEstimate, Layout]]:
    """Estimate and layout of every model at every context; what the engine refuses goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            spec = quantize(catalog().by_id[model].spec(), RECIPE)
            path = Path(folder) / "model.gguf"
            write_gguf(spec, path, weights=False)
            for context in CONTEXTS:
                settings = Settings(context_tokens=context, mmap=False)  # the engine maps nothing to lay out
                try:
                    layout = engine.layout(path, settings)
                except WeighError as error:
                    print(f"{model}: {error}", file=sys.stderr)
                    break
                yield model, settings, memory(spec, settings, features), layout
            path.unlink()


def resident_rows(engine: EmbeddedLlamaCpp, features: Collection[str]) -> Iterator[str]:
    yield "| model | file | private: predicted | measured | with mapped pages: predicted | measured |"
    yield "| --- | --- | --: | --: | --: | --: |"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        spec = quantize(catalog().by_id[RESIDENT].spec(), RECIPE)
        write_gguf(spec, path)
        for mmap in (True, False):
            settings = Settings(context_tokens=4096, mmap=mmap)
            ours = memory(spec, settings, features)
            with engine.start(path, settings, Limits()) as session:
                session.generate([n % 200 + 5 for n in range(1024)], 8)
                taken = session.memory()
            yield (
                f"| {RESIDENT} | {'mapped' if mmap else 'read'} "
                f"| {ours.private_bytes / MIB:.0f} | {taken.peak_private_bytes / MIB:.0f} "
                f"| {ours.resident_bytes / MIB:.0f} | {taken.peak_bytes / MIB:.0f} |"
            )


def _row(model: str, settings: Settings, ours: MemoryEstimate, theirs: Layout) -> str:
    total = _engine_total(ours)
    columns = (
        (ours.weights_bytes, theirs.weights_bytes),
        (ours.kv_cache_bytes, theirs.kv_cache_bytes),
        (ours.compute_bytes, theirs.compute_bytes),
        (total, theirs.total_bytes),
    )
    cells = " | ".join(f"{a / MIB:.1f} / {b / MIB:.0f}" for a, b in columns)
    error = _error(total, theirs.total_bytes)
    return f"| {model.split('/')[1]} | {settings.context_tokens} | {cells} | {error:+.3f} % |"


def _engine_total(estimate: MemoryEstimate) -> int:
    """The part of the estimate that the engine reports."""
    return estimate.weights_bytes + estimate.kv_cache_bytes + estimate.compute_bytes


def _error(ours: float, theirs: float) -> float:
    """In percent of `theirs`."""
    return 100 * (ours / theirs - 1)


def replace_between(document: Path, marker: str, text: str) -> None:
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, found, rest = document.read_text().partition(start)
    if not found or end not in rest:
        raise SystemExit(f"{document} has no place marked `{marker}`")
    document.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
