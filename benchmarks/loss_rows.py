"""What quantization was published to take from models (quant_quality.csv), as one loss for each model and type.

A loss is a mean divergence in nats, or ln(perplexity / full model's). Of the 45 files above 0.01 nats for which both
are printed, half agree within 1.2 % and all within 17 %; below they part ways, and a perplexity may even fall, so that
rows of perplexity below 0.004 are left out. A type is a recipe of llama.cpp and how the file was made: plainly, with
an importance matrix, or `pure` (all tensors of a layer in one format, with a matrix). Types that weigh is never asked
for are left out.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

DATA = Path(__file__).parents[1] / "src" / "weigh" / "data"
RECIPES = (
    *("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"),
)
# Recipes that are made with an importance matrix only; their rows are taken as such.
WITH_MATRIX = (
    *("IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
)
_PURE = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # the recipe nearest to it
_LEAST_LN_PERPLEXITY_RATIO = 0.004
Made = Literal["plain", "matrix", "pure"]
Row = dict[str, str]

# Pretraining that models share, wholly or for the most part.
FAMILY = {
    "LLaMA-1-7B": "LLaMA 1",
    "LLaMA-1-13B": "LLaMA 1",
    "Llama-2-7B": "Llama 2",
    "Llama-2-70B": "Llama 2",
    "Chinese-LLaMA-2-7B": "Chinese LLaMA 2",
    "Chinese-Alpaca-2-7B-RLHF": "Chinese LLaMA 2",
    "Mistral-7B": "Mistral 7B",
    "DeepSeek-V2-Lite": "DeepSeek V2",
    "Llama-3-8B": "Llama 3",
    "Llama-3.1-8B": "Llama 3",
    "Qwen3.5-9B": "Qwen3.5",
    "Qwen3.5-35B-A3B": "Qwen3.5",
    "Salamandra-2B-Instruct": "Salamandra",
}


@dataclass(frozen=True, slots=True)
class Loss:
    """What one type takes from one model."""

    model: str
    family: str
    parameters_b: float
    recipe: str
    made: Made
    nats: float

    @property
    def type(self) -> str:
        """The recipe as weigh would make it, or that and how it was made otherwise."""
        usual = "matrix" if self.recipe in WITH_MATRIX else "plain"
        return self.recipe if self.made == usual else f"{self.recipe} {self.made}"


def rows() -> list[Row]:
    with (DATA / "quant_quality.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def published_losses(table: Sequence[Row]) -> list[Loss]:
    """Divergence where it is printed, else perplexity; several files of one type give their geometric mean."""
    divergence: dict[tuple[str, str, Made], list[float]] = defaultdict(list)
    perplexity: dict[tuple[str, str, Made], list[float]] = defaultdict(list)
    size: dict[str, float] = {}
    unquantized = _pure_references(table)
    for row in table:
        named = _type(row)
        if row["model"] not in FAMILY or named is None:
            continue
        size[row["model"]] = float(row["params_B"])
        key = (row["model"], *named)
        if row["metric"] == "mean_kld":
            divergence[key].append(float(row["value"]))
        elif (loss := _from_perplexity(row, unquantized)) is not None and loss > _LEAST_LN_PERPLEXITY_RATIO:
            perplexity[key].append(loss)
    found = perplexity | divergence
    return [
        Loss(model, FAMILY[model], size[model], recipe, made, math.exp(fmean(map(math.log, losses))))
        for (model, recipe, made), losses in found.items()
    ]


def _type(row: Row) -> tuple[str, Made] | None:
    """Recipe and make of a row of llama.cpp's types; None for others."""
    name, _, note = row["quant"].partition(" (")
    recipe = name.split(" ")[-1].upper()
    if "pure" in note:
        recipe = _PURE.get(recipe, recipe)
        return (recipe, "pure") if recipe in RECIPES + WITH_MATRIX else None
    if recipe in WITH_MATRIX:
        return (recipe, "matrix") if note in ("", "imatrix)", "imatrix WT 10m)") else None
    if recipe not in RECIPES or (note and note not in ("imatrix)", "imatrix WT 10m)")):
        return None
    by_others = " " in name  # a maker's own file, made with a matrix as theirs are
    return recipe, "matrix" if note or by_others else "plain"


def _pure_references(table: Sequence[Row]) -> dict[str, float]:
    """Perplexity of the full model beside the pure files, of which the table gives none.

    The best of the 6-bit files is above it by 0.08 %, as in the two models whose full perplexity stands elsewhere.
    """
    found: dict[str, float] = {}
    for row in table:
        if "pure" in row["quant"] and row["quant"].startswith("Q6_"):
            found[row["model"]] = min(found.get(row["model"], math.inf), float(row["value"]) / 1.0008)
    for row in table:
        if row["model"] in found and row["metric"] == "wikitext2_ppl" and row["reference_value"]:
            found[row["model"]] = min(found[row["model"]], float(row["reference_value"]))
    return found


def _from_perplexity(row: Row, pure_references: dict[str, float]) -> float | None:
    value = float(row["value"])
    if row["metric"] == "ln_ppl_ratio":
        return value
    if row["metric"] == "ppl_ratio":
        return math.log(value)
    if row["metric"] == "delta_ppl":  # of LLaMA 1 7B, whose perplexity that table gives elsewhere
        return math.log1p(value / 5.9066) if value > 0 else None
    if row["metric"] not in ("wikitext2_ppl", "text_ppl"):
        return None
    if "pure" in row["quant"]:
        return math.log(value / pure_references[row["model"]])
    return math.log(value / float(row["reference_value"])) if row["reference_value"] else None
