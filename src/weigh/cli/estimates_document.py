"""The JSON form of what is estimated; the keys are stable and described in docs/json.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from weigh.cli.inventory_document import Document, exact

if TYPE_CHECKING:
    from weigh.engines.engine import Layout
    from weigh.estimate.cost import CostEstimate, PerMillion
    from weigh.estimate.curves import Curve, Point
    from weigh.estimate.energy import EnergyEstimate
    from weigh.estimate.extras import Extras
    from weigh.estimate.kv_types import KvChoice
    from weigh.estimate.placement import DeviceMemory, Placement
    from weigh.estimate.serving import Served
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.site import Site
    from weigh.estimate.speculative import SpeculativeEstimate
    from weigh.estimate.speed import SpeedEstimate


def _calibration_problems(site: Site) -> list[str]:
    return list(site.calibration.problems) if site.calibration else []


def fit_document(
    found: SetupEstimate | Served, layout: Layout | None, extras: Extras | None = None
) -> Document:
    from weigh.estimate.serving import Served

    document = served_document(found) if isinstance(found, Served) else setup_document(found, layout)
    return document | (extras_document(extras) if extras is not None else {})


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
