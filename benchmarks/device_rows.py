"""Clean published speeds of llama.cpp on devices: `benchmarks/data/llama_bench.csv` to `device_runs.csv`.

Each row that is kept names a device of weigh's tables, a model of its catalog and a recipe. Each row that
is not goes to `device_rows_dropped.csv` with its reason.

    python benchmarks/device_rows.py
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from weigh.errors import BadInput
from weigh.machine.device_sheets import GpuSheet, HostSheet, gpu_sheets, host_sheets
from weigh.machine.devices import backend_of, shown_bytes
from weigh.machine.target import Backend
from weigh.model.catalog import catalog
from weigh.model.gguf_size import file_bytes
from weigh.model.quantization import quantize
from weigh.units import GIB

FOLDER = Path(__file__).with_name("data")
SIZE_TOLERANCE = 0.06  # published files keep a few tensors wider than the plain recipe
ASSUMED_TG_TOKENS = 128
FULL = 0.86  # of the memory: cache, buffers and a screen need the rest

# Device as printed -> name in data/devices.csv or data/hosts.csv, where it cannot be taken as it is.
DEVICES = {
    "AMD Radeon 8060S (Ryzen AI Max+ 395, Strix Halo)": "AMD Ryzen AI Max+ 395",
    "AMD Ryzen AI MAX 385": "AMD Ryzen AI Max 385",
    "AMD Ryzen AI Max+ 395 (CPU)": "host AMD Ryzen AI Max+ 395",
    "AMD Ryzen 7 8745H": "AMD Radeon 780M",  # its own GPU: the rows are Vulkan with all layers
    "AmpereOne A192-32X 512GB": "AmpereOne A192-32X",
    "Apple M1 Max": "Apple M1 Max (32-core GPU)",
    "Apple M3 Pro": "Apple M3 Pro (18-core GPU)",
    "Apple M4 Max": "Apple M4 Max (40-core GPU)",
    "Apple M4 Pro": "Apple M4 Pro (20-core GPU)",
    "Apple M5 Max": "Apple M5 Max (40-core GPU)",
    "Dell Optiplex 780 (C2Q Q8400)": "Intel Core 2 Quad Q8400",
    "HiFive Premier P550 (4-core RISC-V)": "HiFive Premier P550",
    "Intel Core i9-13900K DDR5-6400": "Intel Core i9-13900K",
    "Intel(R) Core(TM) Ultra 7 155H": "Intel Core Ultra 7 155H",
    "NVIDIA A100 PCIe 80GB": "NVIDIA A100 PCIe 80 GB",
    "NVIDIA A100 SXM 80GB": "NVIDIA A100 SXM4 80 GB",
    "NVIDIA A40": "NVIDIA A40 PCIe",
    "NVIDIA GB10 (DGX Spark)": "NVIDIA GB10",
    "NVIDIA GeForce RTX 2070 Super": "NVIDIA GeForce RTX 2070 SUPER",
    "NVIDIA GeForce RTX 3060": "NVIDIA GeForce RTX 3060 12 GB",
    "NVIDIA GeForce RTX 4070 Super": "NVIDIA GeForce RTX 4070 SUPER",
    "NVIDIA GeForce RTX 4070 Ti Super": "NVIDIA GeForce RTX 4070 Ti SUPER",
    "NVIDIA H100 PCIe 80GB": "NVIDIA H100 PCIe 80 GB",
    "NVIDIA RTX 4000 Ada": "NVIDIA RTX 4000 Ada Generation",
    "NVIDIA RTX 5000 Ada": "NVIDIA RTX 5000 Ada Generation",
    "NVIDIA RTX 6000 Ada": "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA T4": "NVIDIA Tesla T4",
    "NVIDIA V100 PCIe 32GB": "NVIDIA Tesla V100 PCIe 32 GB",
    "Qualcomm Snapdragon 888 ARM64": "Snapdragon 888",
    "Radxa Orion O6 - 16GB": "Radxa Orion O6",
    "Raspberry Pi 400 4GB": "Raspberry Pi 400",
    "Raspberry Pi 5 16GB": "Raspberry Pi 5",
    "Raspberry Pi 5 8GB": "Raspberry Pi 5",
}
# Model as printed -> catalog id; several prints of one shape share it.
MODELS = {
    "Llama 3 8B": "meta-llama/Meta-Llama-3-8B-Instruct",
    "Llama 3 70B": "meta-llama/Meta-Llama-3-70B-Instruct",
    "llama 7B": "meta-llama/Llama-2-7b-hf",
    "llama 13B": "meta-llama/Llama-2-13b-hf",
    "llama2:13b": "meta-llama/Llama-2-13b-hf",
    "llama 70B": "meta-llama/Llama-3.1-70B-Instruct",
    "Llama 3.1:70b": "meta-llama/Llama-3.1-70B-Instruct",
    "Llama 3.1:405b": "meta-llama/Llama-3.1-405B-Instruct",
    "llama 8B": "meta-llama/Llama-3.1-8B-Instruct",
    "llama 3.1 8B": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama 3.1 8B Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.1:8b": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama-3.1-Tulu-3-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "Hermes-3-Llama-3.1-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "llama 3B": "meta-llama/Llama-3.2-3B-Instruct",
    "Llama 3.2:3b": "meta-llama/Llama-3.2-3B-Instruct",
    "llama3.2:3b": "meta-llama/Llama-3.2-3B-Instruct",
    "llama3.2:1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama 1B": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "DeepSeek R1 14b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "DeepSeek R1 671b": "deepseek-ai/DeepSeek-R1",
    "deepseek-r1-distill-qwen-7b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "gpt-oss 20B": "openai/gpt-oss-20b",
    "gpt-oss 20b": "openai/gpt-oss-20b",
    "gpt-oss:20b": "openai/gpt-oss-20b",
    "gpt-oss 120B": "openai/gpt-oss-120b",
    "qwen2 7B": "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5-coder:14b": "Qwen/Qwen2.5-Coder-14B-Instruct",
    "qwen2.5-coder-7b-instruct": "Qwen/Qwen2.5-Coder-7B-Instruct",
    "qwen3:0.6b": "Qwen/Qwen3-0.6B",
    "qwen3:8b": "Qwen/Qwen3-8B",
    "qwen3 32B": "Qwen/Qwen3-32B",
    "qwen3moe 30B.A3B": "Qwen/Qwen3-30B-A3B",
    "Qwen3-30B-A3B-Thinking-2507": "Qwen/Qwen3-30B-A3B",
    "qwen3moe 235B.A22B": "Qwen/Qwen3-235B-A22B",
    "qwen3next 80B.A3B": "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "qwen35moe 35B.A3B": "Qwen/Qwen3.5-35B-A3B",
    "qwen35moe 122B.A10B": "Qwen/Qwen3.5-122B-A10B",
    "qwen3.5:9b": "Qwen/Qwen3.5-9B",
    "qwen3.6:27b": "Qwen/Qwen3.6-27B",
    "gemma3 4B": "google/gemma-3-4b-it",
    "gemma3:4b": "google/gemma-3-4b-it",
    "gemma3 12B": "google/gemma-3-12b-it",
    "gemma3 27B": "google/gemma-3-27b-it",
    "gemma4 26B.A4B": "google/gemma-4-26B-A4B-it",
    "gemma4 31B": "google/gemma-4-31B-it",
    "gemma-2-9b-it-Q4_K_M-fp16": "google/gemma-2-9b-it",
    "mistral3 8B": "mistralai/Ministral-3-8B-Instruct-2512",
    "mistral3 14B": "mistralai/Ministral-3-14B-Instruct-2512",
    "ministral-3:3b": "mistralai/Ministral-3-3B-Instruct-2512",
    "ministral-3:8b": "mistralai/Ministral-3-8B-Instruct-2512",
    "ministral-3:14b": "mistralai/Ministral-3-14B-Instruct-2512",
    "devstral:24b": "mistralai/Devstral-Small-2507",
    "devstral-small-2:latest": "mistralai/Devstral-Small-2-24B-Instruct-2512",
    "Magistral-Small-2507": "mistralai/Magistral-Small-2506",
    "deepseek2 30B.A3B": "zai-org/GLM-4.7-Flash",
    "glm-4.7-flash:latest": "zai-org/GLM-4.7-Flash",
    "glm4moe 106B.A12B": "zai-org/GLM-4.5-Air",
    "GLM-Z1-32B-0414": "zai-org/GLM-4-32B-0414",
    "nemotron_h_moe 31B.A3.5B": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "nemotron_h_moe 120B.A12B": "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
    "nemotron-3-nano:30b": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "dots1 142B": "rednote-hilab/dots.llm1.inst",
    "llama4 17Bx16E (Scout)": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "minimax-m2 230B.A10B": "MiniMaxAI/MiniMax-M2",
    "LFM2.5-1.2B-Instruct": "LiquidAI/LFM2-1.2B",
    "LFM2.5-1.2B-Thinking": "LiquidAI/LFM2-1.2B",
    "LFM2.5-350M": "LiquidAI/LFM2-350M",
    "LFM2.5-8B-A1B": "LiquidAI/LFM2-8B-A1B",
    "lfm2.5:8b": "LiquidAI/LFM2-8B-A1B",
    "Phi-4-mini-reasoning": "microsoft/Phi-4-mini-instruct",
    "Phi-4-reasoning-plus": "microsoft/Phi-4-reasoning",
}
RECIPES = {
    "Q4_K - Medium": "Q4_K_M",
    "Q3_K - Medium": "Q3_K_M",
    "Q3_K - Small": "Q3_K_S",
    "Q5_K - Medium": "Q5_K_M",
    "MXFP4 MoE": "MXFP4_MOE",
    "MXFP4": "MXFP4_MOE",
    "Q4_0 (not stated)": "Q4_0",
    "(ollama default, Q4_K_M; gpt-oss MXFP4)": "Q4_K_M",
    "": "Q4_K_M",  # Ollama's default
    # Unsloth's mixes are tuned by hand; the nearest plain recipe is within a few percent of their bytes
    "Q4_K_XL": "Q4_K_M",
    "UD-Q4_K_XL": "Q4_K_M",
    "UD-Q3_K_M": "Q3_K_M",
}
BACKENDS = {
    "cuda": Backend.CUDA,
    "metal": Backend.METAL,
    "vulkan": Backend.VULKAN,
    "rocm": Backend.ROCM,
    "sycl": Backend.SYCL,
    "cpu": Backend.CPU,
}
ODDLY_LOW = {"NVIDIA A100 SXM 80GB", "NVIDIA L40S"}  # their F16 prefill, in the source itself
# Sources that ran llama-bench with `-ub 2048` and say so beside their tables, which have no column for it. The
# forum's figures repeat the command of the page (tests pp2048 and tg32 at the same depths).
UBATCH = {"jetsonhacks.com spark-llamacpp-bench.html": 2048, "forums.developer.nvidia.com t/355639": 2048}
EARLY = re.compile(r"XiongjieDai|discussion 4167|llama\.cpp PR (4766|6017|7716)\b")
HELD_BACK = re.compile(r"host: (Pi|Radxa|HiFive)")  # cards on a board's single PCIe lane


@dataclass(frozen=True, slots=True)
class Run:
    """One published speed. `kind` is `pp` (prefill) or `tg` (decode); depth is what was cached before.

    `era` names a build or driver that today's differ from: "2024" up to mid 2024, before flash attention and
    newer kernels; "2025" the first builds for Strix Halo, whose ROCm kernels used no matrix units (they came
    with llama.cpp's pull requests 17156, 17576 and 17879 late that year); "amdvlk" a driver given up in 2025;
    "rocblas" runs that were told to do without hipBLASLt, which multiplies 16-bit weights
    (ROCBLAS_USE_HIPBLASLT=0, `hblt0` in the names of their logs).
    """

    device: str
    on: str
    gpus: int
    backend: str
    model: str
    recipe: str
    kind: str
    tokens: int
    depth: int
    ubatch: int
    tokens_per_s: float
    era: str
    flash_attention: bool
    self_reported: bool
    source: str


class Dropped(Exception):
    """Why a row cannot be used."""


def cleaned(row: dict[str, str]) -> Run:
    """Raises Dropped with the reason."""
    _check_plain(row)
    sheet = _sheet(row)
    backend = _backend(row, sheet)
    kind, tokens, depth, ubatch = _test(row)
    ubatch = next((size for source, size in UBATCH.items() if row["source"].startswith(source)), ubatch)
    model, recipe = _model(row), _recipe(row)
    _check_size(row, model, recipe, sheet)
    if row["device"] in ODDLY_LOW and kind == "pp" and recipe == "F16":
        raise Dropped("oddly low in the source itself")
    return Run(
        device=sheet.name,
        on="gpu" if isinstance(sheet, GpuSheet) else "host",
        gpus=int(row["n_gpu"] or 0),
        backend=str(backend),
        model=model,
        recipe=recipe,
        kind=kind,
        tokens=tokens,
        depth=depth,
        ubatch=ubatch,
        tokens_per_s=float(row["tokens_per_s"]),
        era=_era(row),
        flash_attention=_era(row) != "2024" and row["flash_attn"] != "0",  # later builds choose it themselves
        self_reported="self-reported" in row["notes"] or "llmfit" in row["source"],
        source=row["source"],
    )


def _check_plain(row: dict[str, str]) -> None:
    notes = row["notes"]
    if row["engine"] not in ("llama.cpp", "llamacpp", "ollama", "ollama or llama.cpp"):
        raise Dropped(f"engine {row['engine']}")
    if "speculative" in notes or "MTP" in notes:
        raise Dropped("speculative decoding")
    if "fork" in row["build"] or "pr254" in row["build"] or "RPC" in row["backend"]:
        raise Dropped("a fork or a remote backend")
    if HELD_BACK.match(notes) and row["n_gpu"] not in ("0", ""):
        raise Dropped("held back by its host")
    if "may have run on CPU" in notes or row["device"].startswith(("Radeon 840M", "Intel Alder Lake-P")):
        raise Dropped("may have run on the processor")
    if re.search(r"kv (?!f16)\w+", notes):
        raise Dropped("a quantized cache")
    spread = re.search(r"min ([\d.]+) max ([\d.]+)", notes)
    if spread and float(spread[2]) > 1.3 * float(spread[1]):
        raise Dropped("its own runs spread by more than 30 %")


def _sheet(row: dict[str, str]) -> GpuSheet | HostSheet:
    name = DEVICES.get(row["device"], row["device"])
    on_host = name.startswith("host ") or row["backend"].upper() == "CPU"
    sheets = host_sheets() if on_host else (*gpu_sheets(), *host_sheets())
    found = [sheet for sheet in sheets if sheet.name == name.removeprefix("host ")]
    if not found:
        raise Dropped("device not in the tables")
    if isinstance(found[0], HostSheet) and not found[0].features:
        raise Dropped("a processor without the vector instructions that kernels are written for")
    return found[0]


def _backend(row: dict[str, str], sheet: GpuSheet | HostSheet) -> Backend:
    """As said; where only `GPU` or nothing is said, the one weigh takes for granted on that device too."""
    if isinstance(sheet, HostSheet):
        return Backend.CPU
    said = BACKENDS.get(row["backend"].lower())
    if said is Backend.CUDA and sheet.vendor != "NVIDIA":
        raise Dropped("CUDA on another maker's device")
    return said or backend_of(sheet.vendor, sheet.generation)


def _era(row: dict[str, str]) -> str:
    if EARLY.search(row["source"]) or re.match(r"(master )?202[34]", row["build"]):
        return "2024"
    if "lhl/strix-halo-testing" in row["source"]:
        return "2025"
    if "__hblt0__" in row["source"]:
        return "rocblas"
    return "amdvlk" if "amdvlk" in row["source"] else ""


def _test(row: dict[str, str]) -> tuple[str, int, int, int]:
    found = re.fullmatch(r"(pp|tg)(\d*)(?:\(eval rate\))?(?:@d(\d+))?(?: ub(\d+))?", row["test"])
    if found is None:
        raise Dropped(f"test {row['test']}")
    kind, tokens, depth, ubatch = found.groups()
    if tokens == "0":
        raise Dropped("length not said")
    said = re.search(r"n_ubatch=(\d+)", row["notes"])
    prompt = re.search(r"prompt (\d+)", row["notes"])
    deep = int(depth or 0) or (int(prompt[1]) if kind == "tg" and prompt else 0)
    return kind, int(tokens or ASSUMED_TG_TOKENS), deep, int(ubatch or (said[1] if said else 512))


def _model(row: dict[str, str]) -> str:
    printed = row["model"].removesuffix(".gguf").removesuffix("-GGUF")
    short = re.sub(r"^.*/|-(I?Q\d\w*|MXFP4)$", "", printed)
    parted = short.partition("_")[2] or short  # bartowski's files begin with the maker
    by_name = {entry.id.split("/")[1].lower(): entry.id for entry in catalog()}
    for name in (printed, short, parted):
        found = MODELS.get(name) or by_name.get(name.lower())
        if found:
            return found
    raise Dropped("model not in the catalog, or not said clearly")


def _recipe(row: dict[str, str]) -> str:
    if "gpt-oss" in row["model"].lower() and row["quant"] in ("", "(ollama default, Q4_K_M; gpt-oss MXFP4)"):
        return "MXFP4_MOE"
    recipe = RECIPES.get(row["quant"], row["quant"])
    try:
        quantize(catalog().by_id["meta-llama/Llama-2-7b-hf"].spec(), recipe)
    except BadInput:
        raise Dropped(f"quantization {row['quant']}") from None
    return recipe


def _check_size(row: dict[str, str], model: str, recipe: str, sheet: GpuSheet | HostSheet) -> None:
    try:
        computed = file_bytes(quantize(catalog().by_id[model].spec(), recipe))
    except BadInput:
        raise Dropped("shapes of the model not known") from None
    stated = float(row["size_GiB"]) * GIB if row["size_GiB"] else computed
    if abs(stated / computed - 1) > SIZE_TOLERANCE:
        raise Dropped("its file has another size than this model in this recipe")
    cards = max(1, int(row["n_gpu"] or 0))
    if isinstance(sheet, GpuSheet) and sheet.sizes_gb and stated > FULL * cards * _largest(sheet):
        raise Dropped("file near or above the memory: part of it may have run elsewhere")


def _largest(sheet: GpuSheet) -> int:
    size = max(sheet.sizes_gb)
    return int(size * GIB) if sheet.unified else shown_bytes(sheet, size)


def main() -> None:
    with (FOLDER / "llama_bench.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept: list[Run] = []
    dropped: list[tuple[str, ...]] = []
    for row in rows:
        try:
            kept.append(cleaned(row))
        except Dropped as reason:
            dropped.append((str(reason), *(row[c] for c in ("device", "model", "quant", "test", "source"))))
    _write("device_runs.csv", [f.name for f in fields(Run)], [astuple(run) for run in kept])
    _write("device_rows_dropped.csv", ["reason", "device", "model", "quant", "test", "source"], dropped)
    print(f"{len(rows)} rows: {len(kept)} kept on {len({run.device for run in kept})} devices")
    for reason, count in Counter(row[0] for row in dropped).most_common():
        print(f"{count:5} {reason}")


def _write(name: str, header: list[str], rows: list[tuple[object, ...]]) -> None:
    with (FOLDER / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
