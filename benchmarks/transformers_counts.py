"""Parameters of models as transformers builds them, on the meta device: nothing is downloaded or allocated.

Run by benchmarks/architectures.py with an interpreter that has torch and transformers. Reads a JSON object of
name -> config.json fields from standard input; writes one JSON object of name -> {"parameters": n} or
{"problem": "..."}.
"""

from __future__ import annotations

import json
import sys

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

SUBCONFIGS = ("vision_config", "audio_config")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
ALIASES = {
    "gemma_embedding": "gemma3_text",
    "minimax_text_01": "minimax",
    "kimi_k2": "deepseek_v3",
    "mimo": "qwen2",
    "ministral3": "mistral3",
}
INNER = {"ministral3": "ministral3", "mistral3": "mistral"}  # model_type of the language model inside
NOT_FIELDS = ("quantization_config", "architectures", "model_type", "attn_type_list")


def main() -> None:
    transformers.logging.set_verbosity_error()
    answers = {name: answer(config) for name, config in json.load(sys.stdin).items()}
    print(json.dumps({"version": transformers.__version__, "models": answers}))


def answer(config: dict[str, object]) -> dict[str, object]:
    try:
        return {"parameters": parameters(config)}
    except Exception as error:  # whatever a model class may raise: it is reported, not hidden
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return {"problem": "it has no such class" if "Unrecognized model" in said else said[:90]}


def parameters(fields: dict[str, object]) -> int:
    config = built_config(fields)
    known = [mapping for mapping in mappings(fields) if config.model_type in mapping]
    if not known:
        raise ValueError(f"no model class for {config.model_type}")
    names = known[0]
    found = names[config.model_type]
    model_class = getattr(transformers, found if isinstance(found, str) else found[0])
    with torch.device("meta"):
        model = model_class(config)
    return sum(p.numel() for p in model.parameters())


def mappings(fields: dict[str, object]) -> list[dict[str, object]]:
    """Tables of classes by model type; models for embedding have no heads."""
    if "pooling_mode" in fields:
        return [modeling_auto.MODEL_MAPPING_NAMES]
    return [
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_MAPPING_NAMES,
    ]


def built_config(fields: dict[str, object]) -> transformers.PreTrainedConfig:
    model_type = str(fields["model_type"])
    plain = {k: v for k, v in fields.items() if k not in NOT_FIELDS}
    if model_type == "falcon":  # its class works the width of a head out
        plain["num_kv_heads"] = plain.get("num_key_value_heads")
        del plain["head_dim"]
    inside = {key: plain.pop(key) for key in SUBCONFIGS if key in plain}
    plain |= under_its_class_names(model_type, fields)
    outer = ALIASES.get(model_type, model_type)
    if not inside:
        return AutoConfig.for_model(outer, **plain)
    shared = {k: plain[k] for k in ("tie_word_embeddings", "spatial_merge_size") if k in plain}
    if model_type in INNER:
        plain["model_type"] = INNER[model_type]
    return AutoConfig.for_model(outer, text_config=plain, **shared, **inside)


def under_its_class_names(model_type: str, fields: dict[str, object]) -> dict[str, object]:
    """The catalog's fields under the names that config classes take, and what they want beside them."""
    added: dict[str, object] = {}
    experts = next((fields[name] for name in EXPERTS if fields.get(name)), None)
    if experts:
        added |= dict.fromkeys(EXPERTS, experts)
    if experts and model_type in ("granitemoe", "granitemoehybrid", "olmoe", "minimax_text_01"):
        added["intermediate_size"] = fields.get("moe_intermediate_size") or fields.get("intermediate_size")
    if model_type in ("deepseek_v2", "deepseek_v3"):
        added["q_lora_rank"] = fields.get("q_lora_rank")  # its class takes a missing one for 1536
    if model_type == "falcon_h1":
        added["mamba_d_ssm"] = fields["mamba_n_heads"] * fields["mamba_d_head"]
    if model_type == "lfm2" and "block_auto_adjust_ff_dim" not in fields:
        added["block_auto_adjust_ff_dim"] = False
    if types := fields.get("attn_type_list"):
        added["layer_types"] = ["full_attention" if full else "linear_attention" for full in types]
    for key in ("rope_scaling", "rope_parameters"):
        rope = fields.get(key)
        if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) == "longrope":
            added[key] = {**rope, "short_factor": [1.0] * 48, "long_factor": [1.0] * 48}
    return added


if __name__ == "__main__":
    main()
