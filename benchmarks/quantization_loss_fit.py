"""Fit what quantization loses and write src/weigh/data/quality_loss.json.

    python benchmarks/quantization_loss_fit.py            # fit, write, print the figures of docs/quality.md
    python benchmarks/quantization_loss_fit.py --check    # fit and compare with the file that is there

Loss is the mean Kullback-Leibler divergence of the quantized model's next-token distribution from the
full model's, in nats. `loss_rows.py` says which rows are taken, `loss_mixed.py` what is fitted to them,
`quantization_loss_check.py` how well that predicts. Benchmarks before and after quantization say how loss
goes with size, and what a nat costs in ability.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from loss_mixed import Exponent, fit_table
from loss_rows import DATA, RECIPES, Row, published_losses, rows

# The very model a divergence was measured on: printed name -> catalog id.
MEASURED = {
    "Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
    "Llama-2-7B": "meta-llama/Llama-2-7b-hf",
    "Qwen3.5-9B": "Qwen/Qwen3.5-9B",
    "Qwen3.5-35B-A3B": "Qwen/Qwen3.5-35B-A3B",
}
# Others whose losses are known as well, in other types or as perplexity.
ALSO_KNOWN = {
    "Llama-3.1-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama-2-70B": "meta-llama/Llama-2-70b-hf",
    "Mistral-7B": "mistralai/Mistral-7B-v0.1",
    "DeepSeek-V2-Lite": "deepseek-ai/DeepSeek-V2-Lite",
}
# Catalog id prefix -> family of the fit: the same pretraining, or the next round of it.
FAMILIES = {
    "meta-llama/Meta-Llama-3-": "Llama 3",
    "meta-llama/Llama-3.": "Llama 3",
    "NousResearch/Hermes-3-Llama-3.1": "Llama 3",
    "Qwen/Qwen3.5-": "Qwen3.5",
    "Qwen/Qwen3.6-": "Qwen3.5",
    "meta-llama/Llama-2-": "Llama 2",
    "codellama/": "Llama 2",
    "mistralai/Mistral-7B-": "Mistral 7B",
    "deepseek-ai/DeepSeek-V2": "DeepSeek V2",
    "deepseek-ai/DeepSeek-Coder-V2": "DeepSeek V2",
}
POINTS_PER_LOGIT = 10.0
_LN_SD_OF_CAST = 0.7 / 1.2816  # a divergence told from a benchmark by the points a nat costs: a factor of two
# Benchmark losses of several sizes are of a few families, and no divergences: their error counts twice.
_MORE_ERROR = 2.0


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


def prior_exponent(table: Sequence[Row]) -> Exponent:
    """What is taken of size before the divergences are seen."""
    slope, error, _ = size_exponent(table)
    return Exponent(slope / math.log(10), _MORE_ERROR * error / math.log(10))


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


def with_matrix(table: Sequence[Row]) -> dict[str, float]:
    """Llama 3 8B's divergence by recipe, files made with an importance matrix."""
    return {
        row["quant"].split(" ")[0].upper(): float(row["value"])
        for row in table
        if row["metric"] == "mean_kld" and row["model"] == "Llama-3-8B" and "WT 10m" in row["quant"]
    }


def points_per_nat(
    table: Sequence[Row], base: Mapping[str, float], other: float
) -> tuple[dict[str, float], list[str]]:
    """Ability points lost per nat: general from MMLU on GGUF files, code from Aider's runs.

    Args:
        base: Llama 3 8B's divergence by recipe.
        other: ln of the factor from it to the mean model of its size.

    Least squares through the origin. The divergence of each model is the one this fit predicts for it;
    those MMLU files were made with calibration, so Llama 3 8B's importance-matrix rows are their base.
    """
    matrix = with_matrix(table)
    general = []
    for row in table:
        recipe = row["quant"].split(" ")[0].upper()
        if row["metric"] == "mmlu" and "gguf_alg_ext" in row["source"] and recipe in matrix:
            drop = log_odds(float(row["reference_value"]), 25) - log_odds(float(row["value"]), 25)
            shift = 0.0 if row["model"].startswith("Llama-3") else other
            general.append((matrix[recipe] * math.exp(shift), drop))
    # Aider's edit benchmark on Qwen2.5-Coder-32B through one server (quality_scores.csv): 71.4 at F16.
    aider = {"F16": 71.4, "Q4_K_M": 66.9, "Q2_K": 61.7}
    code = [
        (base[r] * math.exp(other), log_odds(aider["F16"], 0) - log_odds(aider[r], 0))
        for r in ("Q4_K_M", "Q2_K")
    ]
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
    losses = published_losses(table)
    slope, slope_error, used = size_exponent(table)
    fitted = fit_table(losses, prior_exponent(table))
    nats: dict[str, float] = fitted["nats"]
    base = {recipe: fmean(values) for recipe, values in found["Llama-3-8B"].items()}
    other = fmean(math.log(nats[recipe] / base[recipe]) for recipe in RECIPES)
    points, lines = points_per_nat(table, base, other)
    nats["MXFP4_MOE"] = round(mxfp4_divergence(table, points), 4)
    fitted["ln_sd_of_type"]["MXFP4_MOE"] = round(_LN_SD_OF_CAST, 3)
    bits = {
        row["quant"].upper(): float(row["bpw"])
        for row in table
        if row["model"] == "Llama-3-8B" and row["metric"] == "mean_kld" and "(" not in row["quant"]
    }
    result: dict[str, object] = {
        **fitted,
        "models": {id: fitted["models"][name] for name, id in (MEASURED | ALSO_KNOWN).items()},
        "family_of": FAMILIES,
        "bits_per_weight": {r: bits[r] for r in RECIPES if r in bits},
        "points_per_nat": {axis: round(value, 2) for axis, value in points.items()},
        "rows": len(losses),
        "models_fitted": len({loss.model for loss in losses}),
        "published": published(found, table),
    }
    alone = fit_table(losses, Exponent(0.0, 1.0))
    lines += [
        "size by the divergences alone: "
        f"{alone['exponent'] * math.log(10):.2f} ± {alone['exponent_sd'] * math.log(10):.2f} per decade",
        f"size: ln(loss) changes by {slope:.2f} ± {slope_error:.2f} per decade of size in {used} benchmark losses,"
        f" with the divergences by {fitted['exponent'] * math.log(10):.2f}",
        f"standard deviations of ln(loss): { {name: sd for name, sd in fitted.items() if name.startswith('ln_sd_')} }",
        f"families: {fitted['families']}",
        f"mean model against Llama 3 8B: {other:+.2f}; points per nat: {points}",
        f"MXFP4 cast {nats['MXFP4_MOE']:.3f} nats",
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
