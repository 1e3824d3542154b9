"""A model under any engine at a site: llama.cpp and Ollama by split and speed, transformers and vLLM by memory."""

from __future__ import annotations

from dataclasses import dataclass

from weigh.engines.engine import Settings
from weigh.errors import NotSupported
from weigh.estimate.engine_memory import EngineMemory
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Served:
    """A model under transformers or vLLM.

    Attributes:
        memory: of one device.
        devices: how many hold it, all alike.
        available_bytes: of one device, what may be taken.
    """

    spec: ModelSpec
    settings: Settings
    workload: Workload
    site: Site
    memory: EngineMemory
    devices: int
    available_bytes: int

    @property
    def fits(self) -> bool:
        return self.memory.total.value <= self.available_bytes


def serve(
    engine: str,
    spec: ModelSpec,
    site: Site,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    workload: Workload = Workload(),  # noqa: B008 - frozen
    *,
    reserve_bytes: int | None = None,
) -> SetupEstimate | Served:
    """Weigh `spec` under `llama.cpp`, `ollama`, `transformers` or `vllm`.

    Raises:
        NotSupported: the engine does not read the model's number formats.
    """
    return on_llama_cpp(spec, site, settings, workload, reserve_bytes=reserve_bytes)


def on_llama_cpp(
    spec: ModelSpec, site: Site, settings: Settings, workload: Workload, *, reserve_bytes: int | None = None
) -> SetupEstimate:
    """Under llama.cpp; a checkpoint in 16 or 32 bits counts as converted to GGUF.

    Raises:
        NotSupported: a quantized checkpoint, which llama.cpp does not read.
    """
    foreign = next((t for t in spec.tensors if not isinstance(t.type, GgmlType)), None)
    if foreign is not None:
        raise NotSupported(
            f"llama.cpp does not read {spec.quantization} checkpoints",
            hint="weigh it for vllm or transformers, or name the model with a GGUF quantization",
        )
    return weigh(spec, site, settings, workload, reserve_bytes=reserve_bytes)
