"""The JSON form of machines, devices and models; the keys are stable and described in docs/json.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from weigh.figure import Figure

if TYPE_CHECKING:
    from weigh.advise.shelf import OnShelf
    from weigh.bench.here import Here
    from weigh.estimate.site import Site
    from weigh.machine import Machine
    from weigh.machine.device_sheets import GpuSheet, HostSheet
    from weigh.machine.doctor import Finding
    from weigh.machine.target import Device, Target
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
        "limits": found.limits,
    }


def here_document(here: Here) -> Document:
    document = machine_document(here.machine)
    document["engine"] = {"name": here.engine.name, "version": here.engine_version} if here.engine else None
    document["calibration"] = here.calibration.to_json() if here.calibration else None
    document["calibration_rejected"] = list(here.rejected)
    document["learned_from_runs"] = len(here.learned.lessons) if here.learned else 0
    return document


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


def site_document(site: Site) -> Document:
    from weigh.bench.here import Here

    return here_document(site) if isinstance(site, Here) else target_document(site.target)


def devices_document(found: Sequence[GpuSheet | HostSheet]) -> Document:
    return {"devices": [asdict(sheet) for sheet in found]}


def doctor_document(findings: Sequence[Finding]) -> Document:
    return {"findings": [asdict(finding) for finding in findings]}


def model_document(spec: ModelSpec) -> Document:
    from weigh.model.breakdown import breakdown, kv_bytes_per_token
    from weigh.model.gguf_size import file_bytes

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
