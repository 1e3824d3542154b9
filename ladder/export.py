"""The trained models as GGUF files, and the few that are small enough to lie in the repository."""

from __future__ import annotations

from pathlib import Path

from weigh.model.resolve import resolve
from weigh.shrink import quantize
from weigh.shrink.source import open_weights

# Of the models kept in the repository: a few MB in all.
KEPT = {
    "ladder-230k-2048ktok": "Q8_0",
    "ladder-520k-2048ktok": "Q8_0",
    "ladder-1m-2048ktok": "Q8_0",
    "ladder-2m-2048ktok": "Q6_K",
    "ladder-4m-2048ktok": "Q6_K",
}


def write_gguf(folder: Path, recipe: str, into: Path) -> Path:
    """The checkpoint in `folder` as a GGUF file of `recipe` in `into`; one that is there already is left alone."""
    path = into / f"{folder.name}-{recipe}.gguf"
    if not path.exists():
        weights = open_weights(resolve(str(folder)))
        into.mkdir(parents=True, exist_ok=True)
        quantize.write(weights, quantize.by_recipe(weights, recipe), path)
    return path
