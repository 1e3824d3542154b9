"""The llama.cpp settings that Ollama would choose for a model, so that llama.cpp's formulas hold for it.

Since 0.30 Ollama runs GGUF models by llama.cpp's own server. What a user sets reaches it through three doors:
the request, the model's `params` (a Modelfile's `PARAMETER num_ctx`), and the server's environment
(`OLLAMA_CONTEXT_LENGTH`); what nobody sets is chosen from the memory of the GPUs. How many layers go to a GPU is
then left to llama.cpp, which fits them into what is free.

Source: Ollama v0.33.0 (commit fb307609, 2026-08-21, MIT): envconfig/config.go, server/{routes,sched}.go,
llm/{server,llama_server}.go, ml/device.go. Read, not run. Not covered: safetensors models (MLX), projectors
(a vision model's context is at least 2048), draft models, adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.machine.target import Backend, Device, Target
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec
from weigh.units import GB, GIB, MIB

# routes.go: the tiers are meant to be 24 and 48 GiB; cards have a little less.
CONTEXT_TIERS = ((47 * GIB, 262144), (23 * GIB, 32768), (0, 4096))
LEAST_CONTEXT = 4
# sched.go: one sequence at a time, whatever is asked.
ONE_SEQUENCE = frozenset(
    {"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next"}
    | {"lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni"}
)
# sched.go: a batch larger than 512 for long contexts (tokens of all sequences), where it leaves room: bytes it
# adds to the prediction, and the part of the free memory that the prediction may take.
BATCH_TIERS = ((32768, 2048), (4096, 1024), (0, 512))
BATCH_SURCHARGE_BYTES = {2048: 2 * GIB, 1024: 768 * MIB, 512: 0}
BATCH_HEADROOM_PERCENT = {2048: 60, 1024: 75, 512: 100}
FITS_PERCENT = 80  # of free memory: beyond it a model is taken not to fit

# llama.cpp's common/arg.cpp `kv_cache_types`
_KV_TYPES = {
    name: GgmlType[name.upper()]
    for name in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
}
_FALSE = frozenset({"0", "f", "false"})
_EMBEDDING_BATCH = 2048
MMAP_SPARE_BYTES = 8 * GB  # Linux with discrete GPUs: RAM to stay free beside the mapped file


@dataclass(frozen=True, slots=True)
class OllamaSettings:
    """What llama.cpp is started with.

    Attributes:
        gpu_layers: None: as many as fit (`-ngl` is not passed); 0: the CPU does everything.
        flash_attention: None: llama.cpp decides (it is used where the backend can).
        gpus: the target's GPUs the model is given to: one if it is predicted to fit there, else all.
        predicted_bytes: Ollama's own guess of what the model takes, which decides the two above.
        notes: in plain words, what was chosen by whom, and what differs from plain llama.cpp.
    """

    settings: Settings
    gpu_layers: int | None
    flash_attention: bool | None
    gpus: tuple[Device, ...]
    predicted_bytes: int
    notes: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Those of llama.cpp's server that matter for memory."""
        s = self.settings
        kv_type = s.kv_type_k.name.lower()
        attention = {None: "auto", True: "on", False: "off"}[self.flash_attention]
        return (
            *("-c", str(s.context_tokens * s.parallel), "-np", str(s.parallel)),
            *(("--cache-type-k", kv_type, "--cache-type-v", kv_type) if kv_type != "f16" else ()),
            *("--flash-attn", attention, "-b", str(s.batch_tokens), "-ub", str(s.ubatch_tokens)),
            *(() if s.mmap else ("--load-mode", "none")),
            *(() if self.gpu_layers is None else ("-ngl", str(self.gpu_layers))),
        )


def ollama_settings(
    spec: ModelSpec, params: Mapping[str, object], environment: Mapping[str, str], target: Target
) -> OllamaSettings:
    """What Ollama 0.33 makes of a model's own `params` and the server's `environment` on `target`.

    Args:
        params: `num_ctx`, `num_batch`, `num_gpu`, `num_thread`, `use_mmap` as the model's params layer or a
            request has them (the request's win: merge them over the layer's).
        environment: variables of the server, not of the caller.

    Raises:
        BadInput: a value that Ollama would not take.
    """
    gpu_layers = _count(params, "num_gpu", default=-1, least=-1)
    gpus = target.gpus if gpu_layers else ()
    parallel, parallel_note = _parallel(spec, environment)
    context, context_note = _context(spec, params, environment, target)
    predicted = predicted_bytes(spec, context * parallel)
    chosen = _chosen_gpus(gpus, predicted, environment)
    flash_attention = _flash_attention(chosen, environment)
    batch = _batch(spec, params, context * parallel, predicted, chosen, flash_attention)
    kv_type, kv_note = _kv_type(environment, flash_attention)
    mmap, mmap_note = _mmap(spec, params, chosen, target.host, predicted)
    settings = Settings(
        context_tokens=context,
        parallel=parallel,
        kv_type_k=kv_type,
        kv_type_v=kv_type,
        batch_tokens=batch,
        ubatch_tokens=batch,
        threads=_count(params, "num_thread", default=0) or None,
        mmap=mmap,
    )
    notes = tuple(filter(None, (context_note, parallel_note, kv_note, mmap_note)))
    return OllamaSettings(
        settings,
        None if gpu_layers < 0 and gpus else gpu_layers * bool(gpus),
        flash_attention,
        chosen,
        predicted,
        notes,
    )


def predicted_bytes(spec: ModelSpec, context_tokens: int) -> int:
    """Ollama's guess: the file, and keys and values as if every layer were full attention in F16.

    Source: llm/llama_server.go `PredictServerVRAM`. Far off for windows, latents and states; used here only
    because Ollama decides by it.
    """
    heads = max((mixer.query_heads for mixer in spec.mixers), default=0)
    kv_heads = min((mixer.kv_heads for mixer in spec.mixers if mixer.kv_heads), default=1)
    width = spec.hidden // heads if heads else 0
    weights = spec.file_bytes or spec.tensor_bytes
    return weights + 2 * spec.layers * kv_heads * width * context_tokens * 2


def _context(
    spec: ModelSpec, params: Mapping[str, object], environment: Mapping[str, str], target: Target
) -> tuple[int, str]:
    """Tokens of context per sequence, and who chose it."""
    if asked := _count(params, "num_ctx", default=0):
        wanted, by = asked, "the model's or the request's `num_ctx`"
    elif asked := _number(environment, "OLLAMA_CONTEXT_LENGTH", 0):
        wanted, by = asked, "`OLLAMA_CONTEXT_LENGTH`"
    else:
        wanted, by = _automatic_context(environment, target), "the memory of the GPUs (4096 below 0.15.5)"
    tokens = max(LEAST_CONTEXT, min(wanted, spec.context_train or wanted))
    limited = " and by what the model was trained for" if tokens < wanted else ""
    return tokens, f"context of {tokens} tokens, chosen by {by}{limited}"


def _automatic_context(environment: Mapping[str, str], target: Target) -> int:
    """4k, 32k or 256k by the memory of all GPUs together; `OLLAMA_GPU_OVERHEAD` counts here and nowhere else."""
    overhead = _number(environment, "OLLAMA_GPU_OVERHEAD", 0)
    total = sum(max(0, gpu.memory_bytes - overhead) for gpu in target.gpus)
    return next(tokens for least, tokens in CONTEXT_TIERS if total >= least)


def _parallel(spec: ModelSpec, environment: Mapping[str, str]) -> tuple[int, str]:
    asked = max(1, _number(environment, "OLLAMA_NUM_PARALLEL", 1))
    if asked > 1 and spec.architecture in ONE_SEQUENCE:
        return 1, f"one sequence at a time: Ollama does not run `{spec.architecture}` in parallel"
    if asked > 1 and _is_embedding(spec):
        return 1, "one sequence at a time, as for all embedding models"
    return asked, "" if asked > 1 else "one sequence at a time (4 or 1 by free memory before 0.9.7)"


def _is_embedding(spec: ModelSpec) -> bool:
    return "pooling_type" in spec.hyper


def _chosen_gpus(
    gpus: tuple[Device, ...], predicted: int, environment: Mapping[str, str]
) -> tuple[Device, ...]:
    """The emptiest GPU when the prediction takes at most 80 % of it, else all."""
    if len(gpus) < 2 or _switch(environment, "OLLAMA_SCHED_SPREAD"):
        return gpus
    roomy = [gpu for gpu in gpus if predicted <= gpu.free_bytes * FITS_PERCENT // 100]
    return (max(roomy, key=lambda gpu: (not gpu.unified, gpu.free_bytes)),) if roomy else gpus


def _flash_attention(gpus: tuple[Device, ...], environment: Mapping[str, str]) -> bool | None:
    asked = _switch(environment, "OLLAMA_FLASH_ATTENTION")
    if asked is not None:
        return asked
    return None if all(_can_flash(gpu) for gpu in gpus) else False


def _can_flash(gpu: Device) -> bool:
    """CUDA from compute capability 6.0 on without 7.2; all of ROCm, Vulkan and Metal."""
    if gpu.backend is not Backend.CUDA:
        return gpu.backend in (Backend.ROCM, Backend.VULKAN, Backend.METAL)
    major, _, minor = gpu.compute_capability.partition(".")
    return not major or (major.isdigit() and int(major) >= 6 and (major, minor) != ("7", "2"))


def _batch(
    spec: ModelSpec,
    params: Mapping[str, object],
    context_tokens: int,
    predicted: int,
    gpus: tuple[Device, ...],
    flash_attention: bool | None,
) -> int:
    """Tokens of a batch and of a micro-batch alike."""
    if asked := _count(params, "num_batch", default=0):
        return asked
    if _is_embedding(spec):
        return min(_EMBEDDING_BATCH, context_tokens)
    if flash_attention is False and any(gpu.backend is Backend.CUDA for gpu in gpus):
        small = any(gpu.backend is Backend.CUDA and gpu.free_bytes <= 8 * GIB for gpu in gpus)
        return 256 if small and context_tokens > 4096 else 512
    free = sum(gpu.free_bytes for gpu in gpus)
    tiers = [batch for least, batch in BATCH_TIERS if context_tokens > least]
    return next((batch for batch in tiers if _batch_fits(batch, predicted, free)), 512)


def _batch_fits(batch: int, predicted: int, free_bytes: int) -> bool:
    if not free_bytes:
        return True  # without a GPU nothing is held against it
    limit = free_bytes * FITS_PERCENT // 100
    within = predicted <= free_bytes * BATCH_HEADROOM_PERCENT[batch] // 100
    return within and predicted + BATCH_SURCHARGE_BYTES[batch] <= limit


def _kv_type(environment: Mapping[str, str], flash_attention: bool | None) -> tuple[GgmlType, str]:
    name = _said(environment, "OLLAMA_KV_CACHE_TYPE").lower()
    if not name:
        return GgmlType.F16, ""
    if name not in _KV_TYPES:
        raise BadInput(f"`OLLAMA_KV_CACHE_TYPE` is `{name[:40]}`, no number format", hint="`q8_0` or `q4_0`")
    if flash_attention is False and _KV_TYPES[name].quantized:
        older = "versions before 0.30 fall back to F16, later ones pass it on and llama.cpp refuses"
        return GgmlType.F16, f"a {name} cache needs flash attention: {older}"
    return _KV_TYPES[name], f"keys and values in {name}, for every model of this server"


def _mmap(
    spec: ModelSpec, params: Mapping[str, object], gpus: tuple[Device, ...], host: Device, predicted: int
) -> tuple[bool, str]:
    """Whether the file is mapped: not on the CPU; on GPUs yes, unless RAM or a Mac's memory is short."""
    asked = params.get("use_mmap")
    if isinstance(asked, bool):
        return asked, ""
    if not gpus:
        return False, "the file is read into private memory, not mapped: Ollama's default on the CPU"
    free = sum(gpu.free_bytes for gpu in gpus)
    if any(gpu.backend is Backend.METAL for gpu in gpus):
        short = predicted > free
    else:
        needed = (spec.file_bytes or spec.tensor_bytes) + max(MMAP_SPARE_BYTES, host.memory_bytes // 10)
        short = predicted <= free * FITS_PERCENT // 100 and host.free_bytes < needed
    return not short, "the file is not mapped, because memory is short beside it" if short else ""


# --- values ------------------------------------------------------------------------------------------


def _said(environment: Mapping[str, str], name: str) -> str:
    """A variable without the blanks and quotes that Ollama strips."""
    return environment.get(name, "").strip().strip("\"'")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """A count; Ollama ignores what is none."""
    text = _said(environment, name)
    return int(text) if text.isdecimal() and len(text) < 19 else default


def _switch(environment: Mapping[str, str], name: str) -> bool | None:
    """On, off, or None when not set; what is no switch means on, as there."""
    text = _said(environment, name).lower()
    return None if not text else text not in _FALSE


def _count(params: Mapping[str, object], name: str, *, default: int, least: int = 0) -> int:
    value = params.get(name, default)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float) or not whole:
        raise BadInput(f"`{name}` is {str(value)[:40]!r}, no whole number")
    if not least <= value < 1 << 31:
        raise BadInput(f"`{name}` is {value}, expected at least {least}")
    return int(value)
