"""Compare weigh's quantization rules with llama.cpp's own quantizer, tensor by tensor.

    python benchmarks/quantizer_check.py                     # small models of every kind
    python benchmarks/quantizer_check.py --catalog           # every model of the catalog
    python benchmarks/quantizer_check.py --weights falcon    # quantize for real instead of a dry run
    python benchmarks/quantizer_check.py --record            # write what the suite compares with

The tool is `llama-quantize` on PATH, or given by `--tool`. Its dry run chooses the formats from a header
alone. The small models have narrow layers in shapes that exercise the rules: odd widths, eight experts,
eighty layers, fused and tied matrices, layers without attention.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.gguf import read_gguf
from weigh.model.quantization import ALL_RECIPES, RECIPES, quantize
from weigh.model.spec import ModelSpec
from weigh.synth.gguf import write_gguf

RECORD = Path(__file__).parents[1] / "tests" / "model" / "data" / "quantizer_types.json"
Types = dict[str, str]  # tensor -> format

_LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "num_hidden_layers": 13,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 256}
_LATENT = {
    "q_lora_rank": 256,
    "kv_lora_rank": 256,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
}
_DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_conv_kernel_dim": 4,
    "head_dim": 64,
}
_MAMBA2 = {"mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 64, "n_groups": 2}
SMALL: Mapping[str, Mapping[str, object]] = {
    "grouped heads": _LLAMA,
    "a value head per query head, tied": _LLAMA
    | {"num_key_value_heads": 8, "num_hidden_layers": 33, "tie_word_embeddings": True},
    "eighty layers": _LLAMA | {"num_hidden_layers": 80},
    "rows of whole 32s, not 256s": _LLAMA
    | {"hidden_size": 288, "num_attention_heads": 9, "num_key_value_heads": 3},
    "rows that no block fits": _LLAMA | {"intermediate_size": 520, "num_hidden_layers": 9},
    "biases, tied": _LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True, "num_hidden_layers": 24},
    "fused attention and feed-forward": _LLAMA | {"model_type": "phi3", "num_hidden_layers": 12},
    "eight experts": _LLAMA
    | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 10},
    "sixteen experts": _LLAMA
    | _EXPERTS
    | {"model_type": "qwen3_moe", "num_experts": 16, "num_hidden_layers": 16},
    "dense layers before experts, latent attention": _LLAMA
    | _EXPERTS
    | _LATENT
    | {
        "model_type": "deepseek_v3",
        "n_routed_experts": 16,
        "first_k_dense_replace": 2,
        "n_shared_experts": 1,
    },
    "falcon": _LLAMA | {"model_type": "falcon", "num_hidden_layers": 20, "num_key_value_heads": 1},
    "falcon, untied": _LLAMA
    | {"model_type": "falcon", "num_hidden_layers": 32, "tie_word_embeddings": False},
    "linear attention in three layers of four": _LLAMA
    | _DELTA_NET
    | {"model_type": "qwen3_5", "num_hidden_layers": 24},
    "feed-forward in some layers only": _LLAMA
    | _MAMBA2
    | {"model_type": "nemotron_h", "hybrid_override_pattern": "M-M-M*-M-M-*-M", "num_hidden_layers": 14},
    "short convolutions": _LLAMA
    | {
        "model_type": "lfm2",
        "num_hidden_layers": 10,
        "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"] * 2,
    },
}


def main() -> int:
    options = _options()
    tool = shutil.which(options.tool)
    if tool is None:
        print(f"skipped: no `{options.tool}` here; it comes with llama.cpp", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.record:
            return _record(tool, Path(folder))
        cases = _catalog_cases(options.models) if options.catalog else _small_cases(options.models)
        wrong = [spec for spec in cases if not _agrees(tool, Path(folder), spec, options.weights)]
    print(f"{len(wrong)} models differ" if wrong else "all tensors have the formats the tool gives them")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tool", default="llama-quantize")
    parser.add_argument("--folder", help="where files go for a moment; the tool must be able to read it")
    parser.add_argument("--catalog", action="store_true", help="the catalog's models, not the small ones")
    parser.add_argument("--weights", action="store_true", help="write random weights and quantize them")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name} for the suite")
    parser.add_argument("models", nargs="*", help="only those whose name holds one of these")
    return parser.parse_args()


def _small_cases(wanted: list[str]) -> Iterator[ModelSpec]:
    for name, config in SMALL.items():
        if not wanted or any(part in name for part in wanted):
            yield spec_from_config(name, config)


def _catalog_cases(wanted: list[str]) -> Iterator[ModelSpec]:
    for entry in catalog():
        if entry.unsupported is None and (not wanted or any(part in entry.id for part in wanted)):
            yield entry.spec()


def _agrees(tool: str, folder: Path, spec: ModelSpec, weights: bool) -> bool:
    """Whether the tool gives every tensor the format weigh expects; prints one line, and the differences."""
    path = _written(spec, folder, weights)
    # The tool refuses to quantize again what is quantized (gpt-oss's experts) unless told to; weigh keeps it.
    kept = {name for name, type in types_of(spec).items() if type not in ("F16", "F32")}
    differences = []
    for recipe in RECIPES if weights else ALL_RECIPES:
        theirs = _tool_types(tool, path, recipe, dry=not weights)
        ours = types_of(quantize(spec, recipe))
        differences += [
            f"{recipe}: {name} {ours.get(name)} for {theirs.get(name)}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name) and name not in kept
        ]
    path.unlink()
    print(f"{'differs' if differences else 'same':8} {spec.architecture:16} {spec.name}", flush=True)
    for line in differences[:5]:
        print(f"         {line}")
    return not differences


def _written(spec: ModelSpec, folder: Path, weights: bool) -> Path:
    """The model in F16. Its name is left out, since some names switch on special treatment of the tokenizer."""
    path = folder / "source.gguf"
    write_gguf(replace(spec, name="model"), path, weights=weights)
    return path


def types_of(spec: ModelSpec) -> Types:
    """Every tensor of the file and its format."""
    return {
        group.name.format(layer): group.type.name
        for group in spec.tensors
        for layer in group.layers or (None,)
    }


_DRY = re.compile(r"\] (\S+) +- \[.*?\], type = *(\w+), size = *[\d.]+ MiB(?: -> *[\d.]+ MiB \((\w+)\))?")


def _tool_types(tool: str, path: Path, recipe: str, *, dry: bool) -> Types:
    target = path.with_name("target.gguf")
    command = [
        tool,
        "--allow-requantize",
        *(["--dry-run", str(path)] if dry else [str(path), str(target)]),
        recipe,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    if dry:
        found = _DRY.findall(done.stdout + done.stderr)
        return {name: (after or before).upper() for name, before, after in found}
    types = types_of(read_gguf(target))
    target.unlink()
    return types


def _record(tool: str, folder: Path) -> int:
    """Write the tool's own answers for the small models, tensors of a role and format together."""
    cases = []
    for name, config in SMALL.items():
        path = _written(spec_from_config(name, config), folder, weights=False)
        recorded = {recipe: _by_role(_tool_types(tool, path, recipe, dry=True)) for recipe in RECIPES}
        cases.append({"name": name, "config": dict(config), "types": recorded})
        print(f"recorded {name}", flush=True)
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    build = re.search(r"version: .*", version.stdout + version.stderr)
    head = json.dumps({"tool": build[0] if build else "unknown"})[:-1]
    RECORD.write_text(f'{head}, "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
    return 0


def _by_role(types: Types) -> dict[str, dict[str, list[int]]]:
    """``{"blk.{}.attn_v.weight": {"Q6_K": [0, 3]}, "output.weight": {"Q6_K": []}}``, without the F32 ones."""
    roles: dict[str, dict[str, list[int]]] = {}
    for name, type in types.items():
        if type != "F32":
            layer = re.match(r"blk\.(\d+)\.", name)
            role = re.sub(r"^blk\.\d+\.", "blk.{}.", name)
            layers = roles.setdefault(role, {}).setdefault(type, [])
            layers += [int(layer[1])] if layer else []
    return roles


if __name__ == "__main__":
    sys.exit(main())
