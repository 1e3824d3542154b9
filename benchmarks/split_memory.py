"""Memory per device as weigh has it, against what llama-server lays out for the same arguments.

    python benchmarks/split_memory.py                    a few models, every kind of split: one row per device
    python benchmarks/split_memory.py --architectures    one model of each architecture: the worst deviations
    python benchmarks/split_memory.py --rpc HOST:PORT,HOST:PORT    two RPC servers as the GPUs, files small and real
    python benchmarks/split_memory.py --reported memory.csv    against peaks of VRAM that people reported

No GPU is needed. llama-server lays a model out without allocating anything (its fit step), so a software Vulkan
device stands in for a GPU: it takes the code paths of one (pinned host memory, offloaded products, flash
attention, events). Debian has the parts: `llama.cpp-tools`, `libggml0-backend-vulkan`, `mesa-vulkan-drivers`, and
`llama.cpp-tools-extra` for `ggml-rpc-server`. Where they are elsewhere, name the server with its wrapper:

    python benchmarks/split_memory.py --server "bwrap ... llama-server"

A C compiler lifts the device's limit on buffer sizes (see wide_storage.c); without one, models with large matrices
are not comparable. Tables go into docs/splits.md, between their markers.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from memory import replace_between

from weigh.engines.engine import Settings
from weigh.errors import WeighError
from weigh.estimate.device_memory import placed_memory
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.estimate.split import arguments
from weigh.machine.target import Backend, Device, Target
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import MixerKind, ModelSpec
from weigh.synth.files import synthetic_file
from weigh.units import GIB, MIB

DOCUMENT = Path(__file__).parents[1] / "docs" / "splits.md"
SHIM = Path(__file__).with_name("wide_storage.c")
RECIPE = "Q4_K_M"
LAYOUT_S = 90.0
Q8 = {"kv_type_k": GgmlType.Q8_0, "kv_type_v": GgmlType.Q8_0}

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",  # dense, an output matrix of its own
    "meta-llama/Llama-3.2-1B-Instruct",  # tied
    "Qwen/Qwen3-30B-A3B",  # mixture of experts
    "google/gemma-3-4b-it",  # sliding windows
    "deepseek-ai/DeepSeek-V2-Lite",  # MLA, experts
    "Qwen/Qwen3-Next-80B-A3B-Instruct",  # linear attention, experts
)
LARGEST_FILE_PARAMETERS = 250e9


@dataclass(frozen=True)
class Case:
    """A split, and the settings it is laid out under."""

    layers: tuple[int, ...]
    experts_in_ram: int = 0
    settings: Settings = Settings()  # noqa: RUF009 - frozen

    @property
    def placement(self) -> Placement:
        return Placement(self.layers, output_on_gpu=True, experts_in_ram=self.experts_in_ram)


@dataclass(frozen=True)
class Said:
    """MiB the engine says it would allocate on a device; weights and cache cut to whole ones."""

    weights: float
    cache: float
    compute: float

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", action="store_true")
    parser.add_argument("--rpc", metavar="HOST:PORT,HOST:PORT")
    parser.add_argument("--reported", type=Path, metavar="CSV")
    parser.add_argument("--server", default="llama-server", help="command of llama-server, with any wrapper")
    parser.add_argument("--folder", type=Path, help="for model files; the wrapper has to see it")
    chosen = parser.parse_args()
    if chosen.reported:
        replace_between(DOCUMENT, "reported", "\n".join(reported_rows(chosen.reported)))
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        server = Server(shlex.split(chosen.server), Path(folder), rpc=chosen.rpc)
        if chosen.rpc:
            marker, rows = "rpc", rpc_rows(server)
        elif chosen.architectures:
            marker, rows = "architectures", architecture_rows(server)
        else:
            marker, rows = "splits", detailed_rows(server)
        table = [f"{datetime.now(UTC):%Y-%m-%d}, {server.version}, {platform.system()}.", ""]
        for row in rows:
            print(row, flush=True)
            table.append(row)
    replace_between(DOCUMENT, marker, "\n".join(table))


# --- the engine -----------------------------------------------------------------------------------------


class Server:
    """llama-server with two GPUs that are none."""

    def __init__(self, command: Sequence[str], folder: Path, *, rpc: str | None) -> None:
        if shutil.which(command[0]) is None:
            raise SystemExit(f"`{command[0]}` is not there; see --help for what to install")
        self.command, self.folder, self.rpc = list(command), folder, rpc
        self.environment = os.environ | {
            "GGML_VK_VISIBLE_DEVICES": "" if rpc else "0,0",
            # Vulkan reorders operations, which CUDA does not: the scratch buffer is CUDA's without it
            "GGML_VK_DISABLE_GRAPH_OPTIMIZE": "1",
            # nor does CUDA cut a scratch buffer in blocks of 1 GiB
            "GGML_VK_SUBALLOCATION_BLOCK_SIZE": str(1 << 40),
            "GGML_VK_FORCE_MAX_ALLOCATION_SIZE": str(1 << 40),
        }
        if not rpc and (shim := _shim(folder)):
            self.environment["LD_PRELOAD"] = str(shim)
        self.version = self._version()

    def _version(self) -> str:
        listed = self._run("--version").stderr.splitlines()
        version = next((line for line in listed if "version:" in line), "version unknown").strip()
        if not self.rpc and "Vulkan1" not in self._run("--list-devices").stdout:
            raise SystemExit("llama-server sees no Vulkan device; see --help for what to install")
        return f"llama-server {version}"

    def _run(self, *given: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *given]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=LAYOUT_S, check=False
        )

    def log(self, model: Path, given: Sequence[str]) -> str:
        """What it says until it has said how it lays the model out; then it is ended."""
        rpc = ("--rpc", self.rpc) if self.rpc else ()
        command = [*self.command, "-m", str(model), "-v", "--no-warmup", "--port", "0", *rpc, *given]
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        ending = threading.Timer(LAYOUT_S, process.kill)
        ending.start()
        try:
            assert process.stdout is not None
            return "".join(_until_laid_out(process.stdout, to_the_end=bool(self.rpc)))
        finally:
            ending.cancel()
            process.kill()
            process.wait()


def _until_laid_out(lines: Iterator[str], *, to_the_end: bool) -> Iterator[str]:
    table = False
    for line in lines:
        yield line
        if to_the_end:
            if "server is listening" in line or "listening on" in line:
                return
            continue
        inside = "memory_breakdown_print" in line
        if table and not inside:
            return
        table = table or (inside and "- Host" in line)


def _shim(folder: Path) -> Path | None:
    compiler, built = shutil.which("cc"), folder / "wide_storage.so"
    if compiler is None:
        print("no C compiler: matrices above 128 MiB will stay in RAM", file=sys.stderr)
        return None
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(SHIM), "-ldl"], check=True)
    return built


_COMPUTE = re.compile(r"sched_reserve: +(\S+) compute buffer size = +([\d.]+) MiB")
_ROW = re.compile(r"breakdown_print: \|   - (\S+) .*?(\d+) = +(\d+) \+ +(\d+) \+ +(\d+)")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers")
_SPLITS = re.compile(r"sched_reserve: graph.*?splits = (\d+)")
_MODEL = re.compile(r"load_tensors: +(\S+) model buffer size = +([\d.]+) MiB")
_KV = re.compile(r"(?:llama_kv_cache|llama_memory_recurrent)\S*: +(\S+) \w+ buffer size = +([\d.]+) MiB")


def said(log: str) -> dict[str, Said]:
    """What each device would hold, by the engine's name of it; RAM is `Host`."""
    compute = {name: float(mib) for name, mib in _COMPUTE.findall(log)}
    found = {}
    for name, _, weights, cache, scratch in _ROW.findall(log):
        exact = next((v for k, v in compute.items() if k == name or (name == "Host" and "_Host" in k)), None)
        found[name] = Said(float(weights), float(cache), exact if exact is not None else float(scratch))
    return found


# --- the comparison -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighed:
    """One case, from both sides.

    Attributes:
        offloaded: layers on GPUs, of all, as the engine says it.
        parts: how often the graph changes device.
    """

    ours: tuple[DeviceMemory, ...]
    theirs: dict[str, Said]
    offloaded: str
    parts: int


def weighed(spec: ModelSpec, case: Case, server: Server, model: Path) -> Weighed:
    target = _target(len(case.layers))
    everywhere = (0,) * (len(target.gpus) + 1)
    ours = placed_memory(spec, case.settings, target, case.placement, available=everywhere)
    given = arguments(case.placement, target, spec, case.settings)
    if len(case.layers) == 1:  # the other device is to be left alone
        given = (*given, "-sm", "none", "-mg", "0")
    log = server.log(model, given)
    offloaded, parts = _OFFLOADED.search(log), _SPLITS.search(log)
    layers = "/".join(offloaded.groups()) if offloaded else "?"
    return Weighed(ours, said(log), layers, int(parts[1]) if parts else 0)


def _target(gpus: int) -> Target:
    host = Device("Host", "", Backend.CPU, 1 << 40, 1 << 40)
    return Target(
        "", host, tuple(Device(f"Vulkan{i}", "", Backend.VULKAN, 1 << 40, 1 << 40) for i in range(gpus))
    )


def cases(spec: ModelSpec) -> Iterator[Case]:
    """Everything on one GPU, half of it, everything on two, half of it at a longer context, experts in RAM, and
    four sequences with a quantized cache."""
    layers, short, long = spec.layers, Settings(context_tokens=4096), Settings(context_tokens=16384)
    half = layers // 2
    yield Case((layers,), settings=short)
    yield Case((half,), settings=short)
    yield Case((layers - half, half), settings=short)
    yield Case((half // 2, half // 2), settings=long)
    if spec.experts:
        yield Case((layers,), experts_in_ram=half, settings=short)
        yield Case((layers - half, half), experts_in_ram=half // 2, settings=long)
    # Vulkan cannot multiply an MLA model's values of several sequences at once, which CUDA can
    latent = any(mixer.kind is MixerKind.LATENT for mixer in spec.mixers)
    yield Case((layers - half, half), settings=replace(short, parallel=1 if latent else 4, **Q8))


def detailed_rows(server: Server) -> Iterator[str]:
    yield "| model | layers on GPUs | settings | said | device | weights | cache | scratch | total |"
    yield "| --- | --- | --- | --: | --- | --: | --: | --: | --: |"
    for name in MODELS:
        spec = quantize(catalog().by_id[name].spec(), RECIPE)
        with synthetic_file(spec, server.folder, weights=False) as model:
            for case in cases(spec):
                found = weighed(spec, case, server, model)
                for memory in found.ours:
                    if memory.device in found.theirs:
                        theirs = found.theirs[memory.device]
                        yield _row(name, spec, case, found.offloaded, memory, theirs)


def _row(name: str, spec: ModelSpec, case: Case, offloaded: str, memory: DeviceMemory, theirs: Said) -> str:
    ours = _comparable(memory, spec, case)
    error = 100 * (ours.total / theirs.total - 1)
    scratch = 100 * (ours.compute / theirs.compute - 1) if theirs.compute else 0.0
    return (
        f"| {name.split('/')[1]} | {_split_said(case)} | {_settings_said(case.settings)} | {offloaded} "
        f"| {memory.device} | {ours.weights:.1f} / {theirs.weights:.0f} | {ours.cache:.1f} / {theirs.cache:.0f} "
        f"| {ours.compute:.2f} / {theirs.compute:.2f} ({scratch:+.1f} %) | {error:+.2f} % |"
    )


def _comparable(memory: DeviceMemory, spec: ModelSpec, case: Case) -> Said:
    """The part of the estimate that the engine reports: its table leaves out the logits handed out."""
    logits = 4 * spec.vocab * case.settings.parallel if memory.device == "Host" else 0
    scratch = memory.compute_bytes - logits
    return Said(memory.weights_bytes / MIB, memory.kv_cache_bytes / MIB, scratch / MIB)


def _split_said(case: Case) -> str:
    counts = " + ".join(map(str, case.layers))
    return f"{counts}, experts of {case.experts_in_ram} in RAM" if case.experts_in_ram else counts


def _settings_said(settings: Settings) -> str:
    cache = "" if settings.kv_type_k is GgmlType.F16 else f", {settings.kv_type_k.name.lower()}"
    return f"{settings.context_tokens} x {settings.parallel}{cache}"


def architecture_rows(server: Server) -> Iterator[str]:
    """The worst of all devices and cases, for the smallest model of each architecture."""
    yield "| architecture | model | devices compared | worst total | worst scratch | remark |"
    yield "| --- | --- | --: | --: | --: | --- |"
    for architecture, name in sorted(_smallest_of_each().items()):
        spec = quantize(catalog().by_id[name].spec(), RECIPE)
        with synthetic_file(spec, server.folder, weights=False) as model:
            chosen = list(cases(spec))[2:]  # those on two GPUs, and with experts in RAM
            found = [(case, weighed(spec, case, server, model)) for case in chosen]
        yield f"| {architecture} | {name.split('/')[1]} | {_worst(spec, found)} | {_remark(found)} |"


def _worst(spec: ModelSpec, found: Sequence[tuple[Case, Weighed]]) -> str:
    totals, scratches = [], []
    for case, sides in found:
        for memory in sides.ours:
            if (other := sides.theirs.get(memory.device)) is None:
                continue
            mine = _comparable(memory, spec, case)
            totals.append(100 * (mine.total / other.total - 1))
            scratches.append(100 * (mine.compute / other.compute - 1) if other.compute else 0.0)
    if not totals:
        return "0 | |"
    return f"{len(totals)} | {max(totals, key=abs):+.2f} % | {max(scratches, key=abs):+.1f} %"


def _remark(found: Sequence[tuple[Case, Weighed]]) -> str:
    """With all layers on two GPUs, the graph has three parts: embeddings, and each GPU's layers."""
    whole = found[0][1]
    if not whole.theirs:
        return "the engine refuses the file"
    return "Vulkan leaves operations to the processor" if whole.parts > len(whole.ours) else ""


def _smallest_of_each() -> dict[str, str]:
    smallest: dict[str, tuple[int, str]] = {}
    for entry in catalog():
        if entry.unsupported is not None:
            continue
        spec = entry.spec()
        size = spec.parameters
        if 5e8 < size < LARGEST_FILE_PARAMETERS and size < smallest.get(spec.architecture, (1 << 62, ""))[0]:
            smallest[spec.architecture] = (size, entry.id)
    return {architecture: name for architecture, (_, name) in smallest.items()}


# --- RPC: a real load on two devices --------------------------------------------------------------------


def rpc_rows(server: Server) -> Iterator[str]:
    """Weights and caches of a small model that is loaded for real on two RPC servers.

    RPC devices have no pinned host memory and fetch nothing from RAM, so their scratch is another matter.
    """
    yield "| layers on GPUs | said | device | weights | cache |"
    yield "| --- | --: | --- | --: | --: |"
    spec = quantize(catalog().by_id["HuggingFaceTB/SmolLM2-135M-Instruct"].spec(), RECIPE)
    layers = spec.layers
    with synthetic_file(spec, server.folder) as model:
        for counts in ((layers - 10, 10), (7, 11), (1, layers - 1)):
            case = Case(counts)
            target = _target(len(counts))
            ours = placed_memory(spec, case.settings, target, case.placement, available=(0,) * 3)
            log = server.log(model, (*arguments(case.placement, target, spec, case.settings), "-fit", "off"))
            weights, caches = _sums(_MODEL, log), _sums(_KV, log)
            addresses = (server.rpc or "").split(",")
            offloaded = _OFFLOADED.search(log)
            for index, memory in enumerate(ours[1:]):
                yield (
                    f"| {_split_said(case)} | {'/'.join(offloaded.groups()) if offloaded else '?'} | RPC{index} "
                    f"| {memory.weights_bytes / MIB:.2f} / {weights.get(addresses[index], 0):.2f} "
                    f"| {memory.kv_cache_bytes / MIB:.2f} / {caches.get(addresses[index], 0):.2f} |"
                )


def _sums(pattern: re.Pattern[str], log: str) -> dict[str, float]:
    """By address: an RPC device is named ``RPC0[address]``."""
    found: dict[str, float] = {}
    for name, mib in pattern.findall(log):
        address = name.partition("[")[2].rstrip("]")
        found[address] = found.get(address, 0.0) + float(mib)
    return found


# --- peaks that people reported -------------------------------------------------------------------------

_PEAK = "peak VRAM"
_PUBLISHERS = re.compile(r"-(GGUF|MTP|Instruct|it|i1|qat)\b", re.IGNORECASE)


def reported_rows(table: Path) -> Iterator[str]:
    """How far what was reported for one GPU, everything on it, is from what weigh has for the same.

    Nothing is known of these rows but what they say: whether GB or GiB is meant, what else the GPU did, and whether
    all layers were on it.
    """
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["engine"] == "llama.cpp" and _PEAK in row["what"]]
    ratios = [(ratio, row) for row in rows if (ratio := _ratio(row)) is not None]
    ordered = sorted(ratio for ratio, _ in ratios)
    print(f"{len(rows)} rows, {len(ratios)} of models, recipes and cards that weigh knows")
    if not ordered:
        return
    tenth = [ordered[int(share * (len(ordered) - 1))] for share in (0.1, 0.25, 0.5, 0.75, 0.9)]
    yield "| rows | 10 % | 25 % | median | 75 % | 90 % |"
    yield "| --: | --: | --: | --: | --: | --: |"
    yield f"| {len(ordered)} of {len(rows)} | " + " | ".join(f"{ratio:.2f}" for ratio in tenth) + " |"
    for ratio, row in sorted(ratios, key=lambda pair: pair[0]):
        print(
            f"{ratio:.2f} {row['value_GiB']} {row['model']} {row['quant_or_dtype']} {row['context']} {row['notes']}"
        )


def _ratio(row: dict[str, str]) -> float | None:
    """Ours over what was reported, as GiB; None for what weigh has no model, recipe or context of."""
    name = _catalog_id(row["model"])
    reported, context = float(row["value_GiB"] or 0), int(row["context"] or 0)
    if (
        name is None
        or row["n_gpu"] != "1"
        or reported < 1
        or not context
        or "MTP" in row["model"] + row["notes"]
    ):
        return None
    if "gpuLayers" in row["notes"] and not re.search(r"gpuLayers 9+", row["notes"]):
        return None
    try:
        spec = quantize(catalog().by_id[name].spec(), row["quant_or_dtype"].removeprefix("UD-"))
        kind = GgmlType[{"": "F16", "fp16": "F16"}.get(row["kv_dtype"], row["kv_dtype"].upper())]
    except (WeighError, KeyError):
        return None
    settings = Settings(
        context_tokens=min(context, spec.context_train or context), kv_type_k=kind, kv_type_v=kind
    )
    card = Device(row["device"], "", Backend.CUDA, 1 << 40, 1 << 40)
    target = Target("", Device("Host", "", Backend.CPU, 1 << 40, 1 << 40), (card,))
    whole = Placement((spec.layers,), output_on_gpu=True)
    return placed_memory(spec, settings, target, whole, available=(0, 0))[1].total_bytes / GIB / reported


def _catalog_id(model: str) -> str | None:
    """The catalog's model that a repackaged one is of, by its name without marks of packagers."""
    bare = {_PUBLISHERS.sub("", entry.id.split("/")[1]).lower(): entry.id for entry in catalog()}
    return bare.get(_PUBLISHERS.sub("", model.rsplit("/", maxsplit=1)[-1]).lower())


if __name__ == "__main__":
    main()
