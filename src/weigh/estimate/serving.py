"""A model under any engine at a site: llama.cpp and Ollama by split and speed, transformers and vLLM by memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from weigh.engines.engine import Settings
from weigh.errors import NotSupported
from weigh.estimate.engine_memory import EngineMemory
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.figure import Figure
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec

if TYPE_CHECKING:
    from weigh.estimate.serving_speed import ServingSpeed

ENGINES = ("llama.cpp", "ollama", "transformers", "vllm")
STORED = frozenset({"transformers", "vllm"})  # these read safetensors checkpoints, not GGUF files


@dataclass(frozen=True, slots=True)
class Served:
    """A model under transformers or vLLM.

    Attributes:
        memory: of the device that holds most.
        devices: how many share the model.
        available_bytes: of one device, what may be taken.
        speed: of the requests at once, under vLLM on GPUs; None where nothing is known of it.
    """

    spec: ModelSpec
    settings: Settings
    workload: Workload
    site: Site
    memory: EngineMemory
    devices: int
    available_bytes: int
    speed: ServingSpeed | None = None

    @property
    def peak_memory_bytes(self) -> Figure:
        return self.memory.total

    @property
    def fits(self) -> bool:
        """Whether the engine starts: with vLLM, whether one request of the whole context has room."""
        room = self.memory.max_concurrency >= 1 if self.memory.reserved_bytes else True
        return room and self.memory.total.value <= self.available_bytes


def serve(
    engine: str,
    spec: ModelSpec,
    site: Site,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    workload: Workload = Workload(),  # noqa: B008 - frozen
    *,
    reserve_bytes: int | None = None,
) -> SetupEstimate | Served:
    """Weigh `spec` under one of `ENGINES`.

    Raises:
        NotSupported: the engine does not read the model's number formats.
        BadInput: settings the engine refuses.
    """
    if engine in STORED:
        return _on_torch(engine, spec, site, settings, workload, reserve_bytes)
    if engine == "ollama":
        return _on_ollama(spec, site, settings, workload, reserve_bytes)
    return on_llama_cpp(spec, site, settings, workload, reserve_bytes=reserve_bytes)


def on_llama_cpp(
    spec: ModelSpec, site: Site, settings: Settings, workload: Workload, *, reserve_bytes: int | None = None
) -> SetupEstimate:
    """Under llama.cpp; a checkpoint in 16 or 32 bits counts as converted to GGUF.

    Raises:
        NotSupported: a quantized checkpoint, which llama.cpp does not read.
    """
    if any(not isinstance(t.type, GgmlType) for t in spec.tensors):
        raise NotSupported(
            f"llama.cpp does not read {spec.quantization} checkpoints",
            hint="weigh it for vllm or transformers, or name the model with a GGUF quantization",
        )
    return weigh(spec, site, settings, workload, reserve_bytes=reserve_bytes)


def _on_ollama(
    spec: ModelSpec, site: Site, settings: Settings, workload: Workload, reserve_bytes: int | None
) -> SetupEstimate:
    """llama.cpp with what Ollama makes of the context asked for and of this environment."""
    from weigh.estimate.ollama import ollama_settings

    asked = {"num_ctx": settings.context_tokens}
    environment = {**os.environ, "OLLAMA_NUM_PARALLEL": str(settings.parallel)}
    chosen = ollama_settings(spec, asked, environment, site.target)
    target = replace(site.target, gpus=chosen.gpus)
    found = on_llama_cpp(
        spec, replace(site, target=target), chosen.settings, workload, reserve_bytes=reserve_bytes
    )
    return replace(found, notes=chosen.notes)


def _on_torch(
    engine: str,
    spec: ModelSpec,
    site: Site,
    settings: Settings,
    workload: Workload,
    reserve_bytes: int | None,
) -> Served:
    gguf = next((t for t in spec.tensors if isinstance(t.type, GgmlType) and t.type.quantized), None)
    if gguf is not None and gguf.type not in (GgmlType.MXFP4, GgmlType.NVFP4):
        raise NotSupported(
            f"{engine} does not run {spec.quantization} GGUF files",
            hint="name the model with a checkpoint's format, e.g. `:BF16`, `:FP8`, `:AWQ` or `:GPTQ-INT4`",
        )
    if engine == "vllm":
        return _on_vllm(spec, site, settings, workload, reserve_bytes)
    return _on_transformers(spec, site, settings, workload, reserve_bytes)


def _on_transformers(
    spec: ModelSpec, site: Site, settings: Settings, workload: Workload, reserve_bytes: int | None
) -> Served:
    """On one GPU, or on as few as hold it; on the processor where there is none."""
    from weigh.estimate.transformers import split_memory

    available = site.available_bytes(reserve_bytes)
    devices = site.target.gpus or (site.target.host,)
    rooms = available[1:] or available
    found: list[Served] = []
    for count in range(1, len(devices) + 1):
        parts = split_memory(
            spec,
            prompt_tokens=max(1, settings.context_tokens - workload.output_tokens),
            output_tokens=workload.output_tokens,
            batch=settings.parallel,
            devices=devices[:count],
        )
        largest = max(range(count), key=lambda n: parts[n].total.value - rooms[n])
        found.append(Served(spec, settings, workload, site, parts[largest], count, rooms[largest]))
        if found[-1].fits:
            break
    return found[-1]


def _on_vllm(
    spec: ModelSpec, site: Site, settings: Settings, workload: Workload, reserve_bytes: int | None
) -> Served:
    """On as few GPUs as let it start, under tensor parallelism; its CPU build, with the cache that is asked for,
    where there is none."""
    from weigh.estimate.vllm import cpu_cache_bytes, vllm_memory

    host, gpus = site.target.host, site.target.gpus
    if not gpus:
        room = site.available_bytes(reserve_bytes)[0]
        on_host = vllm_memory(
            spec,
            device=host,
            max_model_len=settings.context_tokens,
            requests=settings.parallel,
            max_num_seqs=settings.parallel,
            max_num_batched_tokens=max(settings.batch_tokens, settings.parallel),
            cpu_kv_bytes=cpu_cache_bytes(
                spec,
                context_tokens=settings.context_tokens,
                parallel=settings.parallel,
                batch_tokens=settings.batch_tokens,
            ),
        )
        return Served(spec, settings, workload, site, on_host, 1, room)
    found: list[Served] = []
    for count in (n for n in _PARALLEL if n <= len(gpus) and _divides(spec, n)):
        memory = vllm_memory(
            spec,
            device=gpus[0],
            max_model_len=settings.context_tokens,
            tensor_parallel=count,
            requests=settings.parallel,
        )
        found.append(Served(spec, settings, workload, site, memory, count, gpus[0].free_bytes))
        if found[-1].fits and memory.max_concurrency >= settings.parallel:
            break
    return _timed(found[-1])


def _timed(found: Served) -> Served:
    """With the speed of its requests, where it starts."""
    from weigh.estimate.serving_speed import serving_speed

    if not (found.fits and found.spec.generates):
        return found
    workload = replace(found.workload, parallel=found.settings.parallel)
    gpu, room = found.site.target.gpus[0], found.memory.kv_capacity_tokens
    speed = serving_speed(found.spec, "vLLM", gpu, found.devices, workload, room_tokens=room)
    return replace(found, speed=speed)


_PARALLEL = (1, 2, 4, 8, 16)


def _divides(spec: ModelSpec, ranks: int) -> bool:
    return all(not mixer.query_heads or mixer.query_heads % ranks == 0 for mixer in spec.mixers)
