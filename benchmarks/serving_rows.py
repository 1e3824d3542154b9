"""Clean published runs of serving engines: `benchmarks/data/serving.csv` to `serving_runs.csv`.

Kept are runs of vLLM and TensorRT-LLM whose batch is said, under tensor parallelism, on devices of weigh's tables
and models of its catalog. Each row that is not kept goes to `serving_rows_dropped.csv` with its reason.

    python benchmarks/serving_rows.py
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from weigh.errors import BadInput
from weigh.machine.device_sheets import gpu_sheets
from weigh.model.catalog import catalog

FOLDER = Path(__file__).with_name("data")
ENGINES = ("vLLM", "TensorRT-LLM")
# Device as printed -> name in data/devices.csv. The paper of the Argonne runs (arXiv:2411.00136) says 40 GB for its
# A100; the other forms are the usual ones of such nodes (unverified).
DEVICES = {
    "NVIDIA A100 GPU": "NVIDIA A100 SXM4 40 GB",
    "NVIDIA A100 80GB": "NVIDIA A100 SXM4 80 GB",
    "NVIDIA H100 GPU": "NVIDIA H100 SXM5 80 GB",
    "NVIDIA GH200 GPU": "NVIDIA GH200 96 GB",
    "AMD MI250 GPU": "AMD Radeon Instinct MI250",
    "AMD MI300X GPU": "AMD Radeon Instinct MI300X",
    "Intel PVC GPU": "Intel Data Center GPU Max 1550",
    "Intel Max 1550": "Intel Data Center GPU Max 1550",
}
MODELS = {
    "Qwen/Qwen2-7B": "Qwen/Qwen2-7B-Instruct",
    "Qwen/Qwen2-72B": "Qwen/Qwen2-72B-Instruct",
    "meta-llama/Meta-Llama-3-70B": "meta-llama/Meta-Llama-3-70B-Instruct",
    "mistralai/Mixtral-8x7B-v0.1": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "huggyllama/llama-7b": "meta-llama/Llama-2-7b-hf",  # of the same shapes
}
SCHEMES = {
    "fp16/bf16": "BF16",
    "BF16": "BF16",
    "Weight = fp16, KV Cache = fp16": "BF16",
    "FP8": "FP8",
    "AWQ": "AWQ",
    "GPTQ-Int4": "GPTQ-INT4",
    "GPTQ-Int8": "GPTQ-INT8",
}


@dataclass(frozen=True, slots=True)
class Run:
    """A published run. `seconds`: of the whole batch; of its first tokens where `what` is `first`."""

    engine: str
    device: str
    cards: int
    model: str
    scheme: str
    what: str
    sequences: int
    prompt: int
    output: int
    seconds: float
    source: str


class Dropped(Exception):
    """Why a row cannot be used."""


def cleaned(row: dict[str, str]) -> list[Run]:
    """One run, or two where the first token was timed too. Raises Dropped with the reason."""
    if row["engine"] not in ENGINES:
        raise Dropped(f"engine {row['engine']}")
    if not row["batch_or_concurrency"].isdigit():
        raise Dropped("how many requests ran at once is not said")
    if "diffusion" in row["model"]:
        raise Dropped("not a model that writes a token at a time")
    scheme = SCHEMES.get(row["precision"])
    if scheme is None:
        raise Dropped("a quantized cache" if "KV" in row["precision"] else f"precision {row['precision']}")
    device = DEVICES.get(row["device"])
    if device is None or device not in {sheet.name for sheet in gpu_sheets()}:
        raise Dropped("device not in the tables")
    cards, model = _cards(row), MODELS.get(row["model"], row["model"])
    if model not in catalog().by_id:
        raise Dropped("model not in the catalog")
    try:
        catalog().by_id[model].spec()
    except BadInput:
        raise Dropped("shapes of the model not known") from None
    sequences, prompt, output = (int(row[c]) for c in ("batch_or_concurrency", "input_len", "output_len"))

    def run(what: str, seconds: float) -> Run:
        return Run(
            row["engine"],
            device,
            cards,
            model,
            scheme,
            what,
            sequences,
            prompt,
            output,
            seconds,
            row["source"],
        )

    found = [run("first", float(row["TTFT_ms"]) / 1000)] if row["TTFT_ms"] else []
    if row["throughput_kind"].startswith("generation speed"):
        return [*found, run("all", output * sequences / float(row["throughput_tok_s"]))]
    if row["throughput_tok_s"] and row["throughput_kind"].startswith("(input+output)"):
        return [*found, run("all", sequences * (prompt + output) / float(row["throughput_tok_s"]))]
    if not found:
        raise Dropped("no speed that is defined")
    return found


def _cards(row: dict[str, str]) -> int:
    count = int(row["count"] or 1)
    if row["PP"] not in ("", "1"):
        raise Dropped("pipeline parallelism")
    if row["TP"] and int(row["TP"]) == count:
        return count
    if count == 1 or "Tensor Parallelism" in row["notes"]:
        return count
    raise Dropped("how the cards share the model is not said, or not by tensors")


def main() -> None:
    with (FOLDER / "serving.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept: list[Run] = []
    dropped: list[tuple[str, ...]] = []
    for row in rows:
        try:
            kept += cleaned(row)
        except Dropped as reason:
            told = ("engine", "device", "model", "precision", "batch_or_concurrency", "source")
            dropped.append((str(reason), *(row[c] for c in told)))
    _write("serving_runs.csv", [f.name for f in fields(Run)], [astuple(run) for run in kept])
    header = ["reason", "engine", "device", "model", "precision", "batch", "source"]
    _write("serving_rows_dropped.csv", header, dropped)
    print(f"{len(rows)} rows: {len(kept)} runs kept on {len({run.device for run in kept})} devices")
    for reason, count in Counter(row[0] for row in dropped).most_common():
        print(f"{count:5} {reason}")


def _write(name: str, header: list[str], rows: list[tuple[object, ...]]) -> None:
    with (FOLDER / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
