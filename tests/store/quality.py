"""Quality results in round numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from weigh.figure import Basis, Figure
from weigh.store.quality_result import Material, Measure, MeasuredModel, QualityResult, Way

MODEL = MeasuredModel(
    "Model-1B", "Q4_K_M", "Qwen/Qwen2.5-Coder-7B-Instruct", "f00d" * 4, 1_000_000_000, 600_000_000
)
REFERENCE = replace(MODEL, quantization="F16", fingerprint="beef" * 4, weights_bytes=2_000_000_000)


def figure(value: float, low: float, high: float, unit: str) -> Figure:
    return Figure(value, low, high, unit, Basis.MEASURED)


DIVERGED = QualityResult(
    way=Way.DIVERGENCE,
    when_unix_s=1_790_000_000.5,
    model=MODEL,
    reference=REFERENCE,
    material=Material("prose", "d" * 32, 4000, settings={"windows_planned": 3}),
    measures=(
        Measure("kl_nats", figure(0.05, 0.04, 0.06, "nats"), 2),
        Measure("same_top", figure(0.9, 0.88, 0.92, "share"), 2),
        Measure("delta_p_mean", figure(-0.01, -0.02, 0.0, "probability"), 2),
        Measure("perplexity", figure(9.5, -math.inf, math.inf, "perplexity"), 2),
    ),
    engine="llama.cpp",
    engine_version="1",
    ended="time up",
    pieces=((255, 12.5, 230, 1.5), (255, 13.0, 229, -0.5)),
)
ON_CODE = QualityResult(
    way=Way.REPOSITORY,
    when_unix_s=1_790_000_001.5,
    model=MODEL,
    material=Material("mine", "c0ffee" * 6 + "c0ff", 2000, settings={"seed": 0, "files": 2}),
    measures=(
        Measure("bits_per_byte", figure(1.0, 0.9, 1.1, "bits/byte"), 2),
        Measure("next_line_exact", figure(0.5, 0.2, 0.8, "share"), 2),
    ),
    engine="llama.cpp",
    engine_version="1",
    ended="all read",
    pieces=(
        ("a1" * 8, 0, 1100.0, 1000, True, 1.0, None, None),
        ("b2" * 8, 1, 900.0, 1000, False, 0.25, None, None),
    ),
)
ON_TASKS = QualityResult(
    way=Way.TASKS,
    when_unix_s=1_790_000_002.5,
    model=MODEL,
    material=Material(
        "weigh", "e" * 32, needs=("debugging",), settings={"samples": 2, "temperature": 0.8, "style": "chat"}
    ),
    measures=(
        Measure("pass@1", figure(0.5, 0.3, 0.7, "share"), 2),
        Measure("pass@1", figure(0.5, 0.3, 0.7, "share"), 2, "debugging"),
        Measure("pass@2", figure(1.0, 0.6, 1.0, "share"), 2),
    ),
    engine="llama.cpp",
    engine_version="1",
    ended="all asked",
    pieces=(
        ("debugging/one", "1" * 16, "debugging", 1, 2, 2),
        ("debugging/two", "2" * 16, "debugging", 3, 2, 0),
    ),
)


def later(one: QualityResult, seconds: float, **changes: Any) -> QualityResult:
    """The same at another second, with changes."""
    return replace(one, when_unix_s=one.when_unix_s + seconds, **changes)
