"""The JSON form of every answer; the keys are stable and described in docs/json.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from weigh.figure import Figure

if TYPE_CHECKING:
    from weigh.advise.needs import Need
    from weigh.advise.search import Answer, Recommendation
    from weigh.bench.here import Here
    from weigh.bench.trial import Trial
    from weigh.engines.engine import Layout
    from weigh.estimate.memory import MemoryEstimate
    from weigh.estimate.quality import Quality
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.speed import SpeedEstimate
    from weigh.machine import Bandwidth, Machine
    from weigh.model.spec import ModelSpec

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
    }


def here_document(here: Here, bandwidth: Bandwidth | None = None) -> Document:
    document = machine_document(here.machine)
    document["engine"] = {"name": here.engine.name, "version": here.engine_version} if here.engine else None
    document["calibration"] = here.calibration.to_json() if here.calibration else None
    if bandwidth is not None:
        document["memory_read"] = [
            {"threads": threads, "bytes_per_s": figure.to_json()} for threads, figure in bandwidth.by_threads
        ]
    return document


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
        "basis": spec.basis,
        "notes": list(spec.notes),
    }


def memory_document(memory: MemoryEstimate, available_bytes: int) -> Document:
    return {
        "weights_bytes": exact(memory.weights_bytes, "bytes"),
        "kv_cache_bytes": exact(memory.kv_cache_bytes, "bytes"),
        "compute_bytes": exact(memory.compute_bytes, "bytes"),
        "runtime_bytes": exact(memory.runtime_bytes, "bytes"),
        "total_bytes": exact(memory.total_bytes, "bytes"),
        "available_bytes": exact(available_bytes, "bytes"),
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


def setup_document(found: SetupEstimate, layout: Layout | None) -> Document:
    document: Document = {
        "model": found.spec.name,
        "quantization": found.spec.quantization,
        "fits": found.fits,
        "settings": {
            "context_tokens": found.settings.context_tokens,
            "parallel": found.settings.parallel,
            "kv_type": found.settings.kv_type_k.name,
        },
        "workload": asdict(found.workload),
        "memory": memory_document(found.memory, found.available_bytes)
        | {"max_context_tokens": exact(found.max_context_tokens, "tokens")},
        "speed": speed_document(found.speed),
    }
    if layout is not None:
        document["engine_layout"] = asdict(layout) | {"total_bytes": layout.total_bytes}
    return document


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


def answer_document(here: Here, answer: Answer) -> Document:
    return {
        "machine": here_document(here),
        "need": need_document(answer.need),
        "considered": answer.considered,
        "met": answer.met,
        "recommendations": [recommendation_document(one) for one in answer.ranked],
        "nearest_misses": [recommendation_document(one) for one in answer.misses],
        "why": answer.why,
        "binding": list(answer.binding),
        "trades": list(answer.trades),
    }


def trial_document(result: Trial) -> Document:
    speed = result.estimate.speed
    estimated = speed_document(speed) or {}
    return {
        "model": result.estimate.spec.name,
        "quantization": result.estimate.spec.quantization,
        "engine": {"name": result.engine, "version": result.engine_version, "command": list(result.command)},
        "workload": asdict(result.estimate.workload),
        "estimated": {
            **{key: estimated.get(key) for key in ("load_s", "prefill_tokens_per_s", "decode_tokens_per_s")},
            "peak_memory_bytes": result.estimate.peak_memory_bytes.to_json(),
        },
        "measured": {
            "load_s": result.load_s.to_json(),
            "prefill_tokens_per_s": result.prefill_tokens_per_s.to_json(),
            "decode_tokens_per_s": result.decode_tokens_per_s.to_json(),
            "peak_memory_bytes": result.peak_memory_bytes.to_json(),
        },
        "noise": result.noise,
    }
