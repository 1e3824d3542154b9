"""Checkpoints that real quantizers write, beside what weigh works out from their config alone.

python benchmarks/checkpoints.py --checks      # contradictions told about models that have none
python benchmarks/checkpoints.py --families    # transformers' own checkpoints in 16 bits, of each family
python benchmarks/checkpoints.py --schemes     # quantized ones, of several families
python benchmarks/checkpoints.py --load        # checkpoints that weigh writes, loaded by transformers
python benchmarks/checkpoints.py --library     # sound and broken headers, given to the safetensors library too

All but the first need, in the same environment as weigh:
pip install torch==2.13.0 transformers accelerate safetensors bitsandbytes llmcompressor auto-round
Models are small and their weights random: the layout of a checkpoint does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from weigh.errors import BadInput
from weigh.model.catalog import catalog
from weigh.model.checkpoint import read_checkpoint
from weigh.model.checks import contradictions
from weigh.model.config import read_config
from weigh.model.quantization import ALL_RECIPES, quantize
from weigh.model.safetensors import read_header
from weigh.model.stored_quantization import SCHEMES, checkpoint_bytes, stored
from weigh.synth.safetensors import FAMILIES, write_checkpoint

MOST_OFF = 0.005

_DENSE = {
    **{"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"intermediate_size": 512, "vocab_size": 1024, "max_position_embeddings": 4096, "pad_token_id": 0},
}
_HEADS = {**_DENSE, "head_dim": 64}
_MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_WIDTH = {"moe_intermediate_size": 128}
_ROUTED = {**_MOE, **_WIDTH, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
_SHARED = {**_ROUTED, "n_shared_experts": 1, "first_k_dense_replace": 1}
_MLA = {
    **{"kv_lora_rank": 64, "q_lora_rank": 128, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64},
    **{"v_head_dim": 64, "num_key_value_heads": 4},
}
_DELTA = {
    **{"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 32, "linear_value_head_dim": 32},
}
_INDEXER = {"index_n_heads": 2, "index_head_dim": 64, "index_topk": 64}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 16}
_RECURRENT = {"hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 1024}
_CONV = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "phi3", "phi", "olmo2", "olmo3", "granite", "cohere"), _DENSE
    ),
    **dict.fromkeys(("cohere2", "starcoder2", "stablelm", "smollm3", "arcee", "apertus"), _DENSE),
    **dict.fromkeys(("qwen3", "gemma", "gemma2", "gemma3_text", "glm4", "seed_oss", "ernie4_5"), _HEADS),
    "ministral3": {**_HEADS, "max_position_embeddings": 262144},
    "exaone4": {**_DENSE, "sliding_window": None, "layer_types": ["full_attention"] * 2},
    "falcon": {**_DENSE, "new_decoder_architecture": True, "num_kv_heads": 2},
    "gpt_neox": {key: value for key, value in _DENSE.items() if key != "num_key_value_heads"},
    "gpt2": {"n_embd": 256, "n_layer": 2, "n_head": 4, "vocab_size": 1024, "n_positions": 512},
    **{model: {**_DENSE, **_MOE} for model in ("mixtral", "phimoe", "olmoe", "granitemoe")},
    "granitemoeshared": {**_DENSE, **_MOE, "shared_intermediate_size": 128},
    "qwen2_moe": {**_DENSE, **_MOE, **_WIDTH, "shared_expert_intermediate_size": 256},
    "qwen3_moe": {**_HEADS, **_MOE, **_WIDTH},
    "gpt_oss": {**_HEADS, **_MOE},
    "minimax_m2": {**_HEADS, **_MOE, "rotary_dim": 32},
    "llama4_text": {**_HEADS, **_MOE, "intermediate_size_mlp": 512},
    **{model: {**_HEADS, **_SHARED} for model in ("glm4_moe", "dots1")},
    **{model: {**_DENSE, **_SHARED, **_MLA} for model in ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")},
    **{model: {**_DENSE, **_SHARED, **_MLA, **_INDEXER} for model in ("deepseek_v32", "glm_moe_dsa")},
    "qwen3_next": {**_HEADS, **_ROUTED, **_DELTA, "shared_expert_intermediate_size": 128},
    "qwen3_5_text": {**_HEADS, **_DELTA},
    "qwen3_5_moe_text": {**_HEADS, **_ROUTED, **_DELTA, "shared_expert_intermediate_size": 128},
    **dict.fromkeys(("mamba", "falcon_mamba"), _RECURRENT),
    "jamba": {**_DENSE, **_MOE, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "granitemoehybrid": {
        **{**_DENSE, **_MOE, **_MAMBA2, "shared_intermediate_size": 128},
        "layer_types": ["mamba", "attention"],
    },
    "falcon_h1": {**_DENSE, **_MAMBA2, "mamba_d_ssm": 512},
    "lfm2": {**_DENSE, **_CONV},
    "lfm2_moe": {**_DENSE, **_CONV, **_MOE, **_WIDTH, "num_dense_layers": 1},
    "nemotron_h": {
        **{**_HEADS, **_SHARED, "layers_block_type": ["mamba", "moe", "attention", "moe"]},
        **{"num_hidden_layers": 4, "mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 16},
        **{"n_groups": 2, "moe_shared_expert_intermediate_size": 128},
    },
    "gemma3n_text": {
        **{**_HEADS, "num_hidden_layers": 5, "num_kv_shared_layers": 0, "intermediate_size": [512] * 5},
        **{"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 1024},
        "activation_sparsity_pattern": [0.0] * 5,
        "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
    },
    "gemma4_text": {
        **{**_HEADS, "global_head_dim": 64, "num_hidden_layers": 6},
        **{"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
    },
}
QUANTIZED = (
    *("llama", "qwen2", "gemma2", "gemma3_text", "phi3", "glm4", "olmo2", "granite", "starcoder2"),
    *("qwen3_moe", "mixtral", "deepseek_v3", "qwen3_next"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("checks", "families", "schemes", "load", "library"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--only", nargs="*", help="model types, instead of all")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.checks:
        return _false_alarms()
    if arguments.library:
        return _compared_with_the_library()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.load:
            return _loaded(Path(temporary), arguments.only or sorted(FAMILIES & set(CONFIGS)))
        if arguments.schemes:
            return _schemes(Path(temporary), arguments.only or list(QUANTIZED))
        return _families(Path(temporary), arguments.only or list(CONFIGS))


# --- contradictions ------------------------------------------------------------------------------------


def _false_alarms() -> int:
    """Every model of the catalog as a config, as a file of every recipe, and as a checkpoint of every scheme."""
    models = [entry.spec() for entry in catalog() if entry.unsupported is None]
    kinds = {
        "configs": ((spec.name, spec) for spec in models),
        "GGUF files": _named(models, ALL_RECIPES, quantize, "gguf"),
        "checkpoints": _named(models, SCHEMES, stored, "safetensors"),
    }
    alarms = 0
    for kind, specs in kinds.items():
        found = [(name, contradictions(spec)) for name, spec in specs]
        told = [(name, line) for name, lines in found for line in lines]
        print(f"{len(found):6} {kind}: {len(told)} contradictions")
        for name, line in told[:20]:
            print(f"       {name}: {line}")
        alarms += len(told)
    return 1 if alarms else 0


def _named(
    models: list[Any], names: Any, made: Callable[..., Any], file_format: str
) -> Iterator[tuple[str, Any]]:
    """The models at each recipe or scheme, as if read from files named after it."""
    for spec in models:
        for name in names:
            try:
                quantized = made(spec, name)
            except BadInput:  # rows that are no whole blocks
                continue
            file = Path(f"{spec.name.rpartition('/')[2]}-{name}.gguf")
            size = quantized.tensor_bytes + sum(group.total_bytes for group in quantized.beside)
            yield (
                file.stem,
                replace(
                    quantized, name=file.stem, file=file, file_bytes=size, basis="file", format=file_format
                ),
            )


# --- checkpoints ---------------------------------------------------------------------------------------


def _families(folder: Path, model_types: list[str]) -> int:
    print(
        f"{'model type':18} {'tensors, written':>18} {'worked out':>12} {'off':>9} {'file off':>9}  remarks"
    )
    rows = [_row(model_type, _saved(folder, model_type), "BF16") for model_type in model_types]
    return _summary(rows)


def _saved(folder: Path, model_type: str) -> Path | None:
    """A checkpoint of transformers' own class, in 16 bits."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    target = folder / model_type
    if target.exists():
        return target
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**CONFIGS[model_type])
    config.dtype = torch.bfloat16
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(target)
    return target


def _row(label: str, folder: Path | None, scheme: str) -> float | None:
    """Print what is there and what was worked out; the relative difference of the tensors."""
    if folder is None:
        return None
    try:
        real, described = read_checkpoint(folder), read_config(folder)
    except BadInput as error:
        print(f"{label:18} not read: {error.message}")
        return None
    worked_out = replace(stored(described, scheme), beside=real.beside)
    assert real.file_bytes
    off = worked_out.tensor_bytes / real.tensor_bytes - 1
    file_off = checkpoint_bytes(worked_out) / real.file_bytes - 1
    remarks = "; ".join(real.contradictions)
    print(
        f"{label:18} {real.tensor_bytes:18,} {worked_out.tensor_bytes:12,} {off:9.3%} {file_off:9.3%}"
        f"  {real.quantization} {remarks}"
    )
    return off


def _summary(rows: list[float | None]) -> int:
    known = [abs(row) for row in rows if row is not None]
    within = sum(off <= MOST_OFF for off in known)
    print(f"{within} of {len(known)} within {MOST_OFF:.1%}; worst {max(known, default=0):.3%}")
    print(f"{len(rows) - len(known)} were not written or not read")
    return 0 if within == len(known) else 1


def _schemes(folder: Path, model_types: list[str]) -> int:
    rows = []
    for scheme, writer in _WRITERS.items():
        for model_type in model_types:
            plain = _saved(folder, model_type)
            target = folder / f"{scheme}-{model_type}"
            try:
                writer(plain, target, scheme)
            except Exception as error:  # whatever a quantizer cannot do with a model
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                print(f"{scheme} {model_type}: its quantizer failed ({reason[:90]})")
                rows.append(None)
                continue
            rows.append(_row(f"{scheme} {model_type}", _with_config(target), scheme))
            shutil.rmtree(target)
    return _summary(rows)


def _with_config(folder: Path) -> Path:
    """AutoRound writes into a folder within."""
    return folder if (folder / "config.json").exists() else next(folder.glob("*/config.json")).parent


def _bitsandbytes(plain: Path, target: Path, scheme: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = {
        "NF4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "NF4-DOUBLE": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
        },
        "INT8": {"load_in_8bit": True},
    }[scheme]
    if "load_in_4bit" in settings:
        settings["bnb_4bit_compute_dtype"] = torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=BitsAndBytesConfig(**settings), dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(target)


def _llm_compressor(plain: Path, target: Path, scheme: str) -> None:
    import torch
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    presets = {"FP8": "FP8_BLOCK", "FP8-DYNAMIC": "FP8_DYNAMIC", "NVFP4": "NVFP4A16"}
    ignored = ["lm_head", "re:.*mlp.gate$", "re:.*block_sparse_moe.gate$", "re:.*shared_expert_gate$"]
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16)
    recipe = QuantizationModifier(targets="Linear", scheme=presets.get(scheme, scheme), ignore=ignored)
    oneshot(model=model, recipe=recipe)
    model.save_pretrained(target, save_compressed=True)


def _auto_round(plain: Path, target: Path, scheme: str) -> None:
    import torch
    from auto_round import AutoRound
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(n): n for n in range(1000)} | {"?": 1000}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", pad_token="?", eos_token="?")
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float16)
    method, bits = scheme.lower().split("-int")
    rounded = AutoRound(
        model,
        tokenizer,
        bits=int(bits),
        group_size=128,
        sym=True,
        iters=0,
        disable_opt_rtn=True,
        device_map="cpu",
    )
    rounded.quantize_and_save(str(target), format=f"auto_{method}")


_WRITERS: Mapping[str, Callable[[Any, Path, str], None]] = {
    **dict.fromkeys(("NF4", "NF4-DOUBLE", "INT8"), _bitsandbytes),
    **dict.fromkeys(("FP8", "FP8-DYNAMIC", "W4A16", "W8A8", "NVFP4", "MXFP4"), _llm_compressor),
    **dict.fromkeys(("GPTQ-INT4", "GPTQ-INT8", "AWQ-INT4"), _auto_round),
}


# --- what weigh writes ---------------------------------------------------------------------------------


def _loaded(folder: Path, model_types: list[str]) -> int:
    """Write each family, let transformers load and run it; 1 when a tensor is missing or left over."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed = 0
    for model_type in model_types:
        config = CONFIG_MAPPING[model_type](**CONFIGS[model_type])
        fields = {**config.to_dict(), "dtype": "bfloat16", "num_nextn_predict_layers": 0}
        write_checkpoint(folder / model_type, fields, shard_bytes=1_000_000)
        model, seen = AutoModelForCausalLM.from_pretrained(
            folder / model_type, dtype=torch.bfloat16, output_loading_info=True
        )
        finite = bool(torch.isfinite(model(torch.arange(8)[None]).logits).all())
        odd = [*seen["missing_keys"], *seen["unexpected_keys"], *seen["mismatched_keys"]]
        failed += bool(odd) or not finite
        print(f"{model_type:18} {len(odd)} tensors missing, left over or of another shape; finite: {finite}")
    print(f"{len(model_types) - failed} of {len(model_types)} load and run")
    return 1 if failed else 0


# --- hostile headers -----------------------------------------------------------------------------------

_TYPES = {"F32": 32, "BF16": 16, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I64": 64, "BOOL": 8}
_TYPES |= {"F4": 4, "F6_E2M3": 6, "C64": 64, "U16": 16, "X": 8}  # the last is none
_FILES = 40_000


class _InMemory:
    def __init__(self, data: bytes) -> None:
        self.path, self.data, self.size_bytes = Path("random"), data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def _compared_with_the_library() -> int:
    """Files that one takes and the other refuses; 1 when weigh takes any that the library refuses."""
    from safetensors import SafetensorError, deserialize

    choose = random.Random(1)
    counts: Counter[tuple[bool, bool]] = Counter()
    for _ in range(_FILES):
        data = _random_file(choose)
        try:
            deserialize(data)
            library = True
        except SafetensorError:
            library = False
        try:
            read_header(_InMemory(data))
            ours = True
        except BadInput as error:
            ours = False
            if library:
                print(f"refused here alone: {error.message}")
        counts[library, ours] += 1
    print(f"{_FILES} files: {counts[True, True]} taken and {counts[False, False]} refused by both")
    print(f"refused here alone: {counts[True, False]}; taken here alone: {counts[False, True]}")
    return 1 if counts[False, True] else 0


def _random_file(choose: random.Random) -> bytes:
    """Up to four tensors, mostly sound: lengths, places, types, metadata or single bytes may be off."""
    entries: dict[str, object] = {}
    end = 0
    for number in range(choose.randint(0, 4)):
        dtype = choose.choice(list(_TYPES)[: None if choose.random() < 0.3 else 5])
        shape = [choose.choice((0, 1, 2, 3, 8)) for _ in range(choose.randint(0, 3))]
        size = prod(shape) * _TYPES[dtype] // 8 + _off(choose, 0.06)
        start = end + _off(choose, 0.03)
        end = start + size
        entries[f"{choose.choice('abc')}{number}"] = {
            **{"dtype": dtype, "shape": shape},
            "data_offsets": [start, end],
        }
    if choose.random() < 0.2:
        entries["__metadata__"] = choose.choice(({"a": "b"}, {"a": 1}, {}, None, "x"))
    pairs = list(entries.items())
    choose.shuffle(pairs)
    text = bytearray(json.dumps(dict(pairs)).encode() + b" " * choose.choice((0, 3)))
    if choose.random() < 0.15:
        text[choose.randrange(len(text))] = choose.choice(b'{}[]",:0123456789 aE\x00\xff')
    return struct.pack("<Q", len(text)) + text + bytes(max(0, end + _off(choose, 0.04)))


def _off(choose: random.Random, share: float) -> int:
    return choose.choice((-1, 1, 8)) if choose.random() < share else 0


if __name__ == "__main__":
    sys.exit(main())
