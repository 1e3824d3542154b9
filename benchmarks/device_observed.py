"""Published runs (`data/device_runs.csv`, made by device_rows.py) in the terms of `weigh.estimate.device_speed`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.estimate.device_rates import VECTOR_ATTENTION, Pipeline, integer_gain
from weigh.estimate.device_speed import LAUNCH_QUEUE, LONGER_QUEUE, pipeline_share
from weigh.estimate.device_terms import (
    DP4A_CAPABILITY,
    Peaks,
    Run,
    Term,
    bits_of,
    decode_terms,
    prefill_terms,
    weights_of,
)
from weigh.estimate.device_work import whole
from weigh.machine.device_names import Ram
from weigh.machine.device_sheets import gpu_sheets, host_sheets
from weigh.machine.target import Backend
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec

DATA = Path(__file__).with_name("data")
RUNS = DATA / "device_runs.csv"

UNPACKED_PER_LAYER = 7  # matrices, which older builds turned into 16 bits before they multiplied them
PRINTED_13900K_MT_PER_S = 6400  # said in its rows
DEFAULTS = Settings()
Row = Mapping[str, str]


class Observed(NamedTuple):
    """A published run in the formula's terms.

    Attributes:
        family: `discrete`, `unified` or `host`.
        cards: alike, on which the run is fitted as on one that takes as long (`cards_share`).
        log_s: of what was measured.
        batches: micro-batches of a prompt, 1 in decode.
    """

    number: int
    device: str
    backend: str
    generation: str
    model: str
    recipe: str
    experts: bool
    family: str
    cards: int
    terms: tuple[Term, ...]
    log_s: float
    layers: int = 0
    batches: int = 1
    depth: int = 0
    bits: str = ""
    era: str = ""
    weights: int = 0

    @property
    def kind(self) -> str:
        return "experts" if self.experts else "dense"


def read_runs() -> list[dict[str, str]]:
    with RUNS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Machine:
    run: Run
    peaks: Peaks
    family: str


def machine(row: Row) -> Machine:
    if row["on"] == "host":
        host = next(h for h in host_sheets() if h.name == row["device"])
        rate = PRINTED_13900K_MT_PER_S if "13900K" in host.name else None
        run = Run("CPU", host.generation, host.name, era=row["era"])
        peak = host.fp32_flops_per_s * integer_gain(host.features)
        return Machine(run, Peaks(host.bandwidth_bytes_per_s(Ram(None, None, rate)), peak, peak), "host")
    sheet = next(g for g in gpu_sheets() if g.name == row["device"])
    dp4a = row["backend"] == Backend.CUDA and sheet.compute_capability == DP4A_CAPABILITY
    run = Run(row["backend"], sheet.generation, sheet.name, "HBM" in sheet.memory_type, dp4a, row["era"])
    assert sheet.fp16_flops_per_s is not None
    vector = sheet.fp32_flops_per_s if Backend(row["backend"]) in VECTOR_ATTENTION else None
    peaks = Peaks(sheet.bandwidth_bytes_per_s, sheet.fp16_flops_per_s, vector or sheet.fp16_flops_per_s)
    return Machine(run, peaks, "unified" if sheet.unified else "discrete")


@cache
def _spec(model: str, recipe: str) -> ModelSpec:
    return quantize(catalog().by_id[model].spec(), recipe)


def observed(rows: Sequence[Row], code: str) -> list[Observed]:
    """Runs of one kind."""
    found = []
    for number, row in enumerate(rows):
        if row["kind"] != code:
            continue
        on, spec = machine(row), _spec(row["model"], row["recipe"])
        name = row["device"] if row["on"] == "gpu" else f"{row['device']} CPU"
        terms, seconds = terms_of(row, on, spec)
        found.append(
            Observed(
                number,
                name,
                row["backend"],
                on.run.generation,
                row["model"],
                row["recipe"],
                bool(spec.experts),
                on.family,
                max(1, int(row["gpus"])),
                terms,
                math.log(seconds),
                spec.layers,
                1 if code == "tg" else math.ceil(int(row["tokens"]) / int(row["ubatch"])),
                int(row["depth"]),
                bits_of(whole(spec)),
                row["era"],
                weights_of(whole(spec)),
            )
        )
    return found


def cards_share(run: Observed, line: Pipeline) -> float:
    """Decode takes as long as on one such card, had it the memory; prefill is shared out by micro-batches."""
    if run.batches == 1:
        return 1.0
    old = run.era == "2024"
    unpacked = UNPACKED_PER_LAYER if old and run.bits == "16" else 0
    line = line._replace(operations_per_layer=line.operations_per_layer - unpacked)
    queue = LAUNCH_QUEUE * (1 if old else LONGER_QUEUE)
    return pipeline_share(run.cards, run.layers, run.batches, line, queue)


def terms_of(row: Row, on: Machine, spec: ModelSpec) -> tuple[tuple[Term, ...], float]:
    """The run's terms, and its seconds: of a step in decode, of the whole prompt in prefill."""
    tokens, depth, speed = int(row["tokens"]), int(row["depth"]), float(row["tokens_per_s"])
    part = whole(spec)
    if row["kind"] == "tg":
        cached = depth + tokens / 2
        terms = decode_terms(part, on.run, on.peaks.bytes_per_s, DEFAULTS, cached_tokens=cached)
        return tuple(terms), 1 / speed
    terms = prefill_terms(
        part,
        on.run,
        on.peaks,
        tokens=tokens,
        depth=depth,
        ubatch=int(row["ubatch"]),
        flash_attention=row["flash_attention"] == "True",
    )
    return tuple(terms), tokens / speed
