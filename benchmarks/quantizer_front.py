"""Size against divergence: llama.cpp's own mixes beside those that weigh chooses for a size.

    python benchmarks/quantizer_front.py MODEL.gguf --text FILE|FOLDER [--make-imatrix] [--recipe Q4_K_M …]

MODEL is in F16, BF16 or F32. Each recipe is made and its divergence from MODEL measured. Sensitivities are measured
once, and for each recipe's size the best mix within it is made and measured on the same windows of text, which are
not those that sensitivities were measured on. A mix lies on the front when no recipe is both smaller and nearer to
the source. Exit code 1 when a recipe is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from weigh.model.quantization import ALL_RECIPES, NEED_MATRIX
from weigh.quality.divergence import Divergence
from weigh.quality.text import read_texts
from weigh.shrink import targets
from weigh.shrink.gguf_file import GgufWeights
from weigh.shrink.judging import Judge
from weigh.shrink.mixes import Front
from weigh.shrink.targets import Job

RECIPES = [
    recipe
    for recipe in ALL_RECIPES[ALL_RECIPES.index("Q8_0") : ALL_RECIPES.index("IQ2_XXS") + 1]
    if recipe not in ("MXFP4_MOE", "Q2_0")
]


@dataclass(frozen=True)
class Point:
    name: str
    bytes: int
    divergence: Divergence

    @property
    def nats(self) -> float:
        return self.divergence.kl.value


def main() -> int:
    options = _options()
    recipes = options.recipe or [r for r in RECIPES if options.make_imatrix or r not in NEED_MATRIX]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        job = Job(
            GgufWeights(options.model),
            options.model,
            Judge(read_texts(options.text), threads=options.threads),
            Path(folder) / "made.gguf",
        )
        if options.make_imatrix:
            job = targets.with_importance(job, options.text.name)
        print(
            f"{'':10} {'bytes':>12} {'nats':>9}   80 % interval       mix: {'bytes':>10} {'nats':>9}   ratio"
        )
        theirs = [_recipe(job, recipe) for recipe in recipes]
        theirs.sort(key=lambda point: -point.bytes)
        mixes = targets.front(job, options.model)
        ours = [_mix(job, mixes, point) for point in theirs]
    for recipe, mix in zip(theirs, ours, strict=True):
        kl = recipe.divergence.kl
        print(
            f"{recipe.name:10} {recipe.bytes:12,} {recipe.nats:9.5f}   {kl.low:.5f}-{kl.high:.5f}"
            f"    {mix.bytes:12,} {mix.nats:9.5f}  {mix.nats / recipe.nats:6.2f}"
        )
    beaten = [
        (mix, recipe)
        for mix in ours
        for recipe in theirs
        if recipe.bytes <= mix.bytes and recipe.nats < mix.nats
    ]
    for mix, recipe in beaten:
        print(
            f"{recipe.name} ({recipe.bytes:,} bytes) is smaller and nearer than the mix of {mix.bytes:,} bytes"
        )
    print(f"{len(ours)} mixes, {len(beaten)} times beaten; {time.monotonic() - began_s:.0f} s")
    return 1 if beaten else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--make-imatrix", action="store_true", help="measure one on the text, for all files")
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", help="where files go for a moment")
    return parser.parse_args()


def _recipe(job: Job, recipe: str) -> Point:
    made = targets.to_recipe(job, recipe)
    assert made.divergence is not None
    print(f"made {recipe}", file=sys.stderr, flush=True)
    return Point(recipe, made.bytes, made.divergence)


def _mix(job: Job, mixes: Front, recipe: Point) -> Point:
    made = targets.of_size(job, mixes, recipe.bytes)
    print(f"made the mix for {recipe.name}'s size", file=sys.stderr, flush=True)
    return Point("mix", made.bytes, job.judge.divergence(made.model, job.weights.spec))


if __name__ == "__main__":
    sys.exit(main())
