"""Runs in round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weigh.estimate.speed import FORMULA_VERSION
from weigh.figure import Basis, Figure
from weigh.store.run import Kind, Quantity, Run

RUN = Run(
    when_unix_s=1_790_000_000.25,
    fingerprint="f00d",
    cpu="Round Numbers 9000",
    gpus=(),
    engine="llama.cpp",
    engine_version="1",
    calibration="2026-01-01T00:00:00+00:00",
    formula_version=FORMULA_VERSION,
    model="org/Model-1B",
    family="llama",
    quantization="Q4_K_M",
    kind=Kind.TEST_DRIVEN,
    context_tokens=4096,
    parallel=1,
    threads=2,
    kv_type_k="F16",
    kv_type_v="F16",
    prompt_tokens=512,
    output_tokens=128,
    depth_tokens=0,
    decode_tokens_per_s=Quantity(
        (9.0, 10.0, 12.0),
        Figure(11.0, 9.5, 12.5, "tokens/s", Basis.CALIBRATED),
        Figure(12.0, 10.0, 14.4, "tokens/s", Basis.CALIBRATED),
    ),
    prefill_tokens_per_s=Quantity(
        (40.0,),
        Figure(50.0, 44.0, 60.0, "tokens/s", Basis.CALIBRATED),
        Figure(50.0, 44.0, 60.0, "tokens/s", Basis.CALIBRATED),
    ),
    load_s=Quantity((2.0,), Figure(3.0, 2.0, 4.5, "s", Basis.CALIBRATED)),
    peak_memory_bytes=Quantity((1.0e9,), Figure.exact(1.01e9, "bytes")),
    noise=0.1,
)


def run(number: int = 0, **changes: Any) -> Run:
    """`RUN` at another second, with changes."""
    return replace(RUN, when_unix_s=RUN.when_unix_s + number, **changes)
