"""The JSON form of every answer; the keys are stable and described in docs/json.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from weigh.figure import Figure

if TYPE_CHECKING:
    from weigh.advise.buy import Purchases
    from weigh.advise.compare import Comparison
    from weigh.advise.needs import Need
    from weigh.advise.search import Answer, Recommendation
    from weigh.advise.shelf import OnShelf
    from weigh.advise.table import SizeTable
    from weigh.bench.here import Here
    from weigh.bench.trial import Trial
    from weigh.engines.engine import Layout
    from weigh.estimate.cost import CostEstimate, PerMillion
    from weigh.estimate.curves import Curve, Point
    from weigh.estimate.energy import EnergyEstimate
    from weigh.estimate.extras import Extras
    from weigh.estimate.kv_types import KvChoice
    from weigh.estimate.placement import DeviceMemory, Placement
    from weigh.estimate.quality import Quality
    from weigh.estimate.serving import Served
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.site import Site
    from weigh.estimate.speculative import SpeculativeEstimate
    from weigh.estimate.speed import SpeedEstimate
    from weigh.machine import Bandwidth, Machine
    from weigh.machine.device_sheets import GpuSheet, HostSheet
    from weigh.machine.doctor import Finding
    from weigh.machine.target import Device, Target
    from weigh.model.spec import ModelSpec
    from weigh.store.accuracy import Group
    from weigh.store.exchange import Imported
    from weigh.store.measurement import Event, Measurement
    from weigh.store.run import Run

Document = dict[str, Any]


def exact(value: float, unit: str) -> Document:
    return {**Figure.exact(value, unit).to_json()}


def machine_document(found: Machine) -> Document:
    return {
        "os": found.os,
        "cpu": asdict(found.cpu) | {"threads": found.cpu.threads},
        "memory": asdict(found.memory) | {"usable_bytes": found.memory.usable_bytes},
        "gpus": [asdict(gpu) for gpu in found.gpus],
        "disk": asdict(found.disk) | {"path": str(found.disk.path)},
        "fingerprint": found.fingerprint,
        "limits": found.limits,
    }


def here_document(here: Here, bandwidth: Bandwidth | None = None) -> Document:
    document = machine_document(here.machine)
    document["engine"] = {"name": here.engine.name, "version": here.engine_version} if here.engine else None
    document["calibration"] = here.calibration.to_json() if here.calibration else None
    document["calibration_rejected"] = list(here.rejected)
    document["learned_from_runs"] = len(here.learned.lessons) if here.learned else 0
    if bandwidth is not None:
        document["memory_read"] = [
            {"threads": threads, "bytes_per_s": figure.to_json()} for threads, figure in bandwidth.by_threads
        ]
    return document


def _calibration_problems(site: Site) -> list[str]:
    return list(site.calibration.problems) if site.calibration else []


def model_document(spec: ModelSpec) -> Document:
    from weigh.model.breakdown import breakdown, kv_bytes_per_token
    from weigh.model.quantization import file_bytes

    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "parameters": {
            "total": exact(spec.parameters, "parameters"),
            "active": exact(spec.active_parameters, "parameters"),
        },
        "layers": spec.layers,
        "hidden": spec.hidden,
        "vocabulary": spec.vocab,
        "context_tokens": spec.context_train,
        "experts": {"total": spec.experts, "used": spec.experts_used},
        "quantization": spec.quantization,
        "file_bytes": exact(spec.file_bytes or file_bytes(spec), "bytes"),
        "tensor_bytes": exact(spec.tensor_bytes, "bytes"),
        "bits_per_weight": exact(spec.bits_per_weight, "bits"),
        "kv_bytes_per_token": exact(kv_bytes_per_token(spec), "bytes"),
        "attention": [
            {"kind": str(mixer.kind), "layers": len(mixer.layers), "kv_heads": mixer.kv_heads}
            | ({"window": mixer.window} if mixer.window else {})
            for mixer in spec.mixers
        ],
        "parts": [
            {
                "name": part.name,
                "parameters": part.parameters,
                "bytes": part.bytes,
                "types": list(part.types),
            }
            for part in breakdown(spec)
        ],
        "beside": [
            {"name": group.name, "parameters": group.total_elements, "bytes": group.total_bytes}
            for group in spec.beside
        ],
        "basis": spec.basis,
        "format": spec.format,
        "notes": list(spec.notes),
        "contradictions": list(spec.contradictions),
    }


def memory_document(memory: DeviceMemory, available_bytes: int) -> Document:
    return {
        "weights_bytes": exact(memory.weights_bytes, "bytes"),
        "kv_cache_bytes": exact(memory.kv_cache_bytes, "bytes"),
        "compute_bytes": exact(memory.compute_bytes, "bytes"),
        "runtime_bytes": exact(memory.overhead_bytes, "bytes"),
        "total_bytes": exact(memory.total_bytes, "bytes"),
        "available_bytes": exact(available_bytes, "bytes"),
    }


def split_document(placement: Placement, devices: Sequence[DeviceMemory], why: str) -> Document:
    """What the RAM and each GPU would hold, RAM first."""
    return {
        "gpu_layers": list(placement.gpu_layers),
        "experts_in_ram_layers": placement.experts_in_ram,
        "why": why,
        "devices": [
            {"device": device.device} | memory_document(device, device.available_bytes) for device in devices
        ],
    }


def device_document(device: Device) -> Document:
    return asdict(device) | {"backend": str(device.backend)}


def target_document(target: Target) -> Document:
    return {
        "name": target.name,
        "host": device_document(target.host),
        "host_cores": target.host_cores,
        "gpus": [device_document(gpu) for gpu in target.gpus],
        "assumed": list(target.assumed),
    }


def speed_document(speed: SpeedEstimate | None) -> Document | None:
    if speed is None:
        return None
    return {
        "prefill_tokens_per_s": speed.prefill_tokens_per_s.to_json(),
        "decode_tokens_per_s": speed.decode_tokens_per_s.to_json(),
        "ttft_s": speed.ttft_s.to_json(),
        "load_s": speed.load_s.to_json(),
        "load_cold_s": speed.load_cold_s.to_json() if speed.load_cold_s else None,
    }


def fit_document(
    found: SetupEstimate | Served, layout: Layout | None, extras: Extras | None = None
) -> Document:
    from weigh.estimate.serving import Served

    document = served_document(found) if isinstance(found, Served) else setup_document(found, layout)
    return document | (extras_document(extras) if extras is not None else {})


def extras_document(found: Extras) -> Document:
    """What was asked beside the setup itself."""
    document: Document = {}
    if found.kv is not None:
        document["kv_quantization"] = kv_document(found.kv)
    if found.compared:
        document["kv_types"] = [kv_document(one) for one in found.compared]
    if found.prompt is not None:
        one = found.prompt
        document["prompt_cache"] = {
            "prompt_tokens": one.prompt_tokens,
            "cached_tokens": one.cached_tokens,
            "ttft_s": one.ttft_s.to_json() if one.ttft_s else None,
            "uncached_ttft_s": one.uncached_ttft_s.to_json() if one.uncached_ttft_s else None,
            "kept_bytes": exact(one.kept_bytes, "bytes"),
            "kept_prompts": one.kept_prompts,
        }
    if found.drafts is not None:
        document["speculative"] = speculative_document(found.drafts)
    return document


def kv_document(one: KvChoice) -> Document:
    return {
        "kv_type": one.kv_type.name,
        "fits": one.setup.fits,
        "kv_cache_bytes": exact(one.setup.memory.kv_cache_bytes, "bytes"),
        "saved_bytes": exact(one.saved_bytes, "bytes"),
        "max_context_tokens": exact(one.setup.max_context_tokens, "tokens"),
        "gained_tokens": exact(one.gained_tokens, "tokens"),
        "depth_tokens": one.depth_tokens,
        "decode_tokens_per_s": one.decode_tokens_per_s.to_json() if one.decode_tokens_per_s else None,
        "ttft_s": one.ttft_s.to_json() if one.ttft_s else None,
    }


def speculative_document(found: SpeculativeEstimate) -> Document:
    draft = found.draft.spec if found.draft else None
    return {
        "method": str(found.method),
        "draft": {"model": draft.name, "quantization": draft.quantization} if draft else None,
        "fits": found.fits,
        "draft_bytes": exact(found.draft_bytes, "bytes"),
        "devices": [
            {"device": device.device} | memory_document(device, device.available_bytes)
            for device in found.devices
        ],
        "rounds": [
            {
                "acceptance": one.acceptance,
                "draft_tokens": one.draft_tokens,
                "tokens": one.tokens.to_json(),
                "draft_s": one.draft_s.to_json(),
                "verify_s": one.verify_s.to_json(),
                "decode_tokens_per_s": one.decode_tokens_per_s.to_json(),
                "speedup": one.speedup.to_json(),
            }
            for one in found.rounds
        ],
        "arguments": list(found.arguments),
        "notes": list(found.notes),
    }


def curves_document(found: Sequence[Curve]) -> Document:
    def points(of: Sequence[Point], length: str, figure: str) -> list[Document]:
        return [{length: point.tokens, figure: point.figure.to_json()} for point in of]

    return {
        "curves": [
            {
                "label": one.label,
                "model": one.setup.spec.name,
                "quantization": one.setup.spec.quantization,
                "on": one.setup.site.target.name,
                "fits": one.setup.fits,
                "context_tokens": one.setup.settings.context_tokens,
                "parallel": one.setup.settings.parallel,
                "kv_type": one.setup.settings.kv_type_k.name,
                "ttft": points(one.ttft, "prompt_tokens", "ttft_s"),
                "decode": points(one.decode, "depth_tokens", "decode_tokens_per_s"),
                "calibration_problems": _calibration_problems(one.setup.site),
                "note": one.note,
            }
            for one in found
        ]
    }


def energy_document(used: EnergyEstimate) -> Document:
    figures = {
        "decode_joules_per_token": used.decode_joules_per_token,
        "prefill_joules_per_token": used.prefill_joules_per_token,
        "decode_watts": used.decode_watts,
        "prefill_watts": used.prefill_watts,
    }
    return {name: figure.to_json() if figure else None for name, figure in figures.items()} | {
        "counted": used.counted,
        "missing": used.missing,
    }


def cost_document(found: CostEstimate | None, setup: SetupEstimate) -> Document:
    document: Document = {
        "model": setup.spec.name,
        "quantization": setup.spec.quantization,
        "on": setup.site.target.name,
        "fits": setup.fits,
        "workload": asdict(setup.workload),
        "calibration_problems": _calibration_problems(setup.site),
        "cost": None,
    }
    if found is None:
        return document
    document["cost"] = {
        "currency": found.costs.currency,
        "written": per_million_document(found.output),
        "read": per_million_document(found.input),
        "mixed": found.mix.to_json(),
        "tokens_per_day": found.tokens_per_day.to_json(),
        "given": asdict(found.costs),
    }
    document["energy"] = energy_document(found.energy)
    document["apis"] = [
        asdict(one.api)
        | {
            "per_million_mixed": one.per_million_of_mix,
            "break_even_tokens_per_day": one.break_even_tokens_per_day,
            "reachable": one.reachable,
        }
        for one in found.compared
    ]
    return document


def per_million_document(part: PerMillion) -> Document:
    return {
        "hardware": part.hardware.to_json(),
        "electricity": part.electricity.to_json() if part.electricity else None,
        "total": part.total.to_json(),
    }


def comparison_document(found: Sequence[SetupEstimate | Served]) -> Document:
    return {"compared": [fit_document(one, None) for one in found]}


def setup_document(found: SetupEstimate, layout: Layout | None) -> Document:
    document: Document = {
        "model": found.spec.name,
        "quantization": found.spec.quantization,
        "engine": "llama.cpp",
        "on": found.site.target.name,
        "assumed": list(found.site.target.assumed),
        "fits": found.fits,
        "settings": {
            "context_tokens": found.settings.context_tokens,
            "parallel": found.settings.parallel,
            "kv_type": found.settings.kv_type_k.name,
        },
        "workload": asdict(found.workload),
        "memory": memory_document(found.memory, found.available_bytes)
        | {"max_context_tokens": exact(found.max_context_tokens, "tokens")},
        "split": split_document(found.placement, found.devices, found.why),
        "arguments": list(found.arguments),
        "speed": speed_document(found.speed),
        "calibration_problems": _calibration_problems(found.site),
        "notes": list(found.notes),
    }
    if layout is not None:
        document["engine_layout"] = asdict(layout) | {"total_bytes": layout.total_bytes}
    return document


def served_document(found: Served) -> Document:
    memory = found.memory
    return {
        "model": found.spec.name,
        "quantization": found.spec.quantization,
        "engine": memory.engine,
        "on": found.site.target.name,
        "assumed": list(found.site.target.assumed),
        "devices": found.devices,
        "fits": found.fits,
        "memory_of_one_device": {
            "weights_bytes": exact(memory.weights_bytes, "bytes"),
            "kv_cache_bytes": exact(memory.kv_cache_bytes, "bytes"),
            "activations_bytes": exact(memory.activations_bytes, "bytes"),
            "overhead_bytes": exact(memory.overhead_bytes, "bytes"),
            "total_bytes": memory.total.to_json(),
            "reserved_bytes": exact(memory.reserved_bytes, "bytes"),
            "available_bytes": exact(found.available_bytes, "bytes"),
        },
        "kv_capacity_tokens": memory.kv_capacity_tokens,
        "max_concurrency": memory.max_concurrency,
        "speed": found.speed
        and {
            "requests_at_once": found.speed.at_once,
            "decode_tokens_per_s": found.speed.decode_tokens_per_s.to_json(),
            "total_tokens_per_s": found.speed.total_tokens_per_s.to_json(),
            "ttft_s": found.speed.ttft_s.to_json(),
        },
        "arguments": list(memory.arguments),
        "notes": list(memory.notes),
    }


def shelf_document(shelf: Sequence[OnShelf]) -> Document:
    return {
        "models": [
            {
                "name": one.found.name,
                "also": list(one.found.also),
                "place": one.found.place,
                "path": str(one.found.path),
                "format": one.found.format,
                "parameters": one.found.parameters,
                "quantization": one.found.quantization,
                "file_bytes": one.found.file_bytes,
                "problem": one.found.problem or one.reason,
                "fits": one.setup.fits if one.setup else None,
                "needed_bytes": exact(one.setup.memory.total_bytes, "bytes") if one.setup else None,
            }
            for one in shelf
        ]
    }


def purchases_document(found: Purchases) -> Document:
    return {
        "model": found.spec.name,
        "quantization": found.spec.quantization,
        "min_decode_tokens_per_s": found.min_decode_tokens_per_s,
        "max_ttft_s": found.max_ttft_s,
        "considered": found.considered,
        "met": found.met,
        "options": [{"kind": o.kind} | setup_document(o.setup, None) for o in found.options],
        "nearest": setup_document(found.nearest.setup, None) if found.nearest else None,
    }


def table_document(found: SizeTable) -> Document:
    return {
        "context_tokens": found.context_tokens,
        "on": found.site.target.name,
        "classes": [asdict(one) for one in found.classes],
        "groups": [asdict(group) for group in found.groups],
        "rules": [asdict(rule) for rule in found.rules],
        "misleading": list(found.misleading),
    }


def devices_document(found: Sequence[GpuSheet | HostSheet]) -> Document:
    return {"devices": [asdict(sheet) for sheet in found]}


def doctor_document(findings: Sequence[Finding]) -> Document:
    return {"findings": [asdict(finding) for finding in findings]}


def quality_document(judged: Quality) -> Document:
    return {
        "score": judged.score.to_json(),
        "headline": judged.headline,
        "source": judged.source,
        "quantization_loss": judged.loss.to_json(),
        "basis": str(judged.basis),
    }


def recommendation_document(one: Recommendation) -> Document:
    setup = one.setup
    return {
        "model": one.entry.id,
        "quantization": one.quantization,
        "name": one.name,
        "parameters": {
            "total": exact(setup.parameters, "parameters"),
            "active": exact(setup.active_parameters, "parameters"),
        },
        "fits": one.fits,
        "meets_need": one.meets,
        "memory": memory_document(setup.memory, one.available_bytes),
        "split": split_document(setup.placement, setup.devices, setup.why),
        "speed": speed_document(setup.speed),
        "task_prompt_ttft_s": setup.first_token_s.to_json() if setup.first_token_s else None,
        "quality": quality_document(one.quality),
        "reasons": list(one.reasons),
    }


def need_document(need: Need) -> Document:
    return {
        "task": need.task.name,
        "context_tokens": need.context_tokens,
        "prompt_tokens": need.prompt_tokens,
        "output_tokens": need.output_tokens,
        "users": need.users,
        "min_decode_tokens_per_s": need.min_decode_tokens_per_s,
        "max_ttft_s": need.max_ttft_s,
        "reserve_bytes": need.reserve_bytes,
    }


def site_document(site: Site) -> Document:
    from weigh.bench.here import Here

    return here_document(site) if isinstance(site, Here) else target_document(site.target)


def answer_document(site: Site, answer: Answer) -> Document:
    return {
        "machine": site_document(site),
        "need": need_document(answer.need),
        "considered": answer.considered,
        "met": answer.met,
        "recommendations": [recommendation_document(one) for one in answer.ranked],
        "nearest_misses": [recommendation_document(one) for one in answer.misses],
        "why": answer.why,
        "binding": list(answer.binding),
        "trades": list(answer.trades),
    }


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


def history_document(runs: Sequence[Run], measurements: Sequence[Measurement]) -> Document:
    return {
        "runs": [run_document(run) for run in runs],
        "measurements": [measurement_document(one) for one in measurements],
    }


def events_document(events: Sequence[Event]) -> Document:
    return {"events": [asdict(event) | {"details": dict(event.details)} for event in events]}


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
    }


def removed_document(gone: Run | Measurement) -> Document:
    from weigh.store.run import Run

    return {"removed": run_document(gone) if isinstance(gone, Run) else measurement_document(gone)}


def imported_document(found: Imported) -> Document:
    return {
        "origin": asdict(found.origin) if found.origin else None,
        "format": found.format,
        "added": found.added,
        "runs": found.runs,
        "measurements": found.measurements,
        "known": found.known,
    }


def accuracy_document(groups: Sequence[Group], by: str | None) -> Document:
    return {"by": by, "groups": [asdict(group) for group in groups]}
