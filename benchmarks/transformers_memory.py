"""Estimated memory under Hugging Face transformers against published rows, and against real runs on this CPU.

    pip install torch==2.13.0 transformers==5.23.0 safetensors accelerate
    python benchmarks/transformers_memory.py --published   every row of src/weigh/data/memory.csv
    python benchmarks/transformers_memory.py --run         models of true shapes, written here and run
    python benchmarks/transformers_memory.py --run Qwen/Qwen3-0.6B

Nothing is downloaded: `--run` writes each model with its weights all zero, which changes no size, loads it
in a process of its own, and deletes it; what it measured goes into transformers_runs.csv. `--published` needs
weigh alone. Tables go into docs/memory_transformers.md, between their markers.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from weigh.estimate.engine_memory import EngineMemory
from weigh.estimate.transformers import AttentionCode, release, split_memory, transformers_memory
from weigh.machine.process_memory import Resident, resident
from weigh.machine.target import Backend, Device
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import stored
from weigh.units import GIB, MIB

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "memory_transformers.md"
ROWS = ROOT / "src" / "weigh" / "data" / "memory.csv"
RUNS = ROOT / "benchmarks" / "transformers_runs.csv"  # what --run measured last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--run", nargs="*", metavar="MODEL")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(json.loads(chosen.child))
        return
    if chosen.published:
        for marker, table in published_tables():
            write(marker, table)
    if chosen.run is not None:
        measure(chosen.run)
    if chosen.run is not None or chosen.published:
        write("runs", list(run_rows()))


def write(marker: str, table: list[str]) -> None:
    print("\n".join(table), flush=True)
    text = DOCUMENT.read_text()
    start, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
    before, after = text.index(start) + len(start), text.index(end)
    DOCUMENT.write_text(text[:before] + "\n".join(table) + "\n" + text[after:])


# --- published rows -----------------------------------------------------------------------------------

A100 = Device("A100", "NVIDIA", Backend.CUDA, 80 * GIB, 80 * GIB, compute_capability="8.0")
H20 = Device("H20", "NVIDIA", Backend.CUDA, 96 * GIB, 96 * GIB, compute_capability="9.0")
RTX_3090 = Device("RTX 3090", "NVIDIA", Backend.CUDA, 24 * GIB, 24 * GIB, compute_capability="8.6")

# Of Qwen's first models, which are not in the catalog: their shapes are those of Qwen2's code with all heads
# cached. From memory; the parameters come out as published (1.84, 7.72 and 72.3 billion).
_FIRST_QWEN = {
    "Qwen-1.8B": (24, 2048, 5504, 16, 151936),
    "Qwen-7B": (32, 4096, 11008, 32, 151936),
    "Qwen-72B": (80, 8192, 24576, 64, 152064),
}


class Published(NamedTuple):
    """A row of memory.csv and what weigh says to it, in GiB."""

    row: Mapping[str, str]
    estimate_gib: float

    @property
    def error_pct(self) -> float:
        return 100 * (self.estimate_gib / float(self.row["value_GiB"]) - 1)


def published_tables() -> Iterator[tuple[str, list[str]]]:
    groups: dict[str, list[Published]] = defaultdict(list)
    for row in csv.DictReader(ROWS.open()):
        if row["engine"].startswith("transformers") and not row["left_out"]:
            groups[_group(row)].append(Published(row, _estimate(row) / GIB))
    yield "summary", list(_summary(groups))
    for group in ("speed-pages", "qwen3", "first-qwen"):
        yield group, list(_by_model(groups[group]))


def _group(row: Mapping[str, str]) -> str:
    if "speed_benchmark.rst" in row["source"]:
        return "speed-pages"
    return "qwen3" if row["model"].startswith("Qwen3") else "first-qwen"


def _estimate(row: Mapping[str, str]) -> int:
    """Bytes on all devices: what PyTorch counts, as the speed pages do; what the card holds for the 3090."""
    device = {"NVIDIA H20": H20, "NVIDIA GeForce RTX 3090": RTX_3090}.get(row["device"], A100)
    parts = _estimates(row, device)
    return sum(int(p.total.value) if device is RTX_3090 else p.allocated_bytes for p in parts)


def _estimates(row: Mapping[str, str], device: Device) -> tuple[EngineMemory, ...]:
    attention: AttentionCode = "flash_attention_2" if device is not RTX_3090 else "sdpa"
    prompt = int(row["input_tokens"])
    return split_memory(
        _spec(row),
        prompt_tokens=prompt,
        output_tokens=int(row["output_tokens"]),
        batch=int(row["batch"]),
        devices=(device,) * int(row["n_gpu"]),
        attention="sdpa" if row["model"].startswith("Qwen3") and "AWQ" in row["quantization"] else attention,
        kv_dtype_bytes=1 if row["kv_dtype"] == "int8" else 2,
        version=release(row["version"].removeprefix("transformers ") if "." in row["version"] else "4.38"),
        # the page's own figures leave no room for a prompt in one pass: see the document
        prefill_chunk_tokens=2048 if row["model"].startswith("Qwen3") else None,
    )


def _spec(row: Mapping[str, str]) -> ModelSpec:
    if row["model"] in _FIRST_QWEN:
        layers, hidden, inner, heads, vocab = _FIRST_QWEN[row["model"]]
        config = {
            "model_type": "qwen2",
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": vocab,
            "tie_word_embeddings": False,
            "max_position_embeddings": 8192,
        }
        spec = spec_from_config(row["model"], config)
    else:
        spec = catalog().by_id[row["model_id"]].spec()
    return spec if row["quantization"] == "BF16" else stored(spec, row["quantization"])


def _summary(groups: Mapping[str, list[Published]]) -> Iterator[str]:
    pages = groups["speed-pages"]
    one = [p for p in pages if p.row["n_gpu"] == "1"]
    several = [p for p in pages if p.row["n_gpu"] != "1"]
    yield "| rows | how many | median error | worst | beyond 5 % |"
    yield "| --- | --: | --: | --: | --: |"
    for name, rows in (
        ("Qwen2 and Qwen2.5 pages, one GPU", one),
        ("the same, two and three GPUs", several),
        ("Qwen3 page, prompt taken to be fed in chunks", groups["qwen3"]),
        ("first Qwen and one blog, PyTorch and code unknown", groups["first-qwen"]),
    ):
        errors = [abs(p.error_pct) for p in rows]
        beyond = sum(error > 5 for error in errors)
        yield f"| {name} | {len(rows)} | {statistics.median(errors):.1f} % | {max(errors):.1f} % | {beyond} |"


def _by_model(rows: list[Published]) -> Iterator[str]:
    """One line per model, number format and number of GPUs: published, estimated and error at each length."""
    lines: dict[tuple[str, ...], list[Published]] = defaultdict(list)
    for row in rows:
        key = tuple(
            row.row[k] for k in ("model", "quantization", "n_gpu", "kv_dtype", "batch", "output_tokens")
        )
        lines[key].append(row)
    yield "| model | format | GPUs | prompt + generated x batch: published / estimated GiB (error) |"
    yield "| --- | --- | --: | --- |"
    for (model, quantization, gpus, kv_dtype, batch, output), found in lines.items():
        cells = (
            f"{p.row['input_tokens']}+{output}{f' x {batch}' if batch != '1' else ''}: "
            f"{float(p.row['value_GiB']):.2f} / {p.estimate_gib:.2f} ({p.error_pct:+.1f} %)"
            for p in found
        )
        cached = ", INT8 cache" if kv_dtype == "int8" else ""
        yield f"| {model} | {quantization}{cached} | {gpus} | {'; '.join(cells)} |"


# --- real runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model of the catalog, cut to `layers`, and what it is asked."""

    model: str
    layers: int | None = None
    prompt_tokens: int = 1024
    output_tokens: int = 8
    batch: int = 1
    attention: AttentionCode = "sdpa"

    def __str__(self) -> str:
        return f"{self.model}: {self.asked}"

    @property
    def asked(self) -> str:
        cut = f"{self.layers} layers, " if self.layers else ""
        batch = f" x {self.batch}" if self.batch > 1 else ""
        return f"{cut}{self.prompt_tokens}+{self.output_tokens}{batch}, {self.attention}"

    @property
    def config(self) -> dict[str, object]:
        config = {k: v for k, v in catalog().by_id[self.model].config.items() if v is not None}
        if self.layers:
            config["num_hidden_layers"] = self.layers
            config.pop("layer_types", None)
        return config

    def estimate(self) -> EngineMemory:
        return transformers_memory(
            spec_from_config(self.model, self.config),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            batch=self.batch,
            attention=self.attention,
        )


CASES = (
    Case("Qwen/Qwen2.5-0.5B-Instruct"),
    Case("Qwen/Qwen2.5-0.5B-Instruct", prompt_tokens=4096, output_tokens=4),
    Case("Qwen/Qwen2.5-0.5B-Instruct", prompt_tokens=64, output_tokens=128),
    Case("Qwen/Qwen2.5-0.5B-Instruct", attention="eager"),
    Case("Qwen/Qwen2.5-0.5B-Instruct", batch=8, prompt_tokens=256),
    Case("Qwen/Qwen3-0.6B"),
    Case("meta-llama/Llama-3.2-1B-Instruct"),
    Case("google/gemma-3-1b-it"),
    Case("Qwen/Qwen3-30B-A3B", layers=1),
    Case("deepseek-ai/DeepSeek-V2-Lite", layers=3),
)


class Watch(threading.Thread):
    """Highest private bytes of a process since `reset`, looked up every other millisecond."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.over = pid, Resident(), False

    def run(self) -> None:
        while not self.over:
            now = resident(self.pid)
            self.peak = max(self.peak, now, key=lambda r: r.private_bytes)
            time.sleep(0.002)


def measure(models: list[str]) -> None:
    """Run the cases and keep what was measured, in place of what was measured of them before."""
    kept = {row["case"]: row for row in csv.DictReader(RUNS.open())} if RUNS.exists() else {}
    for case in CASES:
        if not models or case.model in models:
            kept[str(case)] = _measured(case)
            print(kept[str(case)], file=sys.stderr, flush=True)
    with RUNS.open("w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(kept.values())), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())


def _measured(case: Case) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        told = {"folder": folder, "config": case.config, "attention": case.attention}
        said = told | {"batch": case.batch, "prompt": case.prompt_tokens, "new": case.output_tokens}
        _child(said | {"what": "write"})
        watch, facts = _child(said | {"what": "generate"})
        facts |= _child(said | {"what": "trace"})[1] | {"peak_private": watch.peak.private_bytes}
    figures = {f"{name}_MiB": f"{value / MIB:.0f}" for name, value in facts.items()}
    return {"case": str(case), "date": f"{datetime.now(UTC):%Y-%m-%d}"} | figures


def run_rows() -> Iterator[str]:
    yield (
        "| model | asked | tensors: estimated | traced | private: estimated | measured | error "
        "| with mapped pages: estimated | measured | error |"
    )
    yield "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |"
    measured = {row["case"]: row for row in csv.DictReader(RUNS.open())}
    yield from (_run_row(case, measured[str(case)]) for case in CASES if str(case) in measured)


def _run_row(case: Case, measured: Mapping[str, str]) -> str:
    ours = case.estimate()
    moving = ours.kv_cache_bytes + ours.activations_bytes
    private, peak = float(measured["peak_private_MiB"]), float(measured["peak_MiB"])
    own, all_pages = (figure / MIB for figure in (ours.total.value - ours.mapped_bytes, ours.total.value))
    return (
        f"| {case.model.split('/')[1]} | {case.asked} | {moving / MIB:.0f} | {measured['tensors_MiB']} "
        f"| {own:.0f} | {private:.0f} | {100 * (own / private - 1):+.1f} % "
        f"| {all_pages:.0f} | {peak:.0f} | {100 * (all_pages / peak - 1):+.1f} % |"
    )


def _child(task: Mapping[str, object]) -> tuple[Watch, dict[str, int]]:
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    quiet = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # threads that wait leave the cores to others
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet) as process:
        watch = Watch(process.pid)
        watch.start()
        assert process.stdout is not None
        printed = process.stdout.read()
        watch.over = True
    if process.returncode:
        raise SystemExit(f"{task['what']} failed")
    return watch, json.loads(printed.splitlines()[-1])


def child(task: Mapping[str, object]) -> None:
    """One step in a process of its own; prints what it found, in bytes, as JSON."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    import transformers

    transformers.logging.set_verbosity_error()
    print(json.dumps({"write": write_model, "generate": generate, "trace": trace}[str(task["what"])](task)))


def write_model(task: Mapping[str, object]) -> dict[str, int]:
    """Save a model whose weights are zero; pages never written take no memory until then."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(task["config"])  # type: ignore[call-overload]
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu").tie_weights()
    model.save_pretrained(task["folder"])
    return {}


def _loaded(task: Mapping[str, object]):  # type: ignore[no-untyped-def]
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        task["folder"], dtype="auto", attn_implementation=task["attention"]
    ).eval()
    ids = torch.full((task["batch"], task["prompt"]), 7)  # type: ignore[call-overload]
    return model, ids


def _generated(model, ids, new: object):  # type: ignore[no-untyped-def]
    import torch

    said = {"attention_mask": torch.ones_like(ids), "do_sample": False, "return_dict_in_generate": True}
    with torch.inference_mode():
        return model.generate(ids, max_new_tokens=new, min_new_tokens=new, **said)


def generate(task: Mapping[str, object]) -> dict[str, int]:
    """Load and generate as a program would; the kernel keeps the peak of resident memory."""
    model, ids = _loaded(task)
    loaded = resident(os.getpid())
    _generated(model, ids[:, :8], 2)
    warm = resident(os.getpid())
    _generated(model, ids, task["new"])
    return {
        "loaded_private": loaded.private_bytes,
        "loaded_peak": loaded.peak_bytes,
        "warm_private": warm.private_bytes,
        "warm_file": warm.file_bytes,
        "peak": resident(os.getpid()).peak_bytes,
    }


def trace(task: Mapping[str, object]) -> dict[str, int]:
    """The most that PyTorch's CPU allocator had given out at once, beside the weights."""
    from torch.profiler import ProfilerActivity, profile

    model, ids = _loaded(task)
    _generated(model, ids[:, :8], 2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        _generated(model, ids, 2)
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return {"tensors": peak}


if __name__ == "__main__":
    main()
