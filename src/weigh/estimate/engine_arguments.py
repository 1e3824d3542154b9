"""What to give an engine so that a placement comes about."""

from __future__ import annotations

from collections.abc import Sequence

from weigh.engines.engine import Settings
from weigh.errors import NotSupported
from weigh.estimate.device_memory import placed_memory
from weigh.estimate.memory import EMBEDDINGS
from weigh.estimate.placement import Placement
from weigh.machine.target import Backend, Target
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec
from weigh.units import GIB, MIB

# How llama.cpp names its devices (`--list-devices`), a number after each.
_DEVICE_NAMES = {
    Backend.CUDA: "CUDA",
    Backend.ROCM: "ROCm",
    Backend.VULKAN: "Vulkan",
    Backend.SYCL: "SYCL",
    Backend.METAL: "MTL",
}
_VLLM_MOST = 0.95


def arguments(
    placement: Placement, target: Target, spec: ModelSpec, settings: Settings, engine: str = "llama.cpp"
) -> tuple[str, ...]:
    """Command-line arguments of `llama-server` (or of `vllm serve`), lines of an Ollama Modelfile, or arguments of
    transformers' `from_pretrained`.

    Args:
        engine: `llama.cpp`, `ollama`, `vllm` or `transformers`.

    Raises:
        NotSupported: the engine has no way to say this.
    """
    match engine:
        case "llama.cpp":
            return _llama_cpp(placement, target, spec, settings)
        case "ollama":
            return _ollama(placement, spec, settings)
        case "vllm":
            return _vllm(placement, target, spec, settings)
        case "transformers":
            return _transformers(placement, target, spec, settings)
    raise NotSupported(f"no arguments are known for the engine `{engine}`")


def _llama_cpp(placement: Placement, target: Target, spec: ModelSpec, settings: Settings) -> tuple[str, ...]:
    if placement.tensor_parallel:
        raise NotSupported("a split of every layer over all GPUs is vLLM's; llama.cpp's is not weighed")
    given = [*_devices(placement, target, spec), "-c", str(settings.context_tokens * settings.parallel)]
    given += ["-np", str(settings.parallel)]
    if settings.batch_tokens != Settings().batch_tokens:
        given += ["-b", str(settings.batch_tokens)]
    if settings.ubatch_tokens != Settings().ubatch_tokens:
        given += ["-ub", str(settings.ubatch_tokens)]
    if settings.kv_type_k is not GgmlType.F16:
        given += ["-ctk", settings.kv_type_k.name.lower()]
    if settings.kv_type_v is not GgmlType.F16:
        given += ["-fa", "on", "-ctv", settings.kv_type_v.name.lower()]
    if not settings.mmap:
        given += ["--load-mode", "none"]
    return tuple(given)


def _devices(placement: Placement, target: Target, spec: ModelSpec) -> list[str]:
    """Which devices, how many layers of which each holds, and the experts that stay in RAM."""
    used = [gpu for gpu, layers in enumerate(placement.gpu_layers) if layers]
    if not used:
        return ["--device", "none"] if target.gpus else []
    given = ["-ngl", str(_offloaded(placement, spec))]
    if len(used) == 1 and len(target.gpus) > 1:
        given += ["-sm", "none", "-mg", str(used[0])]
    elif len(used) > 1:
        if len(used) < len(target.gpus):
            given += ["--device", ",".join(_device_name(target, gpu) for gpu in used)]
        given += ["-sm", "layer", "-ts", ",".join(map(str, _shares(placement, spec, used)))]
    if placement.experts_in_ram:
        given += ["--n-cpu-moe", str(placement.experts_in_ram)]
    if not placement.output_on_gpu:
        given += ["-ot", r"^output\.weight=CPU"]
    return given


def _offloaded(placement: Placement, spec: ModelSpec) -> int:
    """Layers as `-ngl` counts them, from the end: the output is one, and so is each that predicts further tokens."""
    return sum(placement.gpu_layers) + 1 + _drafts(spec)


def _drafts(spec: ModelSpec) -> int:
    drafts = spec.hyper.get("nextn_predict_layers", 0)
    return drafts if isinstance(drafts, int) else 0


def _shares(placement: Placement, spec: ModelSpec, used: Sequence[int]) -> list[int]:
    """Proportions that come out as whole layers: llama.cpp gives layer i of n to the first GPU whose share of all
    shares, summed up, is above i / n (llama-model.cpp `load_tensors`)."""
    shares = [placement.gpu_layers[gpu] for gpu in used]
    shares[-1] += 1 + _drafts(spec)
    return shares


def _device_name(target: Target, gpu: int) -> str:
    backend = target.gpus[gpu].backend
    number = sum(other.backend is backend for other in target.gpus[:gpu])
    return f"{_DEVICE_NAMES[backend]}{number}"


def draft_arguments(
    way: str, draft: tuple[Placement, Target, ModelSpec] | None, tokens: int
) -> tuple[str, ...]:
    """What `llama-server` takes in addition, to draft `tokens` tokens a round.

    The older `--draft-max` and `--draft-min` have been removed from llama.cpp; the names here are those of
    common/arg.cpp in the release the embedded engine is built from.

    Args:
        way: of `--spec-type`: `draft-simple`, `draft-mtp` or `ngram-simple`.
        draft: the draft model and its place; None when there is no other model.
    """
    given = ["--spec-type", way]
    if draft is not None:
        placement, target, spec = draft
        given += [
            "-md",
            str(spec.file) if spec.file else f"{spec.name.rpartition('/')[2]}-{spec.quantization}.gguf",
        ]
        used = [gpu for gpu, layers in enumerate(placement.gpu_layers) if layers]
        if target.gpus:
            given += ["-ngld", str(_offloaded(placement, spec) if used else 0)]
        if used and len(used) < len(target.gpus):
            given += ["-devd", ",".join(_device_name(target, gpu) for gpu in used)]
    size = "--spec-ngram-simple-size-m" if way.startswith("ngram") else "--spec-draft-n-max"
    return (*given, size, str(tokens))


def _ollama(placement: Placement, spec: ModelSpec, settings: Settings) -> tuple[str, ...]:
    """Lines of a Modelfile; the same names are options of a request."""
    if placement.experts_in_ram:
        raise NotSupported("Ollama cannot keep the experts alone in RAM")
    layers = _offloaded(placement, spec) if placement.on_gpu else 0
    return (f"PARAMETER num_gpu {layers}", f"PARAMETER num_ctx {settings.context_tokens}")


def _vllm(placement: Placement, target: Target, spec: ModelSpec, settings: Settings) -> tuple[str, ...]:
    used = [gpu for gpu, layers in enumerate(placement.gpu_layers) if layers]
    if not used:
        raise NotSupported("vLLM on the processor alone is a build of its own; no placement is needed")
    way = "--tensor-parallel-size" if placement.tensor_parallel else "--pipeline-parallel-size"
    given = [way, str(len(used))] if len(used) > 1 else []
    free = min(target.gpus[gpu].free_bytes / target.gpus[gpu].memory_bytes for gpu in used)
    given += ["--gpu-memory-utilization", f"{int(100 * min(free, _VLLM_MOST)) / 100:.2f}"]
    given += ["--max-model-len", str(settings.context_tokens), "--max-num-seqs", str(settings.parallel)]
    if placement.tensor_parallel:
        return tuple(given)
    in_ram = _weights_bytes(placement, target, spec, settings)[0] - _embedding_bytes(spec)
    return (*given, "--cpu-offload-gb", str(-(-in_ram // len(used) // GIB))) if in_ram > 0 else tuple(given)


def _embedding_bytes(spec: ModelSpec) -> int:
    """Tensors that llama.cpp leaves in RAM whatever the placement, and others do not."""
    return sum(tensor.total_bytes for tensor in spec.tensors if tensor.name in EMBEDDINGS)


def _weights_bytes(placement: Placement, target: Target, spec: ModelSpec, settings: Settings) -> list[int]:
    """Of RAM and of each GPU."""
    everywhere = (0,) * (len(target.gpus) + 1)
    held = placed_memory(spec, settings, target, placement, available=everywhere)
    return [memory.weights_bytes for memory in held]


def _transformers(
    placement: Placement, target: Target, spec: ModelSpec, settings: Settings
) -> tuple[str, ...]:
    """Accelerate fills the GPUs in order, whole layers at a time, each up to the memory it is given."""
    if placement.experts_in_ram:
        raise NotSupported("transformers places whole layers; it cannot keep the experts alone in RAM")
    if not placement.on_gpu:
        return ('device_map="cpu"',)
    in_ram, *on_gpus = _weights_bytes(placement, target, spec, settings)
    limits = [f'{gpu}: "{-(-size // MIB)}MiB"' for gpu, size in enumerate(on_gpus) if size]
    limits.append(f'"cpu": "{-(-in_ram // MIB)}MiB"')
    return ('device_map="auto"', f"max_memory={{{', '.join(limits)}}}")
