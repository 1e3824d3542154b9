"""Compare what weigh quantizes with what llama.cpp's own quantizer makes of the same file, byte by byte.

    python benchmarks/quantize_check.py                     # made-up models: wide rows, odd rows, experts
    python benchmarks/quantize_check.py MODEL.gguf …        # your own, in F16, BF16 or F32
    python benchmarks/quantize_check.py --imatrix FILE MODEL.gguf

The tool is `llama-quantize` on PATH, or given by `--tool`. Every recipe that the tool makes is made by both; tensors
are compared by name: shape, format, and every byte of their data, and so is the metadata. `quantizer_check.py`
compares the formats alone, for many more shapes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from weigh.errors import WeighError
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_encoding import NewTensor
from weigh.model.quantization import ALL_RECIPES, NEED_MATRIX, made_as
from weigh.shrink import ggml, gguf_file, quantize
from weigh.shrink.gguf_file import GgufWeights
from weigh.shrink.imatrix import ImportanceMatrix, read_imatrix
from weigh.synth.gguf import write_gguf

RECIPES = [r for r in ALL_RECIPES if made_as(r) == r and r != "MXFP4_MOE"]  # which the tool mixes otherwise
_LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 512,
    "num_hidden_layers": 9,
}
MADE_UP: dict[str, dict[str, object]] = {
    "rows of whole 256s": _LLAMA,
    "rows of whole 32s, and of none": _LLAMA
    | {"hidden_size": 288, "intermediate_size": 520, "num_attention_heads": 9, "num_key_value_heads": 3},
    "eight experts": _LLAMA
    | {"model_type": "mixtral", "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
    | {"num_local_experts": 8, "num_experts_per_tok": 2},
}


def main() -> int:
    options = _options()
    tool = shutil.which(options.tool)
    if tool is None:
        print(f"skipped: no `{options.tool}` here; it comes with llama.cpp", file=sys.stderr)
        return 0
    recipes = [recipe for recipe in RECIPES if not options.recipe or recipe in options.recipe]
    matrix = read_imatrix(options.imatrix) if options.imatrix else None
    differing = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for path in options.models or _made_up(Path(folder)):
            print(f"{path.name}\n  {'recipe':9} {'weigh':>8} {'tool':>8}  result", flush=True)
            for recipe in recipes:
                if recipe not in NEED_MATRIX or matrix is not None:
                    differing += _compare(tool, path, recipe, matrix, options.imatrix, Path(folder))
    print(f"{differing} files differ" if differing else "every byte of every tensor is the same")
    return 1 if differing else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tool", default="llama-quantize")
    parser.add_argument("--imatrix", type=Path, help="an importance matrix of MODEL, for both")
    parser.add_argument("--folder", help="where files go for a moment")
    parser.add_argument("--recipe", action="append", help="only this one; may be given again")
    parser.add_argument("models", nargs="*", type=Path)
    return parser.parse_args()


def _made_up(folder: Path) -> Iterator[Path]:
    """Models with normal weights, some of them large."""
    for name, config in MADE_UP.items():
        path = folder / f"{name}.gguf"
        spec = spec_from_config("model", config)
        tensors = (replace(t, type=GgmlType.F16 if len(t.shape) > 1 else GgmlType.F32) for t in spec.tensors)
        write_gguf(replace(spec, tensors=tuple(tensors)), path)
        source, random = GgufWeights(path), np.random.default_rng(0)
        gguf_file.write(path, source.entries, source.tensors, lambda t, random=random: [_normal(t, random)])
        yield path


def _normal(tensor: NewTensor, random: np.random.Generator) -> bytes:
    weights = random.standard_normal((tensor.elements // tensor.shape[0], tensor.shape[0]))
    weights = 0.05 * weights * (1 + weights**2 / 8)
    return ggml.quantize(weights.astype(np.float32), tensor.type).tobytes()


def _compare(
    tool: str,
    path: Path,
    recipe: str,
    matrix: ImportanceMatrix | None,
    matrix_path: Path | None,
    folder: Path,
) -> bool:
    """Make both files, print one line, and say whether they differ."""
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    began_s = time.monotonic()
    refusal = ""
    try:
        weights = GgufWeights(path)
        quantize.write(
            weights, quantize.by_recipe(weights, recipe, matrix=matrix is not None), ours, matrix=matrix
        )
    except WeighError as error:
        refusal = error.message
    ours_s = time.monotonic() - began_s
    given = ["--imatrix", str(matrix_path)] if matrix_path else []
    command = [tool, *given, str(path), str(theirs), made_as(recipe)]
    began_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    theirs_s = time.monotonic() - began_s
    if done.returncode or refusal:
        both = bool(done.returncode and refusal)
        said = (
            f"neither makes it: {refusal}" if both else refusal or (done.stdout + done.stderr)[-200:].strip()
        )
        print(f"  {recipe:9} {'':8} {'':8}  {'' if both else 'ONE REFUSES: '}{said}", flush=True)
        return not both
    differences = _differences(GgufWeights(ours), GgufWeights(theirs))
    result = "; ".join(differences[:3]) or f"same, {ours.stat().st_size:,} bytes"
    print(f"  {recipe:9} {ours_s:6.1f} s {theirs_s:6.1f} s  {result}", flush=True)
    return bool(differences)


def _differences(ours: GgufWeights, theirs: GgufWeights) -> list[str]:
    mine, other = ({t.name: t for t in weights.tensors} for weights in (ours, theirs))
    found = []
    for name in sorted(mine.keys() | other.keys()):
        a, b = mine.get(name), other.get(name)
        if a is None or a != b:
            found.append(f"{name}: {a and a.type.name} for {b and b.type.name}")
            continue
        rows = prod(a.shape[1:])
        differing = int(np.count_nonzero(ours.rows(a, 0, rows) != theirs.rows(a, 0, rows)))
        if differing:
            found.append(f"{name}: {differing:,} of {a.bytes:,} bytes")
    keys = ours.entries.keys() | theirs.entries.keys()
    named = {"quantize.imatrix.file"}  # the tool keeps the whole path, weigh the name
    found += [f"metadata {k}" for k in sorted(keys - named) if ours.entries.get(k) != theirs.entries.get(k)]
    return found


if __name__ == "__main__":
    sys.exit(main())
