"""From the `model_type` of a config.json to the tensors and hyperparameters llama.cpp would have."""

from __future__ import annotations

from collections.abc import Mapping

from weigh.model.architectures import dense, moe
from weigh.model.architectures.draft import Draft, Family
from weigh.model.architectures.fields import Fields

FAMILIES: Mapping[str, Family] = {
    "llama": dense.llama,
    "mistral": dense.llama,
    "qwen2": dense.qwen2,
    "qwen3": dense.qwen3,
    "phi3": dense.phi3,
    "qwen3_moe": moe.qwen3moe,
}

__all__ = ["FAMILIES", "Draft", "Family", "Fields"]
