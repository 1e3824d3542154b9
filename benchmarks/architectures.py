"""Every model of the catalog: parameters recomputed, what it keeps per token, and the engine's own layout.

    python benchmarks/architectures.py                         all models, about ten minutes
    python benchmarks/architectures.py --only Qwen3.5 gemma    models whose id holds one of these; prints alone
    python benchmarks/architectures.py --transformers PYTHON   parameters against transformers' own classes;
                                                               PYTHON is an interpreter that has torch and them

The engine lays each model out from a header-only file of true shapes (Q4_K_M, F16 cache, one sequence). It cuts
each figure to whole MiB. Tables go into docs/architectures.md, between their markers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from memory import replace_between

from weigh.engines.engine import Layout, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.errors import WeighError
from weigh.estimate.memory import MemoryEstimate, memory
from weigh.machine import probe
from weigh.model.breakdown import kv_bytes_per_token, window_bytes_per_token
from weigh.model.catalog import CatalogEntry, catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.synth.gguf import write_gguf
from weigh.units import KIB, MIB, count

DOCUMENT = Path(__file__).parents[1] / "docs" / "architectures.md"
COUNTS = Path(__file__).with_name("transformers_counts.py")
RECIPE = "Q4_K_M"
CONTEXTS = (4096, 32768)
LONG = 32768
# Tensors that only GGUF files have, or that transformers keeps as buffers, which are no parameters.
NOT_COUNTED = ("exp_probs_b", "rope_freqs", "rope_factors", "tid2eid", "v.std_", "layer_output_scale")


@dataclass
class Worst:
    """The largest deviations from the engine's layout, in percent, over the shapes of one architecture."""

    models: int = 0
    refused: str = ""
    weights: float = 0.0
    kv: float = 0.0
    compute: float = 0.0
    total: float = 0.0

    def take(self, ours: MemoryEstimate, theirs: Layout) -> None:
        total = ours.weights_bytes + ours.kv_cache_bytes + ours.compute_bytes
        # weights lie in up to two buffers, caches in up to five (DeepSeek V4): each loses up to one MiB
        self.weights = _worse(self.weights, ours.weights_bytes, theirs.weights_bytes, 2)
        self.kv = _worse(self.kv, ours.kv_cache_bytes, theirs.kv_cache_bytes, 5)
        self.compute = _worse(self.compute, ours.compute_bytes, theirs.compute_bytes, 1)
        self.total = _worse(self.total, total, theirs.total_bytes, 4)

    def row(self, architecture: str) -> str:
        if self.refused:
            return f"| {architecture} | {self.models} | {self.refused} | | | |"
        return (
            f"| {architecture} | {self.models} | {self.weights:+.2f} % | {self.kv:+.2f} % "
            f"| {self.compute:+.1f} % | {self.total:+.2f} % |"
        )


def _worse(known: float, ours: float, theirs: float, buffers: int) -> float:
    """The larger deviation; up to one MiB a buffer is what the engine cuts off, and counts as none."""
    if 0 <= ours - theirs < buffers * MIB:
        return known
    return max(known, 100 * (ours / theirs - 1) if theirs else 0.0, key=abs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--transformers", metavar="PYTHON")
    chosen = parser.parse_args()
    entries = [
        e for e in catalog().by_id.values() if not chosen.only or any(part in e.id for part in chosen.only)
    ]
    if chosen.transformers:
        tables = {"transformers": "\n".join(transformers_rows(chosen.transformers, entries))}
    else:
        tables = {"models": "\n".join(model_rows(entries)), "layout": "\n".join(layout_rows(entries))}
    for marker, table in tables.items():
        print(table)
        if not chosen.only:
            replace_between(DOCUMENT, marker, table)


# --- what is recomputed ------------------------------------------------------------------------------


def model_rows(entries: Sequence[CatalogEntry]) -> Iterator[str]:
    yield "| model | stated | recomputed | deviation | active | KV per token, first | at 32k | state |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: |"
    for entry in entries:
        yield _model_row(entry)


def _model_row(entry: CatalogEntry) -> str:
    if entry.recomputed is None:
        return f"| {entry.id} | {count(entry.stated_total or 0)} | {entry.explanation} | | | | | |"
    spec = entry.spec()
    stated = entry.stated_total
    deviation = f"{100 * (entry.recomputed / stated - 1):+.3f} %" if stated else ""
    first = kv_bytes_per_token(spec) + window_bytes_per_token(spec)
    state = 4 * sum(len(m.layers) * m.state_elements for m in spec.mixers)
    return (
        f"| {entry.id} | {count(stated) if stated else 'not said'} | {count(entry.recomputed)} | {deviation} "
        f"| {count(spec.active_parameters)} | {first / KIB:.4g} KiB | {_kv_per_token(spec, LONG) / KIB:.4g} KiB "
        f"| {f'{state / MIB:.1f} MiB' if state else '–'} |"
    )


def _kv_per_token(spec: ModelSpec, tokens: int) -> float:
    """Bytes of keys and values over `tokens`, without the engine's padding: windows spread over all of them."""
    window = next((m.window for m in spec.mixers if m.window), 0)
    return kv_bytes_per_token(spec) + window_bytes_per_token(spec) * min(1.0, window / tokens)


# --- the engine's layout -----------------------------------------------------------------------------


def layout_rows(entries: Sequence[CatalogEntry]) -> Iterator[str]:
    engine = EmbeddedLlamaCpp()
    cpu = probe().cpu
    features = engine.cpu_features(cpu.instruction_sets)
    found: dict[str, Worst] = {}
    seen: set[object] = set()
    for entry in entries:
        spec = entry.spec()
        worst = found.setdefault(spec.architecture, Worst())
        worst.models += 1
        shapes = (spec.architecture, spec.tensors, spec.mixers, spec.vocab)
        if not worst.refused and shapes not in seen:
            seen.add(shapes)  # models of one shape are laid out alike
            _compare(quantize(spec, RECIPE), engine, features, worst)
    yield f"{datetime.now(UTC):%Y-%m-%d}, {engine.version()}, {cpu.model}, contexts {CONTEXTS}."
    yield ""
    yield "| architecture | models | weights | KV cache and states | compute buffer | total |"
    yield "| --- | --: | --: | --: | --: | --: |"
    for architecture, worst in sorted(found.items()):
        yield worst.row(architecture)


def _compare(spec: ModelSpec, engine: EmbeddedLlamaCpp, features: Sequence[str], worst: Worst) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(spec, path, weights=False)
        for context in CONTEXTS if spec.generates else (512,):
            settings = Settings(context_tokens=context, mmap=False)  # the engine maps nothing to lay out
            try:
                worst.take(memory(spec, settings, features), engine.layout(path, settings))
            except WeighError as error:
                print(f"{spec.name}: {error.message[:200]}", file=sys.stderr)
                worst.refused = "the engine does not know it"
                return


# --- transformers ------------------------------------------------------------------------------------


def transformers_rows(python: str, entries: Sequence[CatalogEntry]) -> Iterator[str]:
    asked = json.dumps({entry.id: dict(entry.config) for entry in entries})
    done = subprocess.run([python, str(COUNTS)], input=asked, capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    same, rows = 0, []
    for entry in entries:
        theirs, ours = answers["models"][entry.id], _as_transformers_counts(entry)
        if "problem" in theirs:
            rows.append(f"| {entry.id} | {ours:,} | not built: {theirs['problem']} | |")
        elif theirs["parameters"] == ours:
            same += 1
        else:
            difference = ours - theirs["parameters"]
            rows.append(f"| {entry.id} | {ours:,} | {theirs['parameters']:,} | {difference:+,} |")
    yield (
        f"{datetime.now(UTC):%Y-%m-%d}, transformers {answers['version']}: {same} of {len(entries)} models "
        "have exactly as many parameters. The others:"
    )
    yield ""
    yield "| model | here | transformers | difference |"
    yield "| --- | --: | --: | --: |"
    yield from rows


def _as_transformers_counts(entry: CatalogEntry) -> int:
    """With encoders and poolers and without prediction layers, which transformers does not build."""
    spec = entry.spec()
    pooler = 0 if spec.generates else sum(entry.also_stated.values())
    tensors = (*spec.tensors, *(t for t in spec.beside if not t.name.startswith("mtp.")))
    counted = (t.total_elements for t in tensors if not any(part in t.name for part in NOT_COUNTED))
    return sum(counted) + pooler


if __name__ == "__main__":
    main()
