"""Published memory measurements for src/weigh/data/memory.csv, from a collection of them.

    python benchmarks/memory_rows.py COLLECTED.csv

Takes the rows of transformers and vLLM. A row that is not used stays in the file with its reason in
`left_out`. Units were told from the script that made the rows where it is public: the Qwen2.5 pages divide
the sum of `torch.cuda.max_memory_allocated` over all GPUs by 1024**3 and print "GB", so they are GiB
(github.com/QwenLM/Qwen2.5, examples/speed-benchmark/speed_benchmark_transformers.py).
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from weigh.model.catalog import catalog

OUTPUT = Path(__file__).parents[1] / "src" / "weigh" / "data" / "memory.csv"
COLUMNS = (
    *("engine", "version", "device", "n_gpu", "model", "model_id", "quantization", "input_tokens"),
    *("output_tokens", "context", "batch", "kv_dtype", "what", "value_GiB", "source", "notes", "left_out"),
)
SCHEMES = {
    **{"GPTQ-Int8": "GPTQ-INT8", "GPTQ Int8": "GPTQ-INT8", "AWQ": "AWQ-INT4", "load_in_4bit (nf4)": "NF4"},
    **dict.fromkeys(("GPTQ-Int4", "GPTQ Int4", "GPTQ int4"), "GPTQ-INT4"),
}
IN_CATALOG = {"Llama-2-13B": "meta-llama/Llama-2-13b-hf"}

# Qwen3 page, 2.6.0 of PyTorch and 4.51.3 of transformers on an H20, MiB: (model, format) and the figures at
# 1, 6144, 14336 and 30720 tokens of input. The page prints "MB"; 596 million tied weights of 2 bytes and 2049
# tokens of cache are 1361 MiB, cuBLAS keeps 32 MiB on this GPU, and it prints 1394.
QWEN3_SOURCE = "github.com/QwenLM/Qwen3 (ac72724) docs/source/getting_started/speed_benchmark.md"
QWEN3_INPUTS = (1, 6144, 14336, 30720)
QWEN3_MIB = {
    ("Qwen3-0.6B", "BF16"): (1394, 2066, 2963, 4755),
    ("Qwen3-0.6B", "FP8"): (1217, 1943, 2839, 4632),
    ("Qwen3-0.6B", "GPTQ-INT8"): (986, 1658, 2554, 4347),
    ("Qwen3-1.7B", "BF16"): (3412, 4213, 5109, 6902),
    ("Qwen3-1.7B", "FP8"): (2726, 3462, 4359, 6151),
    ("Qwen3-1.7B", "GPTQ-INT8"): (2229, 2901, 3798, 5590),
    ("Qwen3-4B", "BF16"): (7973, 8860, 10012, 12317),
    ("Qwen3-4B", "FP8"): (5281, 6144, 7297, 9611),
    ("Qwen3-4B", "AWQ-INT4"): (2915, 3881, 5151, 7742),
    ("Qwen3-8B", "BF16"): (15947, 16811, 17963, 20267),
    ("Qwen3-8B", "FP8"): (9323, 10187, 11340, 13644),
    ("Qwen3-8B", "AWQ-INT4"): (6177, 7113, 8409, 11001),
    ("Qwen3-14B", "BF16"): (28402, 29495, 30775, 33336),
    ("Qwen3-14B", "FP8"): (16012, 16972, 18253, 20813),
    ("Qwen3-14B", "AWQ-INT4"): (9962, 11020, 12438, 15323),
    ("Qwen3-32B", "BF16"): (62751, 64583, 66632, 70728),
    ("Qwen3-32B", "FP8"): (33379, 34915, 36963, 41060),
    ("Qwen3-32B", "AWQ-INT4"): (19109, 20795, 23105, 27718),
    ("Qwen3-30B-A3B", "BF16"): (58462, 59037, 59806, 61342),
    ("Qwen3-30B-A3B", "FP8"): (30296, 30872, 31641, 33177),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collected", type=Path)
    with OUTPUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(cleaned(parser.parse_args().collected))
        writer.writerows(qwen3_rows())


def cleaned(collected: Path) -> Iterator[dict[str, str]]:
    with collected.open() as file:
        for row in csv.DictReader(file):
            if row["engine"].startswith("transformers") or row["engine"].lower() == "vllm":
                yield _cleaned(row)


def _cleaned(row: Mapping[str, str]) -> dict[str, str]:
    given = {k: v for k, v in row.items() if k in COLUMNS}
    prompt, output = _lengths(row)
    return given | {
        "engine": row["engine"].lower(),
        "model_id": _in_catalog(row["model"]),
        "quantization": SCHEMES.get(row["quant_or_dtype"], row["quant_or_dtype"]),
        "input_tokens": prompt,
        "output_tokens": output,
        "notes": row["notes"].strip("; "),
        "left_out": _reason(row) if row["engine"].lower() != "vllm" else "",
    }


def _in_catalog(model: str) -> str:
    return IN_CATALOG.get(model) or next((i for i in catalog().by_id if i.split("/")[-1] == model), "")


def _lengths(row: Mapping[str, str]) -> tuple[str, str]:
    """Prompt and generated tokens, where the row or its page says them."""
    if match := re.search(r"input (\d+)", row["notes"]):
        return match[1], "2048"
    if row["engine"] == "transformers+bitsandbytes":
        return "3200", "800"
    if row["engine"] == "transformers" and row["context"]:
        return "1", row["context"]
    return "", ""


def _reason(row: Mapping[str, str]) -> str:
    """Why a row is not used; "" when it is."""
    if "fine-tuning" in row["what"]:
        return "fine-tuning, not inference"
    if row["source"] == "github.com/QwenLM/Qwen README.md":
        return "the same measurement as the row with one digit more"
    return ""


def qwen3_rows() -> Iterator[dict[str, str]]:
    """GPTQ-INT4 of Qwen3-30B-A3B has no figure: its page says the kernel was not supported."""
    for (model, quantization), figures in QWEN3_MIB.items():
        for prompt, mib in zip(QWEN3_INPUTS, figures, strict=True):
            yield {
                **{"engine": "transformers", "version": "transformers 4.51.3", "device": "NVIDIA H20"},
                **{"n_gpu": "1", "model": model, "model_id": f"Qwen/{model}", "quantization": quantization},
                **{"input_tokens": str(prompt), "output_tokens": "2048", "context": str(prompt + 2048)},
                **{"batch": "1", "kv_dtype": "fp16/bf16", "source": QWEN3_SOURCE},
                "what": "GPU memory generating 2048 tokens from the given input length (published as MB)",
                "value_GiB": f"{mib / 1024:.4f}",
            }


if __name__ == "__main__":
    main()
