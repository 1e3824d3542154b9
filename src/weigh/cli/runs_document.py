"""The JSON form of what was run, here or elsewhere; the keys are stable and described in docs/json.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from weigh.cli.estimates_document import speed_document
from weigh.cli.inventory_document import Document

if TYPE_CHECKING:
    from weigh.advise.compare import Comparison
    from weigh.bench.trial import Trial
    from weigh.store.accuracy import Group
    from weigh.store.exchange import Imported
    from weigh.store.measurement import Event, Measurement
    from weigh.store.quality_result import QualityResult
    from weigh.store.run import Run


def trials_document(trials: Sequence[Trial]) -> Document:
    documents = [_trial_document(trial) for trial in trials]
    return documents[0] if len(documents) == 1 else {"trials": documents}


def _trial_document(result: Trial) -> Document:
    from weigh.estimate.serving import Served

    estimate = result.estimate
    before = None if isinstance(estimate, Served) else estimate.uncorrected_speed
    uncorrected = speed_document(before) or {}
    settings = asdict(estimate.settings)
    return {
        "model": estimate.spec.name,
        "quantization": estimate.spec.quantization,
        "engine": {"name": result.engine, "version": result.engine_version, "command": list(result.command)},
        "settings": settings | {key: settings[key].name for key in ("kv_type_k", "kv_type_v")},
        "workload": asdict(estimate.workload),
        "fits": estimate.fits,
        "estimated": {one.name: one.estimated and one.estimated.to_json() for one in result.compared},
        "uncorrected": {key: uncorrected.get(key) for key in ("prefill_tokens_per_s", "decode_tokens_per_s")},
        "kind": str(result.kind),
        "measured": {one.name: one.found and one.found.to_json() for one in result.compared},
        "layers_run": list(result.shorts),
        "took_s": result.took_s,
        "took_bytes": result.took_bytes,
        "noise": result.noise,
        "problems": list(result.problems),
    }


def history_document(
    runs: Sequence[Run], measurements: Sequence[Measurement], results: Sequence[QualityResult]
) -> Document:
    return {
        "runs": [run_document(run) for run in runs],
        "measurements": [measurement_document(one) for one in measurements],
        "quality": [quality_document(one) for one in results],
    }


def quality_document(one: QualityResult) -> Document:
    """Without its pieces, which an export holds; an end of an interval that is not known is null."""
    origin = asdict(one.origin) if one.origin else None
    measures = [
        {
            "name": measure.name,
            "of": measure.of or None,
            "figure": {
                key: None if value in (math.inf, -math.inf) else value
                for key, value in measure.figure.to_json().items()
            },
            "count": measure.count,
        }
        for measure in one.measures
    ]
    return {"id": one.id, "origin": origin} | one.to_json(pieces=False) | {"measures": measures}


def run_document(run: Run) -> Document:
    origin = asdict(run.origin) if run.origin else None
    return {"id": run.id, "origin": origin} | run.to_json()


def measurement_document(one: Measurement) -> Document:
    """Without the raw events and samples, which an export holds."""
    origin = asdict(one.origin) if one.origin else None
    measured = [
        {
            "name": measured.name,
            "conditions": dict(measured.conditions),
            "figure": measured.figure.to_json(),
            "samples": len(measured.samples),
        }
        for measured in one.measured
    ]
    return {"id": one.id, "origin": origin} | one.to_json(raw=False) | {"measured": measured}


def compared_document(found: Comparison) -> Document:
    return {
        "measurements": [measurement_document(one) for one in found.measurements],
        "rows": [
            {
                "name": row.name,
                "unit": row.unit,
                "conditions": dict(row.conditions),
                "figures": [figure and figure.to_json() for figure in row.figures],
                "ratios": [
                    ratio and asdict(ratio) | {"beyond_noise": ratio.beyond_noise} for ratio in row.ratios
                ],
            }
            for row in found.rows
        ],
        "quality_gaps": [
            {
                "id": found.measurements[one.place].id,
                "way": str(one.result.way),
                "material": one.result.to_json(pieces=False)["material"],
                "difference": one.gap.difference.to_json(),
                "better": None
                if one.gap.better is None
                else found.measurements[one.place * one.gap.better].id,
                "count": one.gap.count,
            }
            for one in found.gaps
        ],
        "alone": list(found.alone),
        "differences": {name: list(values) for name, values in found.differences.items()},
        "front": [
            {
                "id": point.measurement.id,
                "decode_tokens_per_s": point.decode_tokens_per_s.to_json(),
                "memory_bytes": point.memory_bytes.to_json(),
                "quality": point.quality and point.quality.to_json(),
                "published": point.headline or None,
                "on_front": point.on_front,
            }
            for point in found.points
        ],
        "front_counts_quality": found.by_quality,
        "front_quality": found.quality_said if any(point.quality for point in found.points) else None,
    }


def events_document(events: Sequence[Event]) -> Document:
    return {"events": [asdict(event) | {"details": dict(event.details)} for event in events]}


def removed_document(gone: Run | Measurement | QualityResult) -> Document:
    from weigh.store.quality_result import QualityResult
    from weigh.store.run import Run

    if isinstance(gone, QualityResult):
        return {"removed": quality_document(gone)}
    return {"removed": run_document(gone) if isinstance(gone, Run) else measurement_document(gone)}


def imported_document(found: Imported) -> Document:
    return {
        "origin": asdict(found.origin) if found.origin else None,
        "format": found.format,
        "added": found.added,
        "runs": found.runs,
        "measurements": found.measurements,
        "quality": found.results,
        "known": found.known,
    }


def accuracy_document(groups: Sequence[Group], by: str | None) -> Document:
    return {"by": by, "groups": [asdict(group) for group in groups]}
