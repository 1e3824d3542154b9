"""Fit the ability index behind `weigh recommend` and write src/weigh/data/quality_index.json.

    python benchmarks/quality_fit.py            # fit, write, print the checks that docs/quality.md quotes
    python benchmarks/quality_fit.py --check    # fit and compare with the file that is there

The idea: published scores are many noisy views of two hidden abilities per model, code and general. A
row is ``logit(score) = intercept + slope x (ability + boost if the model thought first) + noise``, with
one slope and noise per benchmark, one intercept per benchmark as printed in one source. Before its
scores are seen, a model's ability is a regression on size, active share, date and kind; each score then
pulls it away as far as its noise allows. A model without scores keeps the regression and its wide
uncertainty. Everything is fitted together by expectation maximisation; no library beyond Python's own.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

DATA = Path(__file__).parents[1] / "src" / "weigh" / "data"
CODE, GENERAL = 0, 1
AXES = ("code", "general")
REFERENCE = "meta-llama/Llama-3.1-8B-Instruct"  # stands at 50 on both axes
POINTS_PER_LOGIT = 10.0


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark is: its axis, the score of guessing, and what thinking first is worth.

    `thinking_boost` is in units of ability. It comes from the few models published in both modes and
    from the maker's tables of Qwen3 (large on contests and science questions, nil on edits): a prior,
    not a measurement.
    """

    axis: int
    chance: float = 0.0
    thinking_boost: float = 0.2
    weight: float = 1.0
    rank: int = 0  # which score to show first, highest first


BENCHMARKS = {
    "SWE-bench": Benchmark(CODE, thinking_boost=0.4, rank=9),
    "Aider polyglot": Benchmark(CODE, thinking_boost=0.0, rank=6),
    "LiveCodeBench": Benchmark(CODE, thinking_boost=1.3, rank=7),
    # HumanEval, MBPP and their harder twins share programs and prompts: half a vote each.
    "HumanEval+": Benchmark(CODE, weight=0.5, rank=8),
    "HumanEval": Benchmark(CODE, weight=0.5, rank=4),
    "MBPP+": Benchmark(CODE, weight=0.5, rank=3),
    "MBPP": Benchmark(CODE, weight=0.5, rank=2),
    "Aider edit": Benchmark(CODE, thinking_boost=0.0, rank=5),
    "HumanEval-Mul": Benchmark(CODE, weight=0.5, rank=1),
    "MMLU-Pro": Benchmark(GENERAL, chance=0.1, thinking_boost=0.5, rank=9),
    "GPQA": Benchmark(GENERAL, chance=0.25, thinking_boost=0.8, rank=8),
    "MMLU": Benchmark(GENERAL, chance=0.25, thinking_boost=0.3, rank=7),
    # Votes reward style and length too: a third of a vote.
    "LMArena text score": Benchmark(GENERAL, thinking_boost=0.2, weight=0.33, rank=6),
    "AA index": Benchmark(GENERAL, thinking_boost=0.7, rank=5),
    "MMLU-Redux": Benchmark(GENERAL, chance=0.25, thinking_boost=0.4, rank=4),
    "IFEval": Benchmark(GENERAL, weight=0.5, rank=3),
    "BBH": Benchmark(GENERAL, rank=2),
    "MATH": Benchmark(GENERAL, weight=0.5, thinking_boost=0.8, rank=1),
    "GSM8K": Benchmark(GENERAL, weight=0.5, thinking_boost=0.5, rank=1),
    "DROP": Benchmark(GENERAL, weight=0.5, rank=1),
    "ARC-C": Benchmark(GENERAL, chance=0.25, weight=0.5, rank=0),
}
ANCHORS = ("HumanEval+", "MMLU")  # slope 1: they give the two axes their unit
# These rows disagree with every other print of the same cards.
DOUBTED_VARIANTS = {"as in card, row order before the fix commit"}
# What a model that always thinks first gains in ordinary use; half of what contests show.
ALWAYS_THINKING = (0.3, 0.4)
TREND_ENDS = 1.6  # years after 2024-01 at which the bulk of the scores ends; beyond, half the slope
DATES_END = 2.3


@dataclass
class Model:
    """A model as the regression sees it, and its scores as (benchmark, group, logit, thought first)."""

    name: str
    total_b: float
    active_b: float
    year: float
    code: bool
    base: bool
    rows: list[tuple[str, str, float, bool]] = field(default_factory=list)
    mean: tuple[float, float] = (0.0, 0.0)
    cov: tuple[float, float, float] = (1.0, 0.0, 1.0)

    @property
    def features(self) -> tuple[float, ...]:
        return features(self.total_b, self.active_b, self.year, code=self.code, base=self.base)

    @property
    def maker(self) -> str:
        """Who made it, as the hub id says; models outside the catalog share none."""
        return self.name.split("/", maxsplit=1)[0]


def features(total_b: float, active_b: float, year: float, *, code: bool, base: bool) -> tuple[float, ...]:
    """What ability is predicted from; weigh.estimate.quality uses the same for models it does not know."""
    size = math.log10(max(total_b, 0.03))
    share = math.log10(max(active_b, 0.01) / total_b)
    small = max(0.0, math.log10(3) - size)
    # Code models of 2023 knew little else; the newer ones do: their own slope over the years.
    modern_code = code * (not base) * max(0.0, min(year - 2024, 1.0))
    kind = (float(code and not base), modern_code, float(base and not code), float(base and code))
    return (1.0, size, small, share, trend(year), *kind)


def trend(year: float) -> float:
    """Years since 2024-01, slowed where scores are few and stopped where there are none."""
    since = max(-4.0, min(year - 2024, DATES_END))
    return since if since <= TREND_ENDS else TREND_ENDS + (since - TREND_ENDS) / 2


def logit(score: float, benchmark: str) -> float:
    """Odds after taking out what guessing gives; LMArena points as the log odds of winning."""
    if benchmark == "LMArena text score":
        return (score - 1200) * math.log(10) / 400
    chance = BENCHMARKS[benchmark].chance
    share = (score / 100 - chance) / (1 - chance)
    share = min(0.985, max(0.015, share))
    return math.log(share / (1 - share))


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def year_of(text: str) -> float:
    day = date.fromisoformat(text)
    return day.year + (day.timetuple().tm_yday - 1) / 365


def catalog_models() -> dict[str, Model]:
    """Every model of the catalog, with the corrections of quality_kinds.csv."""
    stated = {m["id"]: m for m in json.loads((DATA / "models.json").read_text(encoding="utf-8"))}
    models = {}
    for kind in rows_of("quality_kinds.csv"):
        entry = stated[kind["model_id"]]
        total_b = float(kind["total_B"] or entry["params_total"] / 1e9)
        active_b = float(kind["active_B"] or entry["params_active"] / 1e9)
        released = kind["released"] or entry["release_date"]
        models[entry["id"]] = Model(
            entry["id"], total_b, min(active_b, total_b), year_of(released),
            kind["code"] == "yes", kind["kind"] == "base",
        )  # fmt: skip
    return models


def group_of(benchmark: str, variant: str, source: str) -> str:
    return f"{benchmark}|{variant}|{source.split(' ', maxsplit=1)[0]}"


def read_models() -> dict[str, Model]:
    """Catalog models and the other open models named in quality_names.csv, with their scores."""
    models = catalog_models()
    names = {row["name"]: row for row in rows_of("quality_names.csv")}
    for row in rows_of("quality_scores.csv"):
        name = names.get(row["model"])
        if name is None or row["benchmark"] not in BENCHMARKS or row["variant"] in DOUBTED_VARIANTS:
            continue
        key = name["model_id"] or name["name"]
        if key not in models:
            models[key] = Model(
                key, float(name["total_B"]), float(name["active_B"]), year_of(name["released"]),
                name["notes"] == "code", name["mode"] == "base",
            )  # fmt: skip
        add_row(models[key], row, name["mode"] == "thinking")
    for row in rows_of("quality_cards.csv"):
        add_row(models[row["model_id"]], row, row["mode"] == "thinking")
    return models


def add_row(model: Model, row: dict[str, str], thinking: bool) -> None:
    """Keep the score unless it is about what guessing gives, which says nothing of ability."""
    bench, score = BENCHMARKS[row["benchmark"]], float(row["score"])
    if bench.chance and (score / 100 - bench.chance) / (1 - bench.chance) < 0.05:
        return
    group = group_of(row["benchmark"], row["variant"], row["source"])
    model.rows.append((row["benchmark"], group, logit(float(row["score"]), row["benchmark"]), thinking))


@dataclass
class Fit:
    """Parameters: per benchmark a slope and a noise, per group an intercept, per axis a regression.

    `makers` holds how far a maker's models stand above the regression (code, general), drawn to zero.
    """

    slope: dict[str, float]
    noise: dict[str, float]
    intercept: dict[str, float]
    coefficients: list[list[float]]
    residual: tuple[float, float, float]  # variance of code about the regression, covariance, of general
    makers: dict[str, tuple[float, float]] = field(default_factory=dict)

    def prior(self, model: Model) -> tuple[float, float]:
        x = model.features
        code, general = (sum(c * v for c, v in zip(row, x, strict=True)) for row in self.coefficients)
        above = self.makers.get(model.maker, (0.0, 0.0))
        return code + above[0], general + above[1]


def posterior(
    model: Model, fit: Fit, rows: Iterable[tuple[str, str, float, bool]]
) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Mean and covariance (code, cross, general) of a model's abilities given `rows`."""
    var_c, cross, var_g = fit.residual
    det = var_c * var_g - cross * cross
    p_cc, p_cg, p_gg = var_g / det, -cross / det, var_c / det
    m_c, m_g = fit.prior(model)
    h_c, h_g = p_cc * m_c + p_cg * m_g, p_cg * m_c + p_gg * m_g
    for name, group, value, thinking in rows:
        bench, slope = BENCHMARKS[name], fit.slope[name]
        weight = bench.weight / fit.noise[name]
        seen = value - fit.intercept.get(group, fit.intercept[name])
        seen -= slope * bench.thinking_boost * thinking
        if bench.axis == CODE:
            p_cc, h_c = p_cc + weight * slope * slope, h_c + weight * slope * seen
        else:
            p_gg, h_g = p_gg + weight * slope * slope, h_g + weight * slope * seen
    det = p_cc * p_gg - p_cg * p_cg
    cov = (p_gg / det, -p_cg / det, p_cc / det)
    return (cov[0] * h_c + cov[1] * h_g, cov[1] * h_c + cov[2] * h_g), cov


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gaussian elimination with pivoting; the systems here have nine unknowns."""
    n = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def regression(models: Sequence[Model], axis: int, makers: Mapping[str, tuple[float, float]]) -> list[float]:
    """Ridge regression of ability, less what the maker adds, on the features."""
    n = len(models[0].features)
    ridge = [1e-3, 0.3, 0.3, 1.0, 0.3, 0.3, 0.3, 0.3, 0.3]
    matrix = [[ridge[i] if i == j else 0.0 for j in range(n)] for i in range(n)]
    right = [0.0] * n
    right[3] = 0.5 * ridge[3]  # prior: an idle expert is worth half as much as an active weight
    for model in models:
        for i, a in enumerate(model.features):
            right[i] += a * (model.mean[axis] - makers.get(model.maker, (0.0, 0.0))[axis])
            for j, b in enumerate(model.features):
                matrix[i][j] += a * b
    return solve(matrix, right)


def makers_above(models: Sequence[Model], fit: Fit) -> dict[str, tuple[float, float]]:
    """Mean gap between a maker's models and the regression, as if four models at zero were added."""
    plain = Fit(fit.slope, fit.noise, fit.intercept, fit.coefficients, fit.residual)
    gaps: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for model in models:
        if "/" in model.name and not model.base:
            prior = plain.prior(model)
            gaps[model.maker].append((model.mean[0] - prior[0], model.mean[1] - prior[1]))
    return {
        maker: (sum(c for c, _ in found) / (len(found) + 4), sum(g for _, g in found) / (len(found) + 4))
        for maker, found in gaps.items()
    }


def update_benchmarks(models: Sequence[Model], fit: Fit) -> None:
    """New intercepts, slopes and noises given the models' current abilities."""
    seen: dict[str, list[tuple[str, float, float, float]]] = defaultdict(list)
    for model in models:
        for name, group, value, thinking in model.rows:
            bench = BENCHMARKS[name]
            ability = model.mean[bench.axis] + bench.thinking_boost * thinking
            seen[name].append((group, value, ability, model.cov[0 if bench.axis == CODE else 2]))
    for name, rows in seen.items():
        update_benchmark(name, rows, fit)


def update_benchmark(name: str, rows: list[tuple[str, float, float, float]], fit: Fit) -> None:
    slope = fit.slope[name]
    fit.intercept[name] = fmean(value - slope * ability for _, value, ability, _ in rows)
    groups: dict[str, list[float]] = defaultdict(list)
    for group, value, ability, _ in rows:
        groups[group].append(value - slope * ability)
    for group, values in groups.items():  # each print's own intercept, drawn to the benchmark's
        pull = fit.noise[name] / 0.3**2
        fit.intercept[group] = (sum(values) + pull * fit.intercept[name]) / (len(values) + pull)
    if name not in ANCHORS:
        top = sum((value - fit.intercept[group]) * ability for group, value, ability, _ in rows)
        low = sum(ability * ability + var for _, _, ability, var in rows)
        fit.slope[name] = max(0.2, (top + 3.0) / (low + 3.0))
    slope = fit.slope[name]
    squares = sum((v - fit.intercept[g] - slope * a) ** 2 + slope * slope * s for g, v, a, s in rows)
    fit.noise[name] = (squares + 4 * 0.3**2) / (len(rows) + 4)


def step(models: Sequence[Model], fit: Fit) -> None:
    """One round of expectation maximisation over models that have scores."""
    for model in models:
        model.mean, model.cov = posterior(model, fit, model.rows)
    update_benchmarks(models, fit)
    fit.coefficients = [regression(models, axis, fit.makers) for axis in (CODE, GENERAL)]
    fit.makers = makers_above(models, fit)
    gaps = [(m.mean[0] - p[0], m.mean[1] - p[1], m.cov) for m, p in ((m, fit.prior(m)) for m in models)]
    fit.residual = (
        fmean(c * c + v[0] for c, _, v in gaps),
        fmean(c * g + v[1] for c, g, v in gaps),
        fmean(g * g + v[2] for _, g, v in gaps),
    )


def fitted(models: Sequence[Model], rounds: int = 100) -> Fit:
    used = {row[0] for m in models for row in m.rows}
    fit = Fit(
        slope=dict.fromkeys(used, 1.0),
        noise=dict.fromkeys(used, 0.25),
        intercept=dict.fromkeys(used, 0.0),
        coefficients=[[0.0, 1.5, 0, 0.7, 0.5, 0.3, 0, -0.3, 0], [0.0, 1.2, 0, 0.6, 0.4, 0, 0, -0.3, 0]],
        residual=(0.5, 0.2, 0.4),
    )
    for _ in range(rounds):
        step(models, fit)
    return fit


# --- checks -----------------------------------------------------------------------------------------


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    def ranks(values: Sequence[float]) -> list[float]:
        order = sorted(range(len(values)), key=values.__getitem__)
        out = [0.0] * len(values)
        for place, index in enumerate(order):
            out[index] = float(place)
        return out

    x, y = ranks(a), ranks(b)
    mx, my = fmean(x), fmean(y)
    top = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
    return top / math.sqrt(sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y))


def own_ability(model: Model, fit: Fit, axis: int) -> tuple[float, float] | None:
    """Ability its scores alone say, without the regression, and that figure's variance."""
    total = weight_sum = 0.0
    for name, group, value, thinking in model.rows:
        bench, slope = BENCHMARKS[name], fit.slope[name]
        if bench.axis == axis:
            weight = bench.weight * slope * slope / fit.noise[name]
            total += weight * ((value - fit.intercept[group]) / slope - bench.thinking_boost * thinking)
            weight_sum += weight
    return (total / weight_sum, 1 / weight_sum) if weight_sum else None


def leave_one_model_out(models: Sequence[Model], fit: Fit) -> dict[str, float]:
    """Predict what a model's scores say from its size, date and kind alone, fitted without it."""
    truth: dict[int, list[float]] = {CODE: [], GENERAL: []}
    guess: dict[int, list[float]] = {CODE: [], GENERAL: []}
    inside, total = 0, 0
    for model in models:
        rest = [m for m in models if m is not model]
        alone = Fit(fit.slope, fit.noise, fit.intercept, [], fit.residual)
        alone.coefficients = [regression(rest, axis, fit.makers) for axis in (CODE, GENERAL)]
        alone.makers = makers_above(rest, alone)
        prior = alone.prior(model)
        for axis in (CODE, GENERAL):
            own = own_ability(model, fit, axis)
            if own is not None:
                truth[axis].append(own[0])
                guess[axis].append(prior[axis])
                spread = math.sqrt(fit.residual[2 * axis] + own[1])
                inside += abs(own[0] - prior[axis]) <= 1.2816 * spread
                total += 1
    result = {"coverage of the 80 % interval": inside / total, "abilities": total}
    for axis in (CODE, GENERAL):
        result[f"rank correlation, {AXES[axis]}"] = spearman(truth[axis], guess[axis])
        errors = [abs(a - b) for a, b in zip(truth[axis], guess[axis], strict=True)]
        result[f"median error in points, {AXES[axis]}"] = POINTS_PER_LOGIT * sorted(errors)[len(errors) // 2]
    return result


def leave_one_benchmark_out(models: Sequence[Model], fit: Fit) -> dict[str, float]:
    """Predict a model's score on one benchmark from its scores on the others."""
    inside, errors = 0, []
    for model in models:
        for name in {row[0] for row in model.rows}:
            family = name.split("+")[0].split("-")[0]
            others = [row for row in model.rows if not row[0].startswith(family)]
            if not others:
                continue
            mean, cov = posterior(model, fit, others)
            for row in (r for r in model.rows if r[0] == name):
                bench, slope = BENCHMARKS[name], fit.slope[name]
                said = fit.intercept[row[1]] + slope * (mean[bench.axis] + bench.thinking_boost * row[3])
                var = slope**2 * cov[0 if bench.axis == CODE else 2] + fit.noise[name]
                inside += abs(row[2] - said) <= 1.2816 * math.sqrt(var)
                errors.append(abs(row[2] - said))
    return {
        "rows": len(errors),
        "coverage of the 80 % interval": inside / len(errors),
        "median error in points": POINTS_PER_LOGIT * sorted(errors)[len(errors) // 2],
    }


# --- writing ----------------------------------------------------------------------------------------


def rival_card(source: str, maker: str) -> bool:
    return "model card" in source and f"/{maker}/" not in source


def headline(
    model_id: str, axis: int, scores: Sequence[tuple[str, str, float, str, str]]
) -> dict[str, object]:
    """The score to show for an axis: not from a rival's card if avoidable, then by benchmark, then newest."""
    fitting = [s for s in scores if BENCHMARKS[s[0]].axis == axis]
    if not fitting:
        return {"text": "unknown", "source": ""}
    maker = model_id.split("/", maxsplit=1)[0]
    best = max(fitting, key=lambda s: (not rival_card(s[3], maker), BENCHMARKS[s[0]].rank, s[4]))
    text = best[0].removesuffix(" text score")
    value = f"{best[2]:.0f}" if best[0] == "LMArena text score" else f"{best[2]:.1f}"
    thought = " thinking" if best[1] == "thinking" else ""
    return {"text": f"{text} {value}{thought}", "source": best[3]}


def published_rows() -> dict[str, list[tuple[str, str, float, str, str]]]:
    """Catalog id to (benchmark, mode, score, source, date)."""
    names = {r["name"]: r for r in rows_of("quality_names.csv") if r["model_id"]}
    found: dict[str, list[tuple[str, str, float, str, str]]] = defaultdict(list)
    for row in rows_of("quality_scores.csv"):
        name = names.get(row["model"])
        if name and row["benchmark"] in BENCHMARKS and row["variant"] not in DOUBTED_VARIANTS:
            line = (row["benchmark"], name["mode"], float(row["score"]), row["source"], row["date"])
            found[name["model_id"]].append(line)
    for row in rows_of("quality_cards.csv"):
        line = (row["benchmark"], row["mode"], float(row["score"]), row["source"], row["date"])
        found[row["model_id"]].append(line)
    return found


def index_of(models: dict[str, Model], fit: Fit) -> dict[str, object]:
    """The file's content: the index per catalog id, and the regression for models it does not hold."""
    reference, _ = posterior(models[REFERENCE], fit, models[REFERENCE].rows)
    kinds = {row["model_id"]: row for row in rows_of("quality_kinds.csv")}
    published = published_rows()

    def points(ability: float, axis: int) -> float:
        return round(50 + POINTS_PER_LOGIT * (ability - reference[axis]), 2)

    entries = {}
    for model_id, kind in kinds.items():
        model = models[model_id]
        mean, cov = posterior(model, fit, model.rows)
        entry: dict[str, object] = {
            "kind": kind["kind"], "fim": kind["fim"] == "yes", "thinking": kind["thinking"],
            "native_format": kind["native_format"], "moe": model.active_b < 0.7 * model.total_b,
            "year": round(model.year, 2),
        }  # fmt: skip
        for axis, name in enumerate(AXES):
            boost = ALWAYS_THINKING[axis] if kind["thinking"] == "always" else 0.0
            count = sum(BENCHMARKS[row[0]].axis == axis for row in model.rows)
            entry[name] = {
                "value": points(mean[axis] + boost, axis),
                "sd": round(POINTS_PER_LOGIT * math.sqrt(cov[2 * axis]), 2),
                "n": count,
                "basis": "published" if count else "rule-of-thumb",
                "headline": headline(model_id, axis, published.get(model_id, [])),
            }
        entries[model_id] = entry
    return {"reference": REFERENCE, "models": entries, "predictor": predictor(fit, points)}


def predictor(fit: Fit, points: Callable[[float, int], float]) -> dict[str, object]:
    """The regression in index points, for a model known only by its size."""
    return {
        name: {
            "intercept": points(fit.coefficients[axis][0], axis),
            "coefficients": [round(POINTS_PER_LOGIT * c, 3) for c in fit.coefficients[axis][1:]],
            "sd": round(POINTS_PER_LOGIT * math.sqrt(fit.residual[2 * axis]), 2),
        }
        for axis, name in enumerate(AXES)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    models = read_models()
    scored = [m for m in models.values() if m.rows]
    fit = fitted(scored)
    content = index_of(models, fit)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    target = DATA / "quality_index.json"
    if check:
        same = target.read_text(encoding="utf-8") == text
        print("quality_index.json is up to date" if same else "quality_index.json differs")
        raise SystemExit(0 if same else 1)
    target.write_text(text, encoding="utf-8")
    report(content, models, scored, fit)


def print_order(content: Mapping[str, Any], models: Mapping[str, Model], axis: str) -> None:
    """The best of each size class by the low end of the interval, as docs/quality.md shows them."""
    entries = content["models"]
    for low, high in ((0, 2.2), (2.2, 5), (5, 10), (10, 17), (17, 40)):
        some = [m for m in entries if low < models[m].total_b <= high and entries[m]["kind"] != "base"]
        some.sort(key=lambda m: 1.28 * entries[m][axis]["sd"] - entries[m][axis]["value"])
        said = (
            f"{m.split('/')[1]} {entries[m][axis]['value']:.0f}±{entries[m][axis]['sd']:.0f}"
            for m in some[:8]
        )
        print(f"{axis} {low}-{high} B: " + ", ".join(said))


def report(content: Mapping[str, Any], models: dict[str, Model], scored: Sequence[Model], fit: Fit) -> None:
    for axis in AXES:
        print_order(content, models, axis)
    print(f"{len(scored)} models with {sum(len(m.rows) for m in scored)} scores")
    for name, model_out in (
        ("left out whole model", leave_one_model_out(scored, fit)),
        ("left out one benchmark", leave_one_benchmark_out(scored, fit)),
    ):
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in model_out.items()))
    for axis, name in enumerate(AXES):
        print(name, [round(POINTS_PER_LOGIT * c, 1) for c in fit.coefficients[axis]])
    best = sorted(fit.makers.items(), key=lambda item: -item[1][CODE])
    print("makers, code points:", ", ".join(f"{m} {POINTS_PER_LOGIT * v[CODE]:+.1f}" for m, v in best))
    print("residual sd, points", [round(POINTS_PER_LOGIT * math.sqrt(fit.residual[i]), 1) for i in (0, 2)])
    for name in sorted(fit.slope):
        print(f"  {name:20} slope {fit.slope[name]:.2f} noise {10 * math.sqrt(fit.noise[name]):.1f}")


if __name__ == "__main__":
    main()
