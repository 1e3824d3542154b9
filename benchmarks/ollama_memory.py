"""Memory under Ollama as published by others, against llama.cpp's formula with the settings Ollama would choose.

    python benchmarks/ollama_memory.py

No Ollama is run: the rows are in data/ollama_memory.csv, with their sources. The table goes into
docs/memory_ollama.md, between its markers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from weigh.estimate.device_memory import placed_memory
from weigh.estimate.memory import memory
from weigh.estimate.ollama import ollama_settings
from weigh.estimate.placement import Placement
from weigh.machine.target import Backend, Device, Target
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.model.resolve import resolve
from weigh.model.spec import ModelSpec
from weigh.units import GIB

HERE = Path(__file__).parent
ROWS, DOCUMENT = HERE / "data" / "ollama_memory.csv", HERE.parent / "docs" / "memory_ollama.md"
HOST = Device("a host", "", Backend.CPU, 64 * GIB, 60 * GIB)
CARDS_BYTES = {"RTX 5090": 32 * GIB, "RTX 3080": 10 * GIB, "RTX 3060": 12 * GIB}


def main() -> None:
    lines = ["| model | on | context | cache | computed GiB | reported | error |"]
    lines.append("| --- | --- | --: | --- | --: | --: | --: |")
    with ROWS.open() as file:
        lines += [_row(row) for row in csv.DictReader(file)]
    print("\n".join(lines))
    before, rest = DOCUMENT.read_text().split("<!-- rows -->\n", 1)
    after = rest.split("<!-- /rows -->", 1)[1]
    DOCUMENT.write_text(before + "<!-- rows -->\n" + "\n".join(lines) + "\n<!-- /rows -->" + after)


def _row(row: Mapping[str, str]) -> str:
    ours, reported = computed_bytes(row) / GIB, float(row["value_GiB"])
    cache = f"{row['kv_dtype'] or 'f16'}{', no flash attention' if row['flash_attention'] == '0' else ''}"
    name = row["model"].rpartition("/")[2] + " " + row["quantization"]
    return (
        f"| {name} | {row['device']} | {row['context']} | {cache} | {ours:.2f} | {reported:.2f} "
        f"| {ours / reported - 1:+.0%} |"
    )


def computed_bytes(row: Mapping[str, str]) -> int:
    """Total on the CPU; on a card, what it holds when all layers are there."""
    target = Target("as reported", HOST, tuple(_cards(row["device"])))
    spec = _model(row)
    environment = {"OLLAMA_KV_CACHE_TYPE": row["kv_dtype"], "OLLAMA_FLASH_ATTENTION": row["flash_attention"]}
    chosen = ollama_settings(spec, {"num_ctx": int(row["context"])}, environment, target)
    if not target.gpus:
        return memory(spec, chosen.settings, ("AVX2",)).total_bytes
    everything = Placement((spec.layers,), output_on_gpu=True)
    room = (HOST.free_bytes, target.gpus[0].free_bytes)
    return placed_memory(spec, chosen.settings, target, everything, available=room)[1].total_bytes


def _cards(name: str) -> Iterator[Device]:
    if name in CARDS_BYTES:
        size = CARDS_BYTES[name]
        yield Device(name, "NVIDIA", Backend.CUDA, size, size - GIB // 2, compute_capability="8.6")


def _model(row: Mapping[str, str]) -> ModelSpec:
    entry = catalog().by_id.get(row["model"])
    if entry is None:
        return resolve(f"{row['model']}:{row['quantization']}")
    return quantize(entry.spec(), row["quantization"])


if __name__ == "__main__":
    main()
