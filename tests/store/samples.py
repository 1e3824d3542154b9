"""Measurements in round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weigh.store.measurement import Measured, Measurement

BENCH = Measurement(
    kind="bench",
    when_unix_s=1_790_000_000.5,
    fingerprint="f00d",
    cpu="Round Numbers 9000",
    engine="llama.cpp",
    engine_version="1",
    command=("llama-server", "-m", "model.gguf", ""),
    model="org/Model-1B",
    family="llama",
    quantization="Q4_K_M",
    file_bytes=800_000_000,
    settings={"context_tokens": 4096, "threads": 2, "kv_type_k": "F16", "flash_attention": None},
    measured=(
        Measured("decode_tokens_per_s", "tokens/s", (10.0, 12.0, 11.0, 11.5, 10.5), {"depth_tokens": 0}),
        Measured("decode_tokens_per_s", "tokens/s", (8.0, 8.5, 7.5, 8.2, 7.9), {"depth_tokens": 2048}),
        Measured("prefill_tokens_per_s", "tokens/s", (100.0, 101.0, 99.0, 100.5), {"prompt_tokens": 512}),
        Measured("ttft_s", "s", (5.0, 5.1, 5.2, 5.3), {"prompt_tokens": 512}),
        Measured("peak_memory_bytes", "bytes", (1.0e9,), {}),
    ),
    noise=0.02,
    problems=(),
    raw={"steps_s": [0.1, 0.2], "what": {"nested": [None, True, "x"]}},
)


def bench(number: int = 0, **changes: Any) -> Measurement:
    """`BENCH` at another second, with changes."""
    return replace(BENCH, when_unix_s=BENCH.when_unix_s + number, **changes)


def faster(by: float, number: int = 0, **changes: Any) -> Measurement:
    """`BENCH` with every rate that much higher."""
    measured = tuple(
        replace(one, samples=tuple(sample * by for sample in one.samples)) if "per_s" in one.name else one
        for one in BENCH.measured
    )
    return bench(number, **{"measured": measured, **changes})
