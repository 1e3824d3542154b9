"""Fit the effects of `weigh.estimate.serving_speed` to published runs, leaving devices and models out in turn.

Reads `benchmarks/data/serving_runs.csv` (made by serving_rows.py), writes `src/weigh/data/serving_rates.json`.
Needs numpy. The fit is that of device_effects.py, with priors of its own and one noise. Runs that the KV cache had
no room for at once are taken to have gone in turns.

    python benchmarks/serving_rates_fit.py
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from device_effects import Design, Variant
from device_intervals import weighted_quantile
from device_observed import DATA, Observed

from weigh.engines.engine import Settings
from weigh.estimate.device_terms import Peaks, cache_bytes_read
from weigh.estimate.device_work import whole
from weigh.estimate.serving_speed import Server, prompt_terms, run_seconds_terms
from weigh.machine.device_sheets import GpuSheet, gpu_sheets
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import stored
from weigh.units import GIB

RUNS = DATA / "serving_runs.csv"
RATES = Path(__file__).parents[1] / "src" / "weigh" / "data" / "serving_rates.json"
UTILIZATION = 0.9
PRIORS: Mapping[str, tuple[float, float]] = {
    "bytes": (math.log(1.3), 0.3),
    "bytes *": (0.0, 0.12),
    "device": (0.0, 0.15),
    "engine": (0.0, 0.15),
    "format": (0.0, 0.2),
    "experts": (0.2, 0.4),
    "kv": (math.log(1.5), 0.5),
    "kv *": (0.0, 0.3),
    "step": (math.log(2.0), 0.6),
    "step *": (0.0, 0.3),
    "prompt": (math.log(2.0), 0.6),
    "prompt *": (0.0, 0.3),
    "flops": (0.0, 0.2),
    "attention": (math.log(3.0), 0.8),
    "attention *": (0.0, 0.4),
    "launch": (math.log(3.0), 0.8),
    "launch *": (0.0, 0.5),
    "sequence": (0.0, 0.8),
    "sequence *": (0.0, 0.5),
    "exchange": (0.0, 0.8),
    "exchange *": (0.0, 0.5),
    "link": (0.0, 0.8),
    "link *": (0.0, 0.5),
}
PLAIN = Variant(noise=0.12, degrees=4)
COVERED = 0.8


class Served(NamedTuple):
    """A published run beside its terms."""

    row: Mapping[str, str]
    observed: Observed


@cache
def _spec(model: str, scheme: str) -> ModelSpec:
    spec = quantize(catalog().by_id[model].spec(), "BF16")
    return spec if scheme == "BF16" else stored(spec, scheme)


def _sheet(name: str) -> GpuSheet:
    return next(sheet for sheet in gpu_sheets() if sheet.name == name)


def served() -> list[Served]:
    with RUNS.open(encoding="utf-8", newline="") as file:
        return [Served(row, _observed(i, row)) for i, row in enumerate(csv.DictReader(file))]


def _observed(number: int, row: Mapping[str, str]) -> Observed:
    sheet, spec = _sheet(row["device"]), _spec(row["model"], row["scheme"])
    assert sheet.fp16_flops_per_s is not None
    peaks = Peaks(sheet.bandwidth_bytes_per_s, sheet.fp16_flops_per_s, sheet.fp16_flops_per_s)
    cards, sequences = int(row["cards"]), int(row["sequences"])
    prompt, output = int(row["prompt"]), int(row["output"])
    server = Server(row["engine"], sheet.vendor, sheet.generation, sheet.name, cards)
    part = whole(spec)
    turns = 1.0
    if row["what"] == "first":
        terms = tuple(prompt_terms(part, server, peaks, spec.hidden, tokens=prompt, sequences=sequences))
    else:
        room = UTILIZATION * cards * max(sheet.sizes_gb) * GIB - spec.tensor_bytes
        at_once = room / cache_bytes_read(part, Settings(), prompt + output)
        turns = max(1.0, sequences / max(1.0, at_once))
        terms = tuple(
            run_seconds_terms(
                part, server, peaks, spec.hidden, prompt=prompt, output=output, sequences=sequences / turns
            )
        )
    log_s = math.log(float(row["seconds"]) / turns)
    kind = bool(spec.experts)
    return Observed(
        number,
        row["device"],
        row["engine"],
        sheet.generation,
        row["model"],
        row["scheme"],
        kind,
        "",
        cards,
        terms,
        log_s,
    )


class Gap(NamedTuple):
    run: Served
    value: float

    @property
    def what(self) -> str:
        return "first" if self.run.row["what"] == "first" else "decode"


def left_out(runs: Sequence[Served], design: Design, group: Callable[[Served], str]) -> list[Gap]:
    found = []
    for left in sorted({group(run) for run in runs}):
        out = np.array([i for i, run in enumerate(runs) if group(run) == left])
        inside = np.array([i for i, run in enumerate(runs) if group(run) != left])
        gaps = design.gaps(design.fit(inside, PLAIN), out)
        found += [Gap(runs[i], float(value)) for i, value in zip(out, gaps, strict=True)]
    return found


def width(gaps: Sequence[Gap], group: Callable[[Served], str]) -> float:
    """Half-width that holds 80 %, every group counting as the root of its runs, a little more for few groups."""
    count: dict[str, int] = defaultdict(int)
    for g in gaps:
        count[group(g.run)] += 1
    share = min(1.0, COVERED * (1 + 1 / len(count)))
    return weighted_quantile([(abs(g.value), 1 / math.sqrt(count[group(g.run)])) for g in gaps], share)


def report(name: str, gaps: Sequence[Gap], group: Callable[[Served], str]) -> None:
    for what in ("decode", "first"):
        some = [g for g in gaps if g.what == what]
        inside = []
        for left in {group(g.run) for g in some}:
            rest = [g for g in some if group(g.run) != left]
            if rest:
                half = width(rest, group)
                inside += [abs(g.value) <= half for g in some if group(g.run) == left]
        error = median(abs(math.expm1(g.value)) for g in some)
        far = sorted(abs(math.expm1(g.value)) for g in some)[int(0.9 * len(some))]
        held = sum(inside) / len(inside) if inside else float("nan")
        print(f"| {name}: {what} | {len(some)} | {error:.1%} | {far:.0%} | {held:.0%} |")
    parts: dict[str, list[float]] = defaultdict(list)
    for g in gaps:
        if g.what == "decode":
            row = g.run.row
            for key in (
                row["device"],
                f"batch {row['sequences']}",
                f"{row['cards']} cards",
                row["engine"],
                row["scheme"],
            ):
                parts[key].append(g.value)
    for key, values in sorted(parts.items()):
        error = median(abs(math.expm1(v)) for v in values)
        print(f"    {key:34} {len(values):4} runs, error {error:.1%}, takes {math.exp(median(values)):.2f} x")


def main() -> None:
    runs = served()
    design = Design([run.observed for run in runs], PRIORS)
    by_device = left_out(runs, design, lambda run: run.row["device"])
    by_model = left_out(runs, design, lambda run: run.row["model"])
    report("device never seen", by_device, lambda run: run.row["device"])
    report("device seen, model not", by_model, lambda run: run.row["model"])
    theta = design.fit(np.arange(len(runs)), PLAIN)
    errors = {}
    for known, gaps, key in (("unseen", by_device, "device"), ("seen", by_model, "model")):
        for what in ("decode", "first"):
            some = [g for g in gaps if g.what == what]
            errors[f"{known} {what}"] = round(width(some, lambda run, key=key: run.row[key]), 3)
    for what in ("decode", "first"):
        errors[f"unseen {what}"] = max(errors[f"unseen {what}"], errors[f"seen {what}"])
    content = {
        "effects": {n: round(float(v), 4) for n, v in zip(design.names, theta, strict=True)},
        "errors": errors,
        "devices": sorted({run.row["device"] for run in runs}),
    }
    RATES.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
