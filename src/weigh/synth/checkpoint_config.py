"""The config.json of a model of known shapes, whole or shortened, as transformers and vLLM read it."""

from __future__ import annotations

from collections.abc import Mapping

from weigh.errors import BadInput, NotSupported
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config, text_part
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import stored

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_TEXT_ONLY = {  # of models that also see or hear: the type of the part that writes text
    **{name: f"{name}_text" for name in ("gemma3", "gemma3n", "gemma4", "llama4", "qwen3_5", "qwen3_5_moe")},
    "mistral3": "mistral",
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
}
# transformers' `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` (5.24.0); vLLM goes by these names too
_CLASSES = {
    **{"apertus": "Apertus", "arcee": "Arcee", "cohere": "Cohere", "deepseek_v2": "DeepseekV2"},
    **{"deepseek_v3": "DeepseekV3", "deepseek_v32": "DeepseekV32", "deepseek_v4": "DeepseekV4"},
    **{"dots1": "Dots1", "ernie4_5": "Ernie4_5", "exaone4": "Exaone4", "falcon": "Falcon"},
    **{"falcon_h1": "FalconH1", "falcon_mamba": "FalconMamba", "gemma": "Gemma", "gemma2": "Gemma2"},
    **{"gemma3_text": "Gemma3", "gemma3n_text": "Gemma3n", "gemma4_text": "Gemma4", "glm4": "Glm4"},
    **{"glm4_moe": "Glm4Moe", "glm4_moe_lite": "Glm4MoeLite", "glm_moe_dsa": "GlmMoeDsa"},
    **{"gpt_neox": "GPTNeoX", "gpt_oss": "GptOss", "granite": "Granite", "granitemoe": "GraniteMoe"},
    **{"granitemoehybrid": "GraniteMoeHybrid", "jamba": "Jamba", "kimi_linear": "KimiLinear", "lfm2": "Lfm2"},
    **{"lfm2_moe": "Lfm2Moe", "llama": "Llama", "llama4_text": "Llama4", "mamba": "Mamba"},
    **{"mimo_v2_flash": "MiMoV2Flash", "minimax_m2": "MiniMaxM2", "ministral3": "Ministral3"},
    **{"mistral": "Mistral", "mixtral": "Mixtral", "nemotron_h": "NemotronH", "olmo2": "Olmo2"},
    **{"olmo3": "Olmo3", "olmoe": "Olmoe", "opt": "OPT", "phi": "Phi", "phi3": "Phi3", "phimoe": "Phimoe"},
    **{"qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3", "qwen3_5_text": "Qwen3_5"},
    **{"qwen3_5_moe_text": "Qwen3_5Moe", "qwen3_moe": "Qwen3Moe", "qwen3_next": "Qwen3Next"},
    **{"seed_oss": "SeedOss", "smollm3": "SmolLM3", "stablelm": "StableLm", "starcoder2": "Starcoder2"},
}
_DROPPED = ("vision_config", "audio_config", "text_config", "quantization_config", "torch_dtype", "auto_map")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_OWN_EXPERTS = {  # what the class calls them, where published fields may be summed up under another name
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "dots1", "glm4_moe"), "n_routed_experts"),
    **dict.fromkeys(("granitemoe", "granitemoehybrid"), "num_local_experts"),
}
_EXPERTS_WIDTH = ("granitemoe", "olmoe")  # whose `intermediate_size` is that of an expert
_FURTHER_TOKENS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")  # layers that text does not pass


def checkpoint_config(spec: ModelSpec, config: Mapping[str, object] | None = None) -> dict[str, object]:
    """The config of `spec`, which may have fewer layers, words or experts than the published one.

    Args:
        spec: stored as BF16, F16 or F32 (see `stored`).
        config: the published fields; None: the catalog's, by the name of `spec`.

    Raises:
        NotSupported: a model whose config is not known, a quantized one, or one of an architecture that
            cannot be shortened by its config.
    """
    if config is None:
        entry = catalog().by_id.get(spec.name)
        if entry is None:
            raise NotSupported(f"{spec.name}: its config is not known, which a checkpoint needs")
        config = entry.config
    if spec.quantization not in _DTYPES:
        raise NotSupported(
            f"{spec.name}: a checkpoint can be made up in {', '.join(_DTYPES)}, not {spec.quantization}"
        )
    fields = {key: value for key, value in text_part(config).items() if key not in _DROPPED}
    model_type = str(fields.get("model_type"))
    model_type = _TEXT_ONLY.get(model_type, model_type)
    if model_type not in _CLASSES:
        raise NotSupported(f"{spec.name}: checkpoints of `{model_type}` cannot be made up yet")
    fields |= {
        "model_type": model_type,
        "architectures": [f"{_CLASSES[model_type]}ForCausalLM"],
        "dtype": _DTYPES[spec.quantization],
        "vocab_size": spec.vocab,
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None},  # those published may lie beyond it
        **_with_layers(fields, spec.layers),
        **{key: 0 for key in _FURTHER_TOKENS if key in fields},
        **_with_experts(fields, spec.experts, _OWN_EXPERTS.get(model_type, "")),
    }
    _make_exact(model_type, fields)
    _check(spec, fields)
    return fields


def _with_layers(fields: Mapping[str, object], layers: int) -> dict[str, object]:
    """The number, and the first of what is said layer by layer."""
    published = fields["num_hidden_layers"]
    said = {
        key: value[:layers]
        for key, value in fields.items()
        if (isinstance(value, list) or key == "hybrid_override_pattern")
        and isinstance(value, list | str)
        and len(value) == published
        and key != "architectures"
    }
    return {"num_hidden_layers": layers, **said}


def _with_experts(fields: Mapping[str, object], experts: int, own: str) -> dict[str, object]:
    fewer = {key: experts for key in _EXPERTS if key in fields and fields[key] != experts}
    groups = {key: 1 for key in ("n_group", "topk_group") if fewer and key in fields}
    return {**fewer, **groups, **({own: experts} if own and experts else {})}


def _make_exact(model_type: str, fields: dict[str, object]) -> None:
    """Say what the classes of transformers would otherwise take for granted, or trip over."""
    if "kv_lora_rank" in fields:
        fields.setdefault("q_lora_rank", None)  # a missing one means none
    if model_type == "lfm2":
        fields["block_auto_adjust_ff_dim"] = False  # the width is that of the tensors already
    if model_type == "falcon":
        heads = fields.pop("num_key_value_heads", 1)
        fields |= {"num_kv_heads": heads, "new_decoder_architecture": heads != 1}
        fields.pop("head_dim", None)
    if model_type in _EXPERTS_WIDTH and "moe_intermediate_size" in fields:
        fields["intermediate_size"] = fields["moe_intermediate_size"]
    scaling = fields.get("rope_scaling")
    if isinstance(scaling, dict) and "longrope" in scaling.values() and "long_factor" not in scaling:
        del fields["rope_scaling"]  # rotations cost the same whatever their angles


def _check(spec: ModelSpec, fields: Mapping[str, object]) -> None:
    try:
        described = stored(spec_from_config(spec.name, fields), spec.quantization)
    except BadInput as error:
        raise NotSupported(f"{spec.name}: its config cannot be shortened ({error.message})") from error
    if described.parameters != spec.parameters:
        raise NotSupported(
            f"{spec.name}: its config would describe {described.parameters} parameters, not {spec.parameters}"
        )
