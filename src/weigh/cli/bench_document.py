"""The JSON form of a benchmark and of a check; the keys are stable and described in docs/json.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigh.bench.benchmark import Benchmark
    from weigh.bench.budget import Verdict
    from weigh.store.measurement import Measurement

Document = dict[str, Any]


def bench_document(found: Benchmark) -> Document:
    """Without the raw events: `weigh history` exports them with the measurement."""
    measurement = found.measurement
    kept = measurement.to_json(raw=False)
    return {
        "id": measurement.id,
        **{key: kept[key] for key in ("when_unix_s", "engine", "model", "quantization", "file_bytes")},
        "settings": kept["settings"],
        "measured": [
            {
                "name": row.measured.name,
                "conditions": dict(row.measured.conditions),
                "figure": row.measured.figure.to_json(),
                "samples": len(row.measured.samples),
                "estimated": row.estimated and row.estimated.to_json(),
            }
            for row in found.rows
        ],
        "noise": measurement.noise,
        "problems": list(measurement.problems),
        "notes": list(found.notes),
        "complete": found.ended is None,
        "kept": found.not_kept is None,
    }


def check_document(measurement: Measurement, verdicts: tuple[Verdict, ...]) -> Document:
    return {
        "id": measurement.id,
        "model": measurement.model,
        "quantization": measurement.quantization,
        "passed": all(verdict.met for verdict in verdicts),
        "checks": [
            {
                "name": verdict.budget.name,
                "limit": verdict.budget.limit,
                "met": verdict.met,
                "sure": verdict.sure,
                "quantity": verdict.measured and verdict.measured.name,
                "conditions": dict(verdict.measured.conditions) if verdict.measured else {},
                "figure": verdict.measured and verdict.measured.figure.to_json(),
            }
            for verdict in verdicts
        ],
        "problems": list(measurement.problems),
    }
