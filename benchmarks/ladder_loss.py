"""Measure what quantization takes from each model of the ladder and keep it in benchmarks/data/ladder_loss.csv.

    python benchmarks/ladder_loss.py [--models FOLDER] [--threads N]

FOLDER holds the trained checkpoints (`python -m ladder train`). Each is written as F16, then in every recipe that
its rows can be stored in, and the mean divergence from the F16 file is measured on the held-out files in windows of
512 tokens, the second half of each judged, as `weigh quality --against` does. Windows are read until the 80 % interval
is within 4 % of the mean, 16 at least and 96 at most. Rows that are there already are left alone, so that the command
can be given again when more of the ladder is trained.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ladder.corpus import read_corpus  # noqa: E402
from weigh.engines.engine import Limits  # noqa: E402
from weigh.errors import NotSupported  # noqa: E402
from weigh.figure import Figure  # noqa: E402
from weigh.model.gguf import read_gguf  # noqa: E402
from weigh.model.resolve import resolve  # noqa: E402
from weigh.quality.divergence import Divergence, compared, divergence  # noqa: E402
from weigh.quality.scorer import open_scorer  # noqa: E402
from weigh.quality.text import LLAMA_WINDOW_TOKENS, Text, Texts, llama_windows  # noqa: E402
from weigh.shrink import ggml, quantize  # noqa: E402
from weigh.shrink.gguf_file import Weights  # noqa: E402
from weigh.shrink.source import open_weights  # noqa: E402

TABLE = Path(__file__).parent / "data" / "ladder_loss.csv"
ANY_ROWS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0")
WIDE_ROWS = ("Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K")
_NAME = re.compile(r"^ladder-(?P<rung>.+)-(?P<ktok>\d+)ktok$")
_LEAST_WINDOWS, _MOST_WINDOWS, _WITHIN = 16, 96, 0.04


@dataclass(frozen=True)
class Row:
    """One recipe of one model.

    Attributes:
        nats: with its 80 % interval over windows.
        logit_variance: over the vocabulary, for a hidden state of unit size in any direction, averaged over
            directions: the output matrix and the last norm say it, without a run.
    """

    model: str
    rung: str
    parameters: int
    tokens: int
    recipe: str
    bits_per_weight: float
    nats: float
    low: float
    high: float
    windows: int
    reference_nats_per_token: float
    logit_variance: float


def read(path: Path = TABLE) -> list[Row]:
    if not path.exists():
        return []
    kinds = {f.name: {"int": int, "float": float}.get(str(f.type), str) for f in fields(Row)}
    with path.open(newline="", encoding="utf-8") as lines:
        return [
            Row(**{key: kinds[key](value) for key, value in row.items()}) for row in csv.DictReader(lines)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "ladder" / "work" / "models")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    measure(given.models, given.threads)


def measure(models: Path, threads: int | None = None) -> None:
    """Every recipe of every checkpoint in a folder that the table does not hold yet."""
    have = {(row.model, row.recipe) for row in read()}
    held_out = read_corpus().held_out
    texts = Texts(tuple(Text(file.path, at, file.text) for at, file in enumerate(held_out)), skipped=0)
    for folder in sorted(models.glob("*/tokenizer.json"), key=lambda path: path.stat().st_mtime):
        checkpoint = folder.parent
        if not _NAME.match(checkpoint.name) or not (checkpoint / "model.safetensors").exists():
            continue
        missing = [r for r in (*ANY_ROWS, *WIDE_ROWS) if (checkpoint.name, r) not in have]
        if missing:
            _measure(checkpoint, missing, texts, threads)


def _measure(checkpoint: Path, recipes: Sequence[str], texts: Texts, threads: int | None) -> None:
    weights = open_weights(resolve(str(checkpoint)))
    wide = all(tensor.shape[0] % 256 == 0 for tensor in weights.tensors)
    with tempfile.TemporaryDirectory() as folder:
        reference, candidate = Path(folder, "reference.gguf"), Path(folder, "candidate.gguf")
        quantize.write(weights, quantize.by_recipe(weights, "F16"), reference)
        for recipe in recipes:
            if recipe in WIDE_ROWS and not wide:
                continue
            began_s = time.monotonic()
            try:
                plan = quantize.by_recipe(weights, recipe)
            except NotSupported:
                continue
            quantize.write(weights, plan, candidate)
            found = _divergence(reference, candidate, texts, threads)
            row = _row(checkpoint.name, weights, recipe, plan, found)
            _append(row)
            kl = found.kl
            print(
                f"{row.model:24} {recipe:7} {kl.value:.5f} ({kl.low:.5f}-{kl.high:.5f}) nats, {row.windows} windows,"
                f" {time.monotonic() - began_s:.0f} s",
                flush=True,
            )


def _divergence(reference: Path, candidate: Path, texts: Texts, threads: int | None) -> Divergence:
    with open_scorer(
        read_gguf(candidate),
        context_tokens=LLAMA_WINDOW_TOKENS,
        limits=Limits(),
        threads=threads,
        reference=read_gguf(reference),
    ) as scorer:
        windows = _spread(llama_windows(scorer, texts))
        found = []
        for window in windows:
            found.append(compared(scorer, window))
            if len(found) >= _LEAST_WINDOWS and len(found) % 8 == 0:
                made = divergence(found)
                if _relative(made.kl) < _WITHIN:
                    break
        return divergence(found)


def _spread(windows: list[list[int]]) -> list[list[int]]:
    """As many as may be needed, from all over the text, in an order in which any first part is spread as well."""
    chosen = [windows[at * len(windows) // _MOST_WINDOWS] for at in range(min(_MOST_WINDOWS, len(windows)))]
    return [one for start in range(8) for one in chosen[start::8]]


def _relative(kl: Figure) -> float:
    return (kl.high - kl.low) / 2 / kl.value


def _row(model: str, weights: Weights, recipe: str, plan: quantize.Plan, found: Divergence) -> Row:
    named = _NAME.match(model)
    assert named is not None
    tensors = plan.tensors(weights)
    return Row(
        model=model,
        rung=named["rung"],
        parameters=weights.spec.parameters,
        tokens=int(named["ktok"]) * 1024,
        recipe=recipe,
        bits_per_weight=round(8 * sum(t.bytes for t in tensors) / sum(t.elements for t in tensors), 3),
        nats=float(f"{found.kl.value:.5g}"),
        low=float(f"{found.kl.low:.5g}"),
        high=float(f"{found.kl.high:.5g}"),
        windows=found.windows,
        reference_nats_per_token=round(math.log(found.reference_perplexity), 4),
        logit_variance=float(f"{logit_variance(weights):.5g}"),
    )


def logit_variance(weights: Weights) -> float:
    """See `Row`."""
    named = {tensor.name: tensor for tensor in weights.tensors}
    output = named.get("output.weight", named["token_embd.weight"])
    norm = named["output_norm.weight"]
    scale = ggml.dequantize(weights.rows(norm, 0, 1), norm.type)
    matrix = ggml.dequantize(weights.rows(output, 0, output.shape[1]), output.type)
    return float((matrix * scale).var(axis=0, dtype=np.float64).sum())


def _append(row: Row) -> None:
    new = not TABLE.exists()
    with TABLE.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, asdict(row).keys(), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


if __name__ == "__main__":
    main()
