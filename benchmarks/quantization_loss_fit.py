"""Fit what quantization loses and write src/weigh/data/quality_loss.json.

    python benchmarks/quantization_loss_fit.py            # fit, write, print the figures of docs/quality.md
    python benchmarks/quantization_loss_fit.py --check    # fit and compare with the file that is there

Loss is the mean Kullback-Leibler divergence of the quantized model's next-token distribution from the
full model's, in nats. One model (Llama 3 8B) is published for every recipe: it gives the shape over
recipes. Other models shift the whole curve: by size, by how much text they were trained on (old models
lose less), by luck. Benchmarks before and after quantization say what a nat costs in ability.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev

DATA = Path(__file__).parents[1] / "src" / "weigh" / "data"
RECIPES = (
    "F16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
)
# Recipes that are made with an importance matrix only; their rows are taken as such.
WITH_MATRIX = (
    "IQ4_NL",
    "IQ4_XS",
    "IQ3_M",
    "IQ3_S",
    "IQ3_XS",
    "IQ3_XXS",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
)
# The very model a divergence was measured on: printed name -> catalog id.
MEASURED = {
    "Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
    "Llama-2-7B": "meta-llama/Llama-2-7b-hf",
    "Qwen3.5-9B": "Qwen/Qwen3.5-9B",
    "Qwen3.5-35B-A3B": "Qwen/Qwen3.5-35B-A3B",
}
# Relatives of a measured model (same pretraining or the next round of it): id prefix -> printed name.
FAMILIES = {
    "meta-llama/Meta-Llama-3-": "Llama-3-8B",
    "meta-llama/Llama-3.": "Llama-3-8B",
    "NousResearch/Hermes-3-Llama-3.1": "Llama-3-8B",
    "Qwen/Qwen3.5-": "Qwen3.5-9B",
    "Qwen/Qwen3.6-": "Qwen3.5-9B",
    "meta-llama/Llama-2-": "Llama-2-7B",
    "codellama/": "Llama-2-7B",
}
OLD_BEFORE_YEAR = 2024.2  # Llama 3 (15 T tokens) is the first of the models that lose more
POINTS_PER_LOGIT = 10.0

Row = dict[str, str]


def rows() -> list[Row]:
    with (DATA / "quant_quality.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def divergences(table: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Model -> recipe -> mean divergences of plain files (importance-matrix variants apart)."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in table:
        words = row["quant"].split(" ")
        recipe = next((r for r in RECIPES if r.lower() == words[-1].lower()), None)
        if row["metric"] == "mean_kld" and row["model"] in MEASURED and recipe and "(" not in row["quant"]:
            found[row["model"]][recipe].append(float(row["value"]))
    return found


def size_exponent(table: Sequence[Row]) -> tuple[float, float, int]:
    """Slope of ln(loss) over log10(parameters) within one source and recipe, its error, and rows used.

    Losses: log perplexity ratio, or the drop in the log odds of a benchmark (guessing taken out).
    """
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in table:
        loss = relative_loss(row)
        if loss is not None and loss > 0.005 and row["params_B"]:
            family = row["model"].split("-")[0] + row["model"].split("-")[1]
            key = (family, row["quant"].lower(), row["metric"], row["source"][:40])
            groups[key].append((math.log10(float(row["params_B"])), math.log(loss)))
    pairs = []
    for group in groups.values():
        if len({x for x, _ in group}) > 1:
            mx, my = fmean(x for x, _ in group), fmean(y for _, y in group)
            pairs += [(x - mx, y - my) for x, y in group]
    top, low = sum(x * y for x, y in pairs), sum(x * x for x, _ in pairs)
    slope = top / low
    noise = math.sqrt(sum((y - slope * x) ** 2 for x, y in pairs) / (len(pairs) - 1) / low)
    return slope, noise, len(pairs)


def relative_loss(row: Row) -> float | None:
    """Loss a row shows, on whatever scale its metric has; None when it shows none."""
    value = float(row["value"])
    if row["metric"] == "ppl_ratio":
        return math.log(value)
    if not row["reference_value"]:
        return None
    reference = float(row["reference_value"])
    if "ppl" in row["metric"] and reference > 0:
        return math.log(value / reference)
    if row["metric"] in ("mmlu", "ceval", "ifeval_strict_prompt", "ifeval", "gsm8k"):
        chance = 25.0 if row["metric"] in ("mmlu", "ceval") else 0.0
        return log_odds(reference, chance) - log_odds(value, chance)
    return None


def log_odds(percent: float, chance: float) -> float:
    share = min(0.985, max(0.015, (percent - chance) / (100 - chance)))
    return math.log(share / (1 - share))


def model_shift(model: dict[str, list[float]], base: dict[str, float], size_b: float, slope: float) -> float:
    """Mean of ln(divergence / the base model's at the same recipe), brought to the base model's size."""
    gaps = [math.log(median(v) / base[r]) for r, v in model.items() if r in base]
    return fmean(gaps) - slope * math.log10(size_b / 8.03)


def with_matrix(table: Sequence[Row]) -> dict[str, float]:
    """Llama 3 8B's divergence by recipe, files made with an importance matrix."""
    return {
        row["quant"].split(" ")[0].upper(): float(row["value"])
        for row in table
        if row["metric"] == "mean_kld" and row["model"] == "Llama-3-8B" and "WT 10m" in row["quant"]
    }


def points_per_nat(
    table: Sequence[Row], base: dict[str, float], modern: float, slope: float
) -> tuple[dict[str, float], list[str]]:
    """Ability points lost per nat: general from MMLU on GGUF files, code from Aider's runs.

    Least squares through the origin. The divergence of each model is the one this fit predicts for it;
    those MMLU files were made with calibration, so Llama 3 8B's importance-matrix rows are their base.
    """
    matrix = with_matrix(table)
    general = []
    for row in table:
        recipe = row["quant"].split(" ")[0].upper()
        if row["metric"] == "mmlu" and "gguf_alg_ext" in row["source"] and recipe in matrix:
            drop = log_odds(float(row["reference_value"]), 25) - log_odds(float(row["value"]), 25)
            shift = 0.0 if row["model"].startswith("Llama-3") else modern
            general.append((matrix[recipe] * math.exp(shift), drop))
    # Aider's edit benchmark on Qwen2.5-Coder-32B through one server (quality_scores.csv): 71.4 at F16.
    aider = {"F16": 71.4, "Q4_K_M": 66.9, "Q2_K": 61.7}
    larger = math.exp(modern + slope * math.log10(32.8 / 8.03))
    code = [(base[r] * larger, log_odds(aider["F16"], 0) - log_odds(aider[r], 0)) for r in ("Q4_K_M", "Q2_K")]
    lines = [f"general: {k:.3f} nats, {d:+.3f} logits" for k, d in general]
    lines += [f"code: {k:.3f} nats, {d:+.3f} logits" for k, d in code]
    return {
        "general": POINTS_PER_LOGIT * through_origin(general),
        "code": POINTS_PER_LOGIT * through_origin(code),
    }, lines


def through_origin(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)


def mxfp4_divergence(table: Sequence[Row], points: dict[str, float]) -> float:
    """Divergence that explains the MMLU drop of a model cast to MXFP4 that was not trained in it."""
    drops = [
        log_odds(float(row["reference_value"]), 25) - log_odds(float(row["value"]), 25)
        for row in table
        if row["metric"] == "mmlu" and row["quant"].startswith("MXFP4") and row["reference_value"]
    ]
    return POINTS_PER_LOGIT * fmean(drops) / points["general"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    result, lines = fit(rows())
    text = json.dumps(result, indent=1) + "\n"
    target = DATA / "quality_loss.json"
    if check:
        same = target.read_text(encoding="utf-8") == text
        print("quality_loss.json is up to date" if same else "quality_loss.json differs")
        raise SystemExit(0 if same else 1)
    target.write_text(text, encoding="utf-8")
    print("\n".join(lines))


def fit(table: Sequence[Row]) -> tuple[dict[str, object], list[str]]:
    found = divergences(table)
    base = {recipe: fmean(values) for recipe, values in found["Llama-3-8B"].items()}
    slope, slope_error, used = size_exponent(table)
    sizes = {"Llama-2-7B": 6.74, "Qwen3.5-9B": 9.65, "Qwen3.5-35B-A3B": 35.95}
    shifts = {m: model_shift(found[m], base, size, slope) for m, size in sizes.items()}
    modern = [0.0, shifts["Qwen3.5-9B"], shifts["Qwen3.5-35B-A3B"]]
    makers = [math.log(v) for v in found["Qwen3.5-9B"]["Q4_K_M"]]  # three people's Q4_K_M of one model
    points, lines = points_per_nat(table, base, fmean(modern), slope)
    matrix = with_matrix(table)
    base.update({recipe: matrix[recipe] for recipe in WITH_MATRIX})
    base["MXFP4_MOE"] = mxfp4_divergence(table, points) / math.exp(fmean(modern))
    spread = math.sqrt(stdev(modern) ** 2 + stdev(makers) ** 2)
    bits = {
        row["quant"].upper(): float(row["bpw"])
        for row in table
        if row["model"] == "Llama-3-8B" and row["metric"] == "mean_kld" and "(" not in row["quant"]
    }
    result: dict[str, object] = {
        "nats": {r: round(base[r], 6) for r in (*RECIPES, *WITH_MATRIX, "MXFP4_MOE")},
        "bits_per_weight": {r: bits[r] for r in RECIPES if r in bits},
        "base_parameters_B": 8.03,
        "ln_per_decade_of_parameters": round(slope, 3),
        "ln_shift_modern": round(fmean(modern), 3),
        "ln_shift_old": round(shifts["Llama-2-7B"], 3),
        "ln_shift_families": {p: round({"Llama-3-8B": 0.0, **shifts}[m], 3) for p, m in FAMILIES.items()},
        "ln_sd_family": round(stdev(makers), 3),
        "old_before_year": OLD_BEFORE_YEAR,
        "ln_sd": round(spread, 3),
        "points_per_nat": {axis: round(value, 2) for axis, value in points.items()},
        "rows": sum(len(v) for recipes in found.values() for v in recipes.values()),
        "rows_by_size": used,
        "published": published(found, table),
    }
    lines += [
        f"size: ln(loss) changes by {slope:.2f} ± {slope_error:.2f} per decade of parameters, {used} rows",
        f"shifts against Llama 3 8B at equal size: { {m: round(s, 2) for m, s in shifts.items()} }",
        f"sd of ln: {stdev(modern):.2f} between modern models, {stdev(makers):.2f} between file makers",
        f"points per nat: {points}; MXFP4 cast {base['MXFP4_MOE']:.3f} nats",
    ]
    return result, lines


def published(found: dict[str, dict[str, list[float]]], table: Sequence[Row]) -> dict[str, object]:
    """Catalog id -> recipe -> divergence and its source; several files of one recipe give the median."""
    sources = {row["model"]: row["source"] for row in table if row["metric"] == "mean_kld"}
    return {
        MEASURED[model]: {
            recipe: {
                "nats": round(median(values), 6), "low": min(values), "high": max(values),
                "source": sources[model],
            }
            for recipe, values in recipes.items()
        }
        for model, recipes in found.items()
    }  # fmt: skip


if __name__ == "__main__":
    main()
