"""Fit the effects of `weigh.estimate.device_speed` to published runs, and say how far off strangers come out.

Reads `benchmarks/data/device_runs.csv` (made by device_rows.py), writes `src/weigh/data/device_rates.json`.
The logarithm of a run's time is fitted, by Gauss-Newton with Huber weights; every effect is drawn to a prior
(Gaussian, `PRIORS`), so that those with few runs stay near one. Many runs of one model on one device count as
the root of their number. To judge it, each device is left out in turn and predicted from the others.

    python benchmarks/device_rates_fit.py            # fit, judge, write
    python benchmarks/device_rates_fit.py --check    # fit and compare with the file
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.device_speed import (
    Run,
    Term,
    decode_terms,
    integer_gain,
    pipeline_share,
    prefill_terms,
    whole,
)
from weigh.machine.device_names import Ram
from weigh.machine.devices import gpu_sheets, host_sheets
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec

RUNS = Path(__file__).with_name("data") / "device_runs.csv"
RATES = Path(__file__).parents[1] / "src" / "weigh" / "data" / "device_rates.json"

# First words of an effect's name, for all or for one backend or more, -> (mean, standard deviation) of its
# logarithm. Chosen by hand from what is known of such devices, and looked at again after a first trial on these
# same runs: the errors below are a little kind to them.
PRIORS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "decode": {
        "bytes": (math.log(1.3), 0.3),
        "bytes * *": (0.0, 0.12),
        "bytes HBM": (0.3, 0.3),
        "device": (0.0, 0.12),
        "format": (0.0, 0.2),
        "format * *": (0.0, 0.12),
        "experts": (0.2, 0.3),
        "experts *": (0.0, 0.2),
        "kv": (math.log(1.5), 0.5),
        "kv *": (0.0, 0.4),
        "launch": (0.0, 0.6),
        "launch *": (0.0, 0.4),
        "route": (0.0, 0.6),
        "route *": (0.0, 0.4),
        "era": (0.0, 0.4),
        "era 2024 bytes": (0.0, 0.15),
        "era 2025 bytes": (0.0, 0.15),
        "era 2024 kv": (0.0, 0.6),
    },
    "prefill": {
        "flops": (math.log(2.0), 0.6),
        "flops * *": (0.0, 0.3),
        "device": (0.0, 0.2),
        "format": (0.0, 0.35),
        "experts": (0.3, 0.5),
        "experts *": (0.0, 0.3),
        "attention": (math.log(3.0), 0.8),
        "attention *": (0.0, 0.5),
        "launch": (0.0, 0.8),
        "launch *": (0.0, 0.5),
        "stream": (-0.3, 0.5),
        "era": (0.0, 0.5),
    },
}
NOISE = {"decode": 0.08, "prefill": 0.12}  # of one run, in logarithms
HUBER = 1.5
COVERED = 0.8
FEW_RUNS = 3
PRINTED_13900K_MT_PER_S = 6400  # said in its rows
DEFAULTS = Settings()


class Observed(NamedTuple):
    """A published run in the formula's terms."""

    device: str
    model: str
    experts: bool
    on_host: bool
    terms: tuple[Term, ...]
    log_s: float
    weight: float

    @property
    def kind(self) -> str:
        return "experts" if self.experts else "dense"


Effects = dict[str, float]


# --- rows ---------------------------------------------------------------------------------------------------


def read_runs() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Runs on one device, which are fitted, and runs on several cards alike, which are only predicted."""
    with RUNS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    one = [row for row in rows if int(row["gpus"]) <= 1]
    return one, [row for row in rows if int(row["gpus"]) > 1]


def era(row: Mapping[str, str]) -> str:
    """Builds of another time: early 2024, and the first ones for Strix Halo of mid 2025."""
    if "XiongjieDai" in row["source"] or row["device"] in (
        "NVIDIA Tesla P40",
        "NVIDIA Tesla V100 PCIe 32 GB",
    ):
        return "2024"
    return "2025" if "lhl/strix-halo-testing" in row["source"] else ""


@dataclass(frozen=True)
class Machine:
    run: Run
    bytes_per_s: float
    flops_per_s: float


def machine(row: Mapping[str, str]) -> Machine:
    if row["on"] == "host":
        host = next(h for h in host_sheets() if h.name == row["device"])
        rate = PRINTED_13900K_MT_PER_S if "13900K" in host.name else None
        run = Run("CPU", host.generation, host.name, era=era(row))
        peak = host.fp32_flops_per_s * integer_gain(host.features)
        return Machine(run, host.bandwidth_bytes_per_s(Ram(None, None, rate)), peak)
    sheet = next(g for g in gpu_sheets() if g.name == row["device"])
    run = Run(row["backend"], sheet.generation, sheet.name, "HBM" in sheet.memory_type, era(row))
    assert sheet.fp16_flops_per_s is not None
    return Machine(run, sheet.bandwidth_bytes_per_s, sheet.fp16_flops_per_s)


def observed(rows: Iterable[Mapping[str, str]], kind: str) -> list[Observed]:
    specs: dict[tuple[str, str], ModelSpec] = {}
    rows = [row for row in rows if row["kind"] == kind]
    repeats = Counter((r["device"], r["backend"], r["model"], r["recipe"]) for r in rows)
    found = []
    for row in rows:
        key = (row["model"], row["recipe"])
        spec = specs.get(key) or specs.setdefault(key, quantize(catalog().by_id[key[0]].spec(), key[1]))
        name = row["device"] if row["on"] == "gpu" else f"{row['device']} CPU"
        count = repeats[row["device"], row["backend"], *key]
        terms, seconds = terms_of(row, spec, kind)
        found.append(
            Observed(
                name,
                row["model"],
                bool(spec.experts),
                row["on"] == "host",
                terms,
                math.log(seconds),
                1 / math.sqrt(count),
            )
        )
    return found


def terms_of(row: Mapping[str, str], spec: ModelSpec, kind: str) -> tuple[tuple[Term, ...], float]:
    """The run's terms, and its seconds: of a step in decode, of the whole prompt in prefill."""
    on = machine(row)
    tokens, depth, speed = int(row["tokens"]), int(row["depth"]), float(row["tokens_per_s"])
    if kind == "tg":
        cached = depth + tokens / 2
        terms = decode_terms(whole(spec), on.run, on.bytes_per_s, DEFAULTS, cached_tokens=cached)
        return tuple(terms), 1 / speed
    terms = prefill_terms(
        whole(spec),
        on.run,
        on.bytes_per_s,
        on.flops_per_s,
        tokens=tokens,
        depth=depth,
        ubatch=min(int(row["ubatch"]), tokens),
    )
    return tuple(terms), tokens / speed


# --- the fit ------------------------------------------------------------------------------------------------


def prior(name: str, table: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Of the longest pattern: `bytes * *` for `bytes CUDA Ampere`, whose last word may hold spaces."""
    first, *rest = name.split(" ")
    if name in table:
        return table[name]
    for stars in range(min(len(rest), 2), -1, -1):
        found = table.get(" ".join([first, *"*" * stars]))
        if found is not None:
            return found
    raise KeyError(name)


def fit(
    runs: Sequence[Observed], kind: str, start: Mapping[str, float] | None = None, rounds: int = 12
) -> Effects:
    table = PRIORS[kind]
    names = sorted({name for run in runs for term in run.terms for name in term.effects})
    place = {name: i for i, name in enumerate(names)}
    priors = [prior(name, table) for name in names]
    theta = [(start or {}).get(name, mean) for name, (mean, _) in zip(names, priors, strict=True)]
    for _ in range(rounds):
        matrix = [[0.0] * len(names) for _ in names]
        right = [0.0] * len(names)
        for run in runs:
            add_run(run, theta, place, NOISE[kind], matrix, right)
        for i, (mean, deviation) in enumerate(priors):
            matrix[i][i] += deviation**-2
            right[i] += (mean - theta[i]) / deviation**2
        change = solved(matrix, right)
        largest = max(abs(c) for c in change)
        theta = [t + c / max(1.0, largest) for t, c in zip(theta, change, strict=True)]
        if largest < 1e-3:
            break
    return dict(zip(names, theta, strict=True))


def add_run(
    run: Observed,
    theta: Sequence[float],
    place: Mapping[str, int],
    noise: float,
    matrix: list[list[float]],
    right: list[float],
) -> None:
    """Its part of the normal equations: the slope in an effect is the share of time that it multiplies."""
    times = [term.seconds * math.exp(sum(theta[place[n]] for n in term.effects)) for term in run.terms]
    total = sum(times)
    slopes: dict[int, float] = defaultdict(float)
    for time, term in zip(times, run.terms, strict=True):
        for name in term.effects:
            slopes[place[name]] += time / total
    gap = run.log_s - math.log(total)
    weight = run.weight / noise**2 * min(1.0, HUBER * noise / max(abs(gap), 1e-12))
    for i, slope in slopes.items():
        right[i] += weight * slope * gap
        row = matrix[i]
        for j, other in slopes.items():
            row[j] += weight * slope * other


def solved(matrix: list[list[float]], right: Sequence[float]) -> list[float]:
    """A symmetric positive definite system, by Cholesky."""
    n = len(right)
    lower = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(a * b for a, b in zip(lower[i][:j], lower[j][:j], strict=True))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    forward: list[float] = []
    for i in range(n):
        forward.append((right[i] - sum(lower[i][k] * forward[k] for k in range(i))) / lower[i][i])
    found = [0.0] * n
    for i in reversed(range(n)):
        found[i] = (forward[i] - sum(lower[k][i] * found[k] for k in range(i + 1, n))) / lower[i][i]
    return found


def gap(run: Observed, effects: Mapping[str, float], kind: str) -> float:
    """Logarithm of measured over predicted time; effects nobody fitted stay at their prior's mean."""
    table = PRIORS[kind]

    def effect(name: str) -> float:
        return effects[name] if name in effects else prior(name, table)[0]

    total = sum(t.seconds * math.exp(sum(effect(n) for n in t.effects)) for t in run.terms)
    return run.log_s - math.log(total)


# --- how good ----------------------------------------------------------------------------------------------


class Gap(NamedTuple):
    device: str
    model: str
    where: str
    kind: str
    value: float


def without(effects: Effects, device: str) -> Effects:
    return {name: v for name, v in effects.items() if not name.startswith(f"device {device} ")}


def leave_out(
    runs: Sequence[Observed], kind: str, full: Effects, group: Callable[[Observed], object], where: str
) -> list[Gap]:
    """Predict each group of runs from a fit to the others."""
    found = []
    for left in sorted({group(run) for run in runs}, key=str):
        rest = [run for run in runs if group(run) != left]
        start = without(full, str(left)) if where == "related" else full
        effects = fit(rest, kind, start, rounds=6)
        for run in runs:
            if group(run) == left:
                place = "host" if run.on_host else where
                found.append(Gap(run.device, run.model, place, run.kind, gap(run, effects, kind)))
    return found


def weighted_quantile(values: Sequence[tuple[float, float]], share: float) -> float:
    total = sum(weight for _, weight in values)
    seen = 0.0
    for value, weight in sorted(values):
        seen += weight
        if seen >= share * total:
            return value
    return max(value for value, _ in values)


def half_width(gaps: Sequence[Gap]) -> float:
    """That holds 80 % of the gaps, every device counting as the root of its runs."""
    count = Counter(g.device for g in gaps)
    return weighted_quantile([(abs(g.value), 1 / math.sqrt(count[g.device])) for g in gaps], COVERED)


def widths(gaps: Sequence[Gap]) -> dict[str, float]:
    """By where and kind; experts no less than dense models, and 1.5 times that on fewer than three devices."""
    found: dict[str, float] = {}
    for where in ("published", "related", "host"):
        dense, experts = ([g for g in gaps if (g.where, g.kind) == (where, k)] for k in ("dense", "experts"))
        found[f"{where} dense"] = width = half_width(dense)
        known = len({g.device for g in experts}) >= FEW_RUNS
        found[f"{where} experts"] = max(width, half_width(experts)) if known else 1.5 * width
    return found


def coverage(gaps: Sequence[Gap], where: str) -> tuple[float, float]:
    """Share of runs, and mean over devices, inside an interval that was set without their device."""
    inside: dict[str, list[bool]] = defaultdict(list)
    for device in sorted({g.device for g in gaps if g.where == where}):
        others = widths([g for g in gaps if g.device != device])
        for g in gaps:
            if g.device == device and g.where == where:
                inside[device].append(abs(g.value) <= others[f"{where} {g.kind}"])
    every = [hit for hits in inside.values() for hit in hits]
    means = [sum(hits) / len(hits) for hits in inside.values()]
    return sum(every) / len(every), sum(means) / len(means)


def percent(log_gaps: Sequence[float]) -> float:
    return 100 * math.expm1(median(abs(g) for g in log_gaps))


def report(kind: str, gaps: Sequence[Gap]) -> None:
    for where in ("related", "published", "host"):
        some = [g for g in gaps if g.where == where]
        rows, devices = coverage(gaps, where)
        print(
            f"{kind} {where}: {len(some)} runs, {len({g.device for g in some})} devices,"
            f" median error {percent([g.value for g in some]):.1f} %,"
            f" 80 % interval holds {100 * rows:.0f} % of runs, {100 * devices:.0f} % by device"
        )
        for model_kind in ("dense", "experts"):
            part = [g.value for g in some if g.kind == model_kind]
            if part:
                print(f"    {model_kind}: {len(part)} runs, median error {percent(part):.1f} %")
    by_device: dict[str, list[float]] = defaultdict(list)
    for g in gaps:
        if g.where != "published":
            by_device[g.device].append(g.value)
    for device, values in sorted(by_device.items()):
        print(
            f"      {device:34} {len(values):3} runs, takes {math.exp(median(values)):.2f} x the time predicted"
        )


def report_several(kind: str, code: str, rows: Sequence[Mapping[str, str]], effects: Effects) -> None:
    """Decode takes as long as on one such card, had it the memory; prefill is shared out by micro-batches."""
    rows = [row for row in rows if row["kind"] == code]
    gaps = []
    for row, run in zip(rows, observed(rows, code), strict=True):
        share = 1.0
        if kind == "prefill":
            tokens, ubatch = int(row["tokens"]), int(row["ubatch"])
            per_batch = max(1, DEFAULTS.batch_tokens // ubatch)
            share = pipeline_share(int(row["gpus"]), math.ceil(tokens / ubatch), per_batch)
        gaps.append(gap(run, effects, kind) - math.log(share))
    print(
        f"{kind} on several cards by layers: {len(gaps)} runs, median error {percent(gaps):.1f} %,"
        f" take {math.exp(median(gaps)):.2f} x the time predicted"
    )


def judged(rows: Sequence[Mapping[str, str]], kind: str, code: str) -> tuple[dict[str, object], list[Gap]]:
    runs = observed(rows, code)
    effects = fit(runs, kind)
    gaps = leave_out(runs, kind, effects, lambda run: run.device, "related")
    count = Counter(run.device for run in runs)
    known = [run for run in runs if count[run.device] >= FEW_RUNS and not run.on_host]
    # a tenth of the models at a time: each is predicted by the others on the same device
    models = {model: i % 10 for i, model in enumerate(sorted({run.model for run in known}))}
    inside = leave_out(known, kind, effects, lambda run: models[run.model], "published")
    every = gaps + inside
    kept = {name: round(value, 4) for name, value in effects.items() if not name.startswith("era")}
    backends = Counter(f"{r['device']} {r['backend']}" for r in rows if r["kind"] == code)
    errors = {name: round(width, 3) for name, width in widths(every).items()}
    return {"effects": kept, "errors": errors, "runs": dict(sorted(backends.items()))}, every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    check = parser.parse_args().check
    rows, on_several = read_runs()
    content = {}
    for kind, code in (("decode", "tg"), ("prefill", "pp")):
        content[kind], gaps = judged(rows, kind, code)
        report(kind, gaps)
        report_several(kind, code, on_several, fit(observed(rows, code), kind))
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    if check:
        same = RATES.read_text(encoding="utf-8") == text
        print("device_rates.json is up to date" if same else "device_rates.json differs")
        raise SystemExit(0 if same else 1)
    RATES.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
