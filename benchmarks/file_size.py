"""What the catalog's shapes add up to, beside what is published.

python benchmarks/file_size.py               # files people download: predicted and published bytes
python benchmarks/file_size.py --parameters  # every model: recomputed and stated parameters
"""

from __future__ import annotations

import argparse
import sys

from weigh.model.catalog import CatalogEntry, catalog
from weigh.model.gguf_size import file_bytes
from weigh.model.quantization import quantize

# Bytes of GGUF files as their repositories list them (bartowski, Qwen, ggml-org); noted from memory. Those
# that end in zeros are listed to ten megabytes. True: made with an importance matrix.
_LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
PUBLISHED_BYTES = (
    (_LLAMA_8B, "Q4_K_M", False, 4_920_739_232),
    (_LLAMA_8B, "Q8_0", False, 8_540_775_840),
    ("Qwen/Qwen2.5-7B-Instruct", "Q4_K_M", False, 4_683_074_240),
    ("openai/gpt-oss-20b", "MXFP4_MOE", False, 12_109_566_560),
    (_LLAMA_8B, "Q6_K_L", True, 6_850_000_000),
    (_LLAMA_8B, "Q5_K_L", True, 6_060_000_000),
    (_LLAMA_8B, "Q4_K_L", True, 5_310_000_000),
    (_LLAMA_8B, "Q3_K_XL", True, 4_780_000_000),
    (_LLAMA_8B, "Q2_K_L", True, 3_690_000_000),
    (_LLAMA_8B, "IQ4_XS", True, 4_450_000_000),
    (_LLAMA_8B, "IQ3_M", True, 3_780_000_000),
    (_LLAMA_8B, "IQ3_XS", True, 3_520_000_000),
    (_LLAMA_8B, "IQ2_M", True, 2_950_000_000),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parameters", action="store_true", help="recompute every model's parameters")
    return _parameters() if parser.parse_args().parameters else _files()


def _files() -> int:
    """One row per published file; 1 when any is off by more than half a percent."""
    worst = 0.0
    print(f"{'model':40} {'recipe':10} {'predicted':>14} {'published':>14} {'off':>8}")
    for model, recipe, imatrix, published_bytes in PUBLISHED_BYTES:
        predicted_bytes = file_bytes(quantize(catalog().by_id[model].spec(), recipe, imatrix=imatrix))
        off = predicted_bytes / published_bytes - 1
        worst = max(worst, abs(off))
        print(f"{model:40} {recipe:10} {predicted_bytes:14,} {published_bytes:14,} {off:8.3%}")
    return 1 if worst > 0.005 else 0


def _parameters() -> int:
    """One row per model, then the counts; 1 when a model is off without a note that says why."""
    rows = [_row(entry) for entry in catalog()]
    print(*(text for text, _ in rows), sep="\n")
    kinds = [kind for _, kind in rows]
    print({kind: kinds.count(kind) for kind in sorted(set(kinds))})
    return 1 if "unexplained" in kinds else 0


def _row(entry: CatalogEntry) -> tuple[str, str]:
    if entry.unsupported is not None:
        return f"{'not known':>12}  {entry.unsupported}", "not known"
    recomputed = entry.spec().parameters
    if not entry.stated_total:
        return f"{'':>12}  {entry.id}: {recomputed:,}, no total stated", "not stated"
    off = recomputed / entry.stated_total - 1
    text = f"{off:12.4%}  {entry.id}: {recomputed:,} of {entry.stated_total:,}"
    if abs(off) <= 0.01:
        return text, "within 1 %"
    return f"{text} ({entry.notes})", "explained" if entry.notes else "unexplained"


if __name__ == "__main__":
    sys.exit(main())
