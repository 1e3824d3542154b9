"""Compare weigh's quantization rules with llama.cpp's own quantizer, tensor by tensor and byte by byte.

    python benchmarks/quantizer_check.py                     # small models of every kind
    python benchmarks/quantizer_check.py --catalog           # every model of the catalog
    python benchmarks/quantizer_check.py --sizes --vocabularies llama.cpp/models   # whole files, for real
    python benchmarks/quantizer_check.py --record            # write what the suite compares with

The tool is `llama-quantize` on PATH, or given by `--tool`. Its dry run chooses the formats from a header
alone. Files made for real get the tokenizers of llama.cpp's `models/ggml-vocab-*.gguf`, which are most of
a header. The small models have narrow layers in shapes that exercise the rules: odd widths, eight experts,
eighty layers, fused and tied matrices, layers without attention. Every recipe is made without and with an
importance matrix, where the tool makes it both ways; the matrix is all ones.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from weigh.errors import NotSupported
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.gguf import read_gguf
from weigh.model.gguf_size import file_bytes
from weigh.model.quantization import ALL_RECIPES, NEED_MATRIX, quantize
from weigh.model.spec import ModelSpec
from weigh.synth.gguf import write_gguf

RECORD = Path(__file__).parents[1] / "tests" / "model" / "data" / "quantizer_types.json"
Types = dict[str, str]  # tensor -> format
RECIPES = tuple(r for r in ALL_RECIPES if r not in ("Q3_K", "Q4_K", "Q5_K"))  # those are other names


@dataclass(frozen=True)
class Making:
    """A recipe as the tool is told to make it."""

    recipe: str
    imatrix: bool

    def __str__(self) -> str:
        return f"{self.recipe} imatrix" if self.imatrix else self.recipe

    def arguments(self) -> tuple[list[str], str]:
        """Options, and the name of the type: the `_L` and `_XL` mixes are options on another."""
        if not re.fullmatch(r"Q6_K_L|Q5_K_L|Q4_K_L|Q3_K_XL|Q2_K_L", self.recipe):
            return [], self.recipe
        base = {"Q3_K_XL": "Q3_K_L", "Q4_K_L": "Q4_K_M", "Q5_K_L": "Q5_K_M"}.get(self.recipe)
        ends = ["--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0"]
        return ends, base or self.recipe.removesuffix("_L")


def makings(spec: ModelSpec) -> list[Making]:
    """Every recipe, both ways where there are two.

    Experts that come quantized stay so in published files; the tool can be told to keep them, but not when
    it makes an unquantized file.
    """
    keeps = any(group.type.quantized for group in spec.tensors)
    recipes = [r for r in RECIPES if not (keeps and r in ("F32", "F16", "BF16"))]
    return [Making(r, m) for r in recipes for m in (False, True) if m or r not in NEED_MATRIX]


def telling_makings(spec: ModelSpec) -> list[Making]:
    """Every recipe once, and with a matrix too where that changes formats."""
    changes = NEED_MATRIX | {"Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS"}
    return [making for making in makings(spec) if not making.imatrix or making.recipe in changes]


_LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "num_hidden_layers": 13,
}
_EXPERTS: dict[str, object] = {"num_experts_per_tok": 2, "moe_intermediate_size": 256}
_LATENT: dict[str, object] = {
    "q_lora_rank": 256,
    "kv_lora_rank": 256,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
}
_DELTA_NET: dict[str, object] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_conv_kernel_dim": 4,
    "head_dim": 64,
}
_MAMBA2: dict[str, object] = {"mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 64, "n_groups": 2}
SMALL: dict[str, dict[str, object]] = {
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
    "three kinds of experts' matrices": _LLAMA
    | _EXPERTS
    | {
        "model_type": "qwen2_moe",
        "num_experts": 16,
        "num_hidden_layers": 24,
        "shared_expert_intermediate_size": 512,
    },
    "sliding windows, tied": _LLAMA
    | {"model_type": "gemma3", "num_hidden_layers": 18, "head_dim": 64, "sliding_window": 512},
    "experts that come quantized": _LLAMA
    | {
        "model_type": "gpt_oss",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 256,
        "head_dim": 64,
        "num_hidden_layers": 9,
    },
    "an embedding model": _LLAMA
    | {"model_type": "bert", "num_key_value_heads": 8, "type_vocab_size": 2, "num_hidden_layers": 12},
    "an embedding model with eight experts": _LLAMA
    | {
        "model_type": "nomic_bert",
        "n_embd": 256,
        "n_head": 8,
        "n_inner": 512,
        "n_layer": 12,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_every_n_layers": 2,
        "n_positions": 512,
    },
    "an encoder beside a decoder": _LLAMA
    | {"model_type": "t5", "d_model": 256, "d_kv": 32, "d_ff": 512, "num_heads": 8, "num_layers": 12},
    "state spaces beside attention": _LLAMA
    | {
        "model_type": "falcon_h1",
        "mamba_d_ssm": 512,
        "mamba_n_heads": 8,
        "mamba_d_head": 64,
        "mamba_d_state": 64,
        "mamba_n_groups": 2,
        "mamba_d_conv": 4,
        "head_dim": 64,
    },
}

# Few layers, and the vocabulary of a real tokenizer. Narrow where that is large: the quantizer takes its time.
_DEEP: dict[str, object] = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}
_FLAT: dict[str, object] = {"num_hidden_layers": 4}
SIZED: Mapping[str, tuple[str, dict[str, object]]] = {
    "dense, a value head per query head": ("llama-spm", _LLAMA | _DEEP | {"num_key_value_heads": 8}),
    "dense, grouped heads, tied": (
        "qwen2",
        _LLAMA | _FLAT | {"model_type": "qwen3", "head_dim": 64, "tie_word_embeddings": True},
    ),
    "sliding windows, tied": ("llama-spm", SMALL["sliding windows, tied"] | _DEEP),
    "eight experts": ("llama-spm", SMALL["eight experts"] | _DEEP | {"intermediate_size": 512}),
    "shared experts": ("qwen2", SMALL["three kinds of experts' matrices"] | _FLAT),
    "latent attention": ("deepseek-llm", SMALL["dense layers before experts, latent attention"] | _FLAT),
    "linear attention": ("qwen35", SMALL["linear attention in three layers of four"] | _FLAT),
    "state spaces": ("falcon", SMALL["state spaces beside attention"] | _FLAT),
    "fused attention (falcon)": ("falcon", SMALL["falcon"] | _DEEP),
    "fused attention and feed-forward": ("phi-3", SMALL["fused attention and feed-forward"] | _DEEP),
    "experts that come quantized": ("gpt-2", SMALL["experts that come quantized"] | _FLAT),
    "an embedding model": ("bert-bge", SMALL["an embedding model"] | _DEEP),
    "parallel blocks, tied": ("command-r", _LLAMA | _FLAT | {"model_type": "cohere"}),
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
        if options.sizes:
            return _sizes(tool, Path(folder), options.vocabularies, options.models)
        cases = _catalog_cases(options.models) if options.catalog else _small_cases(options.models)
        ways = telling_makings if options.catalog else makings
        wrong = [spec for spec in cases if not _agrees(tool, Path(folder), spec, ways(spec))]
    print(f"{len(wrong)} models differ" if wrong else "all tensors have the formats the tool gives them")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tool", default="llama-quantize")
    parser.add_argument("--folder", help="where files go for a moment; the tool must be able to read it")
    parser.add_argument("--catalog", action="store_true", help="the catalog's models, not the small ones")
    parser.add_argument("--sizes", action="store_true", help="write random weights and quantize them")
    parser.add_argument("--vocabularies", type=Path, help="folder of llama.cpp's ggml-vocab-*.gguf files")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name} for the suite")
    parser.add_argument("models", nargs="*", help="only those whose name holds one of these")
    return parser.parse_args()


def _small_cases(wanted: list[str]) -> Iterator[ModelSpec]:
    for name, config in SMALL.items():
        if not wanted or any(part in name for part in wanted):
            yield spec_from_config(name, config)


def _catalog_cases(wanted: list[str]) -> Iterator[ModelSpec]:
    """One for each set of shapes: models trained further have those of their base."""
    known: dict[object, str] = {}
    for entry in catalog().by_id.values():
        if entry.unsupported is None and (not wanted or any(part in entry.id for part in wanted)):
            spec = entry.spec()
            first = known.setdefault((spec.architecture, spec.tensors), spec.name)
            if first == spec.name:
                yield spec
            else:
                print(f"shapes of {first}: {spec.name}", flush=True)


def _agrees(tool: str, folder: Path, spec: ModelSpec, ways: Iterable[Making]) -> bool:
    """Whether the tool gives every tensor the format weigh expects; prints one line, and the differences."""
    path = _written(spec, folder, weights=False)
    if _UNKNOWN in _run(tool, path, spec, Making("Q8_0", imatrix=False), ["--dry-run"], []):
        print(f"unknown  {spec.architecture:16} {spec.name}", flush=True)
        return True
    differences = []
    for making in ways:
        ours = _our_types(spec, making)
        theirs = _dry_types(tool, path, spec, making)
        differences += [
            f"{making}: {name} {ours.get(name)} for {theirs.get(name)}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
    path.unlink()
    print(f"{'differs' if differences else 'same':8} {spec.architecture:16} {spec.name}", flush=True)
    for line in differences[:5]:
        print(f"         {line}")
    return not differences


def _sizes(tool: str, folder: Path, vocabularies: Path, wanted: list[str]) -> int:
    """One row per model: files made for real beside the predicted ones; 1 when any is off by half a percent."""
    print(
        f"{'model':36} {'architecture':12} {'parameters':>10} {'files':>5}  worst, header known   from config alone"
    )
    worst = 0.0
    for name, (vocabulary, config) in SIZED.items():
        if wanted and not any(part in name for part in wanted):
            continue
        tokenizer = _tokenizer(vocabularies / f"ggml-vocab-{vocabulary}.gguf")
        spec = spec_from_config(name, config | {"vocab_size": tokenizer.vocab})
        rows = _size_rows(tool, folder, spec, tokenizer)
        known = max(rows, key=lambda row: abs(row.header_known))
        alone = max(rows, key=lambda row: abs(row.config_alone))
        worst = max(worst, abs(alone.config_alone))
        print(
            f"{name:36} {spec.architecture:12} {spec.parameters / 1e6:8.1f} M {len(rows):5}"
            f"  {known.header_known:9.4%} {known.making!s:15} {alone.config_alone:8.3%} {alone.making}",
            flush=True,
        )
    print(f"worst from a config alone: {worst:.3%}")
    return 1 if worst > 0.005 else 0


@dataclass(frozen=True)
class Tokenizer:
    """The `tokenizer.*` entries of a real model's header, as they lie in the file."""

    vocab: int
    entries: tuple[bytes, ...]


def _tokenizer(path: Path) -> Tokenizer:
    data = path.read_bytes()
    entries = {key: raw for key, raw in _entries(data) if key.startswith("tokenizer.")}
    head = len("tokenizer.ggml.tokens") + 8
    (vocab,) = struct.unpack_from("<Q", entries["tokenizer.ggml.tokens"], head + 8)
    return Tokenizer(vocab, tuple(entries.values()))


_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def _entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys of a GGUF file's metadata and their bytes, key and all."""
    (count,) = struct.unpack_from("<Q", data, 16)
    at = 24
    for _ in range(count):
        key_end = _string_end(data, at)
        end = _value_end(data, key_end + 4, *struct.unpack_from("<I", data, key_end))
        yield data[at + 8 : key_end].decode(), data[at:end]
        at = end


def _string_end(data: bytes, at: int) -> int:
    return at + 8 + int.from_bytes(data[at : at + 8], "little")


def _value_end(data: bytes, at: int, kind: int) -> int:
    if kind == 8:
        return _string_end(data, at)
    if kind != 9:
        return at + _WIDTHS[kind]
    item, count = (int(n) for n in struct.unpack_from("<IQ", data, at))
    if item != 8:
        return at + 12 + count * _WIDTHS[item]
    at += 12
    for _ in range(count):
        at = _string_end(data, at)
    return at


def _with_tokenizer(path: Path, tokenizer: Tokenizer, tensors: int) -> None:
    """Put a real tokenizer into a file in the place of the made-up one."""
    data = path.read_bytes()
    entries = list(_entries(data))
    infos = at = 24 + sum(len(raw) for _, raw in entries)
    for _ in range(tensors):
        at = _string_end(data, at)
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 12
    kept = [raw for key, raw in entries if not key.startswith("tokenizer.")] + list(tokenizer.entries)
    header = b"".join([data[:16], struct.pack("<Q", len(kept)), *kept, data[infos:at]])
    padded = header.ljust(-(-len(header) // 32) * 32, b"\0")
    path.write_bytes(padded + memoryview(data)[-(-at // 32) * 32 :])


class SizeRow(NamedTuple):
    """How far the predicted size of one file is off, as fractions of the true one."""

    making: Making
    header_known: float
    config_alone: float


def _size_rows(tool: str, folder: Path, spec: ModelSpec, tokenizer: Tokenizer) -> list[SizeRow]:
    """How far the predicted size is off, for every recipe, and with a matrix where that changes formats."""
    path = _written(spec, folder, weights=True)
    _with_tokenizer(path, tokenizer, sum(group.count for group in spec.tensors))
    header_bytes = path.stat().st_size - file_bytes(spec, header_bytes=0)
    rows = []
    for making in telling_makings(spec):
        real_bytes = _real_bytes(tool, path, spec, making)
        if real_bytes is None:
            continue
        ours = quantize(spec, making.recipe, imatrix=making.imatrix)
        known = file_bytes(ours, header_bytes=header_bytes) / real_bytes - 1
        rows.append(SizeRow(making, known, file_bytes(ours) / real_bytes - 1))
    path.unlink()
    return rows


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


_REFUSED, _UNKNOWN = "no tensor type fallback is defined", "unknown model architecture"
_DRY = re.compile(r"\] (\S+) +- \[.*?\], type = *(\w+), size = *[\d.]+ MiB(?: -> *[\d.]+ MiB \((\w+)\))?")


def _our_types(spec: ModelSpec, making: Making) -> Types:
    """Nothing when weigh says that the tool cannot make it."""
    try:
        return types_of(quantize(spec, making.recipe, imatrix=making.imatrix))
    except NotSupported:
        return {}


def _dry_types(tool: str, path: Path, spec: ModelSpec, making: Making) -> Types:
    """Nothing when the tool refuses the model's width in this format."""
    said = _run(tool, path, spec, making, ["--dry-run"], [])
    found = [] if _REFUSED in said else _DRY.findall(said)
    return {name: (after or before).upper() for name, before, after in found}


def _real_bytes(tool: str, path: Path, spec: ModelSpec, making: Making) -> int | None:
    """Length of the file that the tool makes, once its formats are those expected; None when it refuses."""
    target = path.with_name("target.gguf")
    if _REFUSED in _run(tool, path, spec, making, [], [str(target)]):
        target.unlink(missing_ok=True)
        return None
    theirs, size = types_of(read_gguf(target)), target.stat().st_size
    target.unlink()
    if theirs != _our_types(spec, making):
        print(f"         {making}: other formats")
    return size


def _run(tool: str, path: Path, spec: ModelSpec, making: Making, before: list[str], target: list[str]) -> str:
    options, recipe = making.arguments()
    if making.imatrix:
        options += ["--imatrix", str(_matrix_of_ones(spec, path, whole=bool(target)))]
    for name in {g.name for g in spec.tensors if g.type.quantized}:  # experts that stay in MXFP4
        options += ["--tensor-type", f"{name.rpartition('{}.')[2]}=mxfp4"]
    command = [tool, "--allow-requantize", *before, *options, str(path), *target, recipe]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode and _REFUSED not in said and _UNKNOWN not in said:
        raise SystemExit(f"{' '.join(command)} failed:\n{said[-2000:]}")
    return said


def _matrix_of_ones(spec: ModelSpec, beside: Path, *, whole: bool) -> Path:
    """An importance matrix that finds all weights alike, in the tool's first format.

    A dry run looks only at whether there is one, so that of one tensor will do; that of all is half a
    gigabyte for some models.

    Source of the format: llama.cpp `common/imatrix-loader.cpp`: a count, then for each tensor its name, the
    number of calls, and one float per column and expert.
    """
    path = beside.with_name("ones.imatrix")
    matrices = [
        (group.name.format(layer).encode(), group.shape[0] * (group.shape[2] if len(group.shape) > 2 else 1))
        for group in spec.tensors
        if len(group.shape) > 1
        for layer in group.layers or (None,)
    ]
    matrices = matrices if whole else matrices[:1]
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(matrices)))
        for name, columns in matrices:
            file.write(struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, columns))
            file.write(struct.pack("<f", 1.0) * columns)
    return path


def _record(tool: str, folder: Path) -> int:
    """Write the tool's own answers for the small models: for every role, which makings give which formats."""
    cases, build = [], "unknown"
    for name, config in SMALL.items():
        spec = spec_from_config(name, config)
        path = _written(spec, folder, weights=False)
        said = _run(tool, path, spec, Making("Q8_0", imatrix=False), ["--dry-run"], [])
        build = " ".join(re.findall(r"version: .*", said)[:1]) or build
        recorded: dict[str, dict[str, list[str]]] = {}
        for making in makings(spec):
            for role, formats in _by_role(_dry_types(tool, path, spec, making)).items():
                recorded.setdefault(role, {}).setdefault(formats, []).append(str(making))
        cases.append({"name": name, "config": dict(config), "types": recorded})
        print(f"recorded {name}", flush=True)
    head = json.dumps({"tool": build})[:-1]
    RECORD.write_text(f'{head}, "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
    return 0


def _by_role(types: Types) -> dict[str, str]:
    """``{"blk.{}.attn_v.weight": "Q4_K 1 2, Q6_K 0 3", "output.weight": "Q6_K"}``, without the F32 ones."""
    layers: dict[str, dict[str, list[int]]] = {}
    for name, type in types.items():
        layer = re.search(r"\bblk\.(\d+)\.", name)
        role = re.sub(r"\bblk\.\d+\.", "blk.{}.", name)
        layers.setdefault(role, {}).setdefault(type, []).extend([int(layer[1])] if layer else [])
    return {
        role: ", ".join(" ".join(map(str, (type, *sorted(found[type])))) for type in sorted(found))
        for role, found in layers.items()
        if found.keys() != {"F32"}
    }


if __name__ == "__main__":
    sys.exit(main())
