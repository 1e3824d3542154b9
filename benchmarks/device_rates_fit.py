"""Fit the effects of `weigh.estimate.device_speed` to published runs, and say how far off strangers come out.

Reads `benchmarks/data/device_runs.csv` (made by device_rows.py); writes `src/weigh/data/device_rates.json` and,
run by run, what was predicted without it, `benchmarks/data/device_predictions.csv`. Needs numpy.

device_observed.py reads the runs, device_effects.py fits them, device_left_out.py judges.

    python benchmarks/device_rates_fit.py            # fit, judge, write
    python benchmarks/device_rates_fit.py --check    # fit, compare all but the widths with the file
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from device_intervals import learned
from device_left_out import KINDS, Gap, Judged, all_gaps, judge_of, judged
from device_observed import DATA, Observed, read_runs

PREDICTIONS = DATA / "device_predictions.csv"
RATES = Path(__file__).parents[1] / "src" / "weigh" / "data" / "device_rates.json"


def percent(log_gaps: Iterable[float]) -> float:
    """Median of |predicted / measured - 1| of speeds."""
    return 100 * median(abs(math.expm1(g)) for g in log_gaps)


def measured_weights(runs: Sequence[Observed]) -> dict[str, list[int]]:
    """Of the models that were measured on each device."""
    found: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        found[f"{run.device.removesuffix(' CPU')} {run.backend}"].add(run.weights)
    return {name: sorted(each) for name, each in sorted(found.items())}


def report(kind: str, results: Sequence[Judged]) -> None:
    for what in ("device", "generation", "model"):
        cells: dict[tuple[str, str, str], list[Judged]] = defaultdict(list)
        for result in results:
            if result.gap.left_out == what:
                run = result.gap.run
                cells[run.family, run.kind, "several" if run.cards > 1 else "one"].append(result)
        for cell, some in sorted(cells.items()):
            print(
                f"{kind} without its {what}, {' '.join(cell)}: {len(some)} runs,"
                f" {len({r.gap.run.device for r in some})} devices,"
                f" median error {percent(r.gap.value for r in some):.1f} %,"
                f" interval holds {100 * sum(r.inside for r in some) / len(some):.0f} %"
            )
    by_device: dict[tuple[str, str], list[float]] = defaultdict(list)
    for r in results:
        if r.gap.left_out == "device":
            by_device[r.gap.run.device, r.gap.run.backend].append(r.gap.value)
    for (device, backend), values in sorted(by_device.items()):
        times = math.exp(median(values))
        print(f"      {device:34} {backend:7} {len(values):3} runs, takes {times:.2f} x the time predicted")


def todays(terms: Mapping[str, float]) -> dict[str, float]:
    """Terms less those of older builds."""
    return {name: round(value, 4) for name, value in terms.items() if not name.startswith("era")}


def write_predictions(results: Mapping[str, Sequence[Judged]]) -> None:
    """A line for each run and what it was predicted without; `row` counts the lines of device_runs.csv from 0."""
    rows = read_runs()
    lines = []
    for kind, some in results.items():
        for r in some:
            g = r.gap
            row = rows[g.run.number]
            predicted = float(row["tokens_per_s"]) * math.exp(g.value)
            low, high = predicted / math.exp(r.width), predicted * math.exp(r.width)
            described = (kind, g.left_out, g.known, g.run.family, g.run.kind)
            lines.append((g.run.number, *described, f"{predicted:.4g}", f"{low:.4g}", f"{high:.4g}"))
    with PREDICTIONS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "speed", "without", "known", "device", "model", "predicted", "low", "high"))
        writer.writerows(sorted(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare all but the widths with the file")
    check = parser.parse_args().check
    content: dict[str, dict[str, object]] = {}
    results: dict[str, list[Judged]] = {}
    for kind in KINDS:
        judge = judge_of(kind)
        variant, effects = judge.all_runs()
        print(f"{kind}: {variant}")
        if check:
            gaps: list[Gap] = []
        else:
            gaps = all_gaps(kind)
            results[kind] = judged(gaps)
            report(kind, results[kind])
        counts = Counter(f"{r.device.removesuffix(' CPU')} {r.backend}" for r in judge.runs)
        content[kind] = {
            "effects": todays(effects),
            "weights": measured_weights(judge.runs),
            "pipeline": tuple(variant.line),
            "widths": todays(learned([g.miss for g in gaps])) if gaps else None,
            "runs": dict(sorted(counts.items())),
            "generations": sorted({f"{r.backend} {r.generation}" for r in judge.runs}),
        }
    if check:
        kept = json.loads(RATES.read_text(encoding="utf-8"))
        made = json.loads(json.dumps(content))
        same = all({**made[kind], "widths": kept[kind]["widths"]} == kept[kind] for kind in KINDS)
        print("device_rates.json is up to date" if same else "device_rates.json differs")
        raise SystemExit(0 if same else 1)
    RATES.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_predictions(results)


if __name__ == "__main__":
    main()
