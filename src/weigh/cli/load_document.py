"""The JSON form of a load; the keys are stable and described in docs/json.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigh.bench.load import Level, Load, Saturation
    from weigh.store.measurement import Measurement


def load_document(found: Load, kept: Measurement, *, stored: bool) -> dict[str, Any]:
    """Without the raw events: `weigh history` exports them with the measurement."""
    document = kept.to_json(raw=False)
    saturation = found.saturation
    return {
        "id": kept.id,
        **{key: document[key] for key in ("when_unix_s", "engine", "model", "quantization", "settings")},
        "levels": [_level(one) for one in found.levels],
        "saturation": saturation and _saturation(saturation),
        "problems": list(kept.problems),
        "notes": list(found.notes),
        "complete": found.ended is None,
        "kept": stored,
    }


def _level(level: Level) -> dict[str, Any]:
    return {
        "name": level.name,
        "rate_per_s": level.rate_per_s,
        "clients": level.clients,
        "requests": level.counted,
        "warm_up_requests": level.warm_up,
        "cut_off_requests": level.cut_off,
        "failed_requests": level.failed,
        "failures": {str(kind): count for kind, count in level.failures.items()},
        "window_s": level.window_s[1] - level.window_s[0],
        "arrived_per_s": level.arrived_per_s,
        "completed_per_s": level.completed_per_s,
        "goodput_per_s": level.goodput_per_s.to_json(),
        "output_tokens_per_s": level.output_tokens_per_s,
        "prompt_tokens_per_s": level.prompt_tokens_per_s,
        "sustained": level.sustained,
        "latencies": {name: [one.to_json() for one in found] for name, found in level.latencies.items()},
        "client": {
            "delay_p50_s": level.client_delay_s[0],
            "delay_p99_s": level.client_delay_s[1],
            "lag_p50_s": level.client_lag_s[0],
            "lag_p99_s": level.client_lag_s[1],
            "cores": level.client_cores,
            "kept_up": not level.late,
        },
    }


def _saturation(found: Saturation) -> dict[str, Any]:
    return {
        "low_per_s": found.low_per_s or None,
        "high_per_s": found.high_per_s if math.isfinite(found.high_per_s) else None,
        "figure": found.figure and found.figure.to_json(),
    }
