"""What files say against themselves: told when it cannot be true, silent when it can."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.model.checkpoint_files import (
    LLAMA_CONFIG,
    llama_tensors,
    write_checkpoint_of,
    write_safetensors,
    write_shards,
)
from tests.tiny_models import tiny_llama
from weigh.model.catalog import catalog
from weigh.model.checkpoint import read_checkpoint
from weigh.model.checks import contradictions
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import Mixer, MixerKind, ModelSpec
from weigh.model.stored_quantization import SCHEMES, stored


def llama_8b(name: str = "Llama-3.1-8B") -> ModelSpec:
    return replace(catalog().by_id["meta-llama/Llama-3.1-8B-Instruct"].spec(), name=name)


def as_file(spec: ModelSpec, file_format: str = "gguf", name: str = "") -> ModelSpec:
    """As if read from a file of exactly its tensors."""
    path = Path(f"{name or spec.name}.gguf")
    return replace(
        spec, basis="file", format=file_format, file=path, file_bytes=spec.tensor_bytes + 6_000_000
    )


# --- no false alarms -----------------------------------------------------------------------------------


def test_no_model_of_the_catalog_contradicts_itself() -> None:
    known = [entry for entry in catalog() if entry.unsupported is None]
    found = {entry.id: lines for entry in known if (lines := contradictions(entry.spec()))}
    assert len(known) > 200
    assert found == {}


@pytest.mark.parametrize("recipe", ["F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_L", "Q2_K"])
def test_no_file_that_follows_its_recipe_contradicts_itself(recipe: str) -> None:
    known = [entry for entry in catalog() if entry.unsupported is None][::6]
    files = [as_file(quantize(e.spec(), recipe), name=f"{e.id.rpartition('/')[2]}-{recipe}") for e in known]
    assert {spec.name: lines for spec in files if (lines := contradictions(spec))} == {}


@pytest.mark.parametrize("scheme", ["BF16", "FP8", "AWQ-INT4", "GPTQ-INT8", "W4A16", "NVFP4", "NF4"])
def test_no_checkpoint_named_after_its_scheme_contradicts_itself(scheme: str) -> None:
    known = [entry for entry in catalog() if entry.unsupported is None][::6]
    specs = [replace(stored(e.spec(), scheme), name=f"{e.id}-{scheme}") for e in known]
    assert {s.name: lines for s in specs if (lines := contradictions(as_file(s, "safetensors")))} == {}
    assert scheme in SCHEMES


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("Llama-8B", "llama-3.1-8b-instruct", "org/8B-model", "8x1B", "Model-70B-A8B", "model-7_6b"),
        *("EAGLE-E4B", "gemma", "Llama-4bit", "Llama-128k", "13B-of-nothing-8B"),
    ],
)
def test_sizes_that_may_be_meant_are_no_contradiction(name: str) -> None:
    assert contradictions(llama_8b(name)) == ()


@pytest.mark.parametrize("name", ["Llama-3.1-70B", "llama-3b", "8x22B", "llama-500m", "org/llama-1T"])
def test_a_size_that_is_not_inside_is_told(name: str) -> None:
    (line,) = contradictions(llama_8b(name))
    assert "but there are 8.03B parameters" in line


def test_a_name_may_claim_another_recipe_than_the_tensors_follow() -> None:
    spec = as_file(quantize(llama_8b(), "Q8_0"), name="Llama-3.1-8B-Q4_K_M")
    assert contradictions(spec) == ("its name says Q4_K_M, but most weights are Q8_0",)


def test_a_header_may_claim_another_recipe_than_the_tensors_follow() -> None:
    spec = replace(as_file(quantize(llama_8b(), "Q3_K_M")), quantization="Q6_K")
    assert contradictions(spec) == ("its header says Q6_K, but most weights are Q3_K",)


def test_rows_that_are_no_whole_blocks_are_no_contradiction() -> None:
    """Qwen 2.5 0.5B is 896 wide: most of its Q4_K_M is Q5_0."""
    spec = quantize(catalog().by_id["Qwen/Qwen2.5-0.5B-Instruct"].spec(), "Q4_K_M")
    assert contradictions(as_file(spec, name="qwen2.5-0.5b-q4_k_m")) == ()


@pytest.mark.parametrize(
    ("name", "scheme", "claim"),
    [
        ("Llama-3.1-8B-AWQ", "BF16", "`AWQ`, but most weights are BF16"),
        ("Llama-3.1-8B-bnb-4bit", "FP8", "`4bit`, but most weights are FP8_E4M3"),
        ("Llama-3.1-8B-FP8", "NVFP4", "`FP8`, but most weights are FP4"),
        ("Llama-3.1-8B-FP8", "BF16", "`FP8`, but most weights are BF16"),
    ],
)
def test_a_name_may_claim_another_scheme_than_the_tensors_have(name: str, scheme: str, claim: str) -> None:
    spec = as_file(replace(stored(llama_8b(), scheme), name=name), "safetensors")
    assert contradictions(spec) == (f"the name says {claim}",)


# --- shapes --------------------------------------------------------------------------------------------


def test_bytes_that_no_tensor_takes_are_told() -> None:
    spec = as_file(quantize(llama_8b(), "Q4_K_M"))
    assert spec.file_bytes is not None
    (line,) = contradictions(replace(spec, file_bytes=2 * spec.file_bytes))
    assert line == "its tensors take 4.58 GiB, but its files are 9.16 GiB long"


def test_layers_without_tensors_are_told() -> None:
    spec = as_file(tiny_llama(layers=2))
    mixer = replace(spec.mixers[0], layers=(0, 1, 2))
    lines = contradictions(replace(spec, layers=3, mixers=(mixer,)))
    assert lines == ("it has 3 layers, but 1 have no tensors, first layer 2",)


def test_heads_that_do_not_take_what_the_matrix_makes_are_told() -> None:
    """Four heads of 64 make 256, and 128 with a gate too many is none of both."""
    spec = tiny_llama(heads=4, head_dim=64)
    mixer = Mixer(MixerKind.FULL, (0, 1), query_heads=6, kv_heads=2, key_dim=64, value_dim=64)
    lines = contradictions(replace(spec, mixers=(mixer,)))
    assert lines == ("`blk.0.attn_q.weight` makes 256 values, but the heads take 384",)


@pytest.mark.parametrize(("vocab", "told"), [(1024, False), (1000, False), (1025, True), (100, False)])
def test_a_vocabulary_beyond_the_embedding_is_told(vocab: int, told: bool) -> None:
    """The embedding has 1024 rows, and may have more than there are tokens."""
    lines = contradictions(replace(tiny_llama(vocab=1024), vocab=vocab))
    assert bool(lines) is told


# --- context -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "told"),
    [(131072, False), (32768, False), (1_000_000, True), (65536, True)],  # 4 x 32,768, or as it was
)
def test_a_context_that_no_scaling_makes_is_told(context: int, told: bool) -> None:
    spec = tiny_llama(context=context)
    rope = {"type": "yarn", "factor": 4.0, "original_context_length": 32768}
    hyper = {**spec.hyper, **{f"rope.scaling.{key}": value for key, value in rope.items()}}
    lines = contradictions(replace(spec, hyper=hyper))
    assert bool(lines) is told
    assert not lines or "rope scaling stretches 32,768 by 4 to 131,072" in lines[0]


def test_a_window_beyond_the_context_is_told() -> None:
    spec = tiny_llama(context=4096)
    sliding = replace(spec.mixers[0], kind=MixerKind.SLIDING, window=8192)
    (line,) = contradictions(replace(spec, mixers=(sliding,)))
    assert line == "the context is 4,096 tokens, but the sliding window 8,192"


# --- checkpoints ---------------------------------------------------------------------------------------


def test_a_config_of_another_model_is_told(tmp_path: Path) -> None:
    """Feed-forwards of 1024 instead of 128: 2 x 3 x 64 x 896 = 344,064 weights more."""
    config = LLAMA_CONFIG | {"intermediate_size": 1024}
    lines = read_checkpoint(write_checkpoint_of(tmp_path / "m", llama_tensors(), config)).contradictions
    assert lines == ("the config describes 457K parameters, but the files hold 112K",)


def test_layers_that_the_config_lacks_are_told(tmp_path: Path) -> None:
    config = LLAMA_CONFIG | {"num_hidden_layers": 3}
    lines = read_checkpoint(write_checkpoint_of(tmp_path / "m", llama_tensors(), config)).contradictions
    assert "it has 3 layers, but 1 have no tensors, first layer 2" in lines


def test_an_output_matrix_that_is_missing_is_told(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["lm_head.weight"]
    lines = read_checkpoint(write_checkpoint_of(tmp_path / "m", tensors, LLAMA_CONFIG)).contradictions
    assert any("but there is none of its own" in line for line in lines)


@pytest.mark.parametrize(
    ("config", "dtype", "line"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "BF16", "quantized (awq), but no tensor is"),
        ({}, "F8_E4M3", "its tensors are FP8, but the config does not say so"),
    ],
)
def test_a_quantization_that_is_not_there_is_told(
    tmp_path: Path, config: dict[str, object], dtype: str, line: str
) -> None:
    folder = write_checkpoint_of(tmp_path / "m", llama_tensors(dtype=dtype), LLAMA_CONFIG | config)
    (found,) = read_checkpoint(folder).contradictions
    assert line in found


def test_an_index_that_does_not_fit_its_files_is_told(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", llama_tensors(), LLAMA_CONFIG, total_size=200 << 30)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = index["weight_map"]["model.embed_tokens.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    lines = read_checkpoint(folder).contradictions
    assert lines[0] == "the index lists 1 tensors that are not where it says, first `model.norm.weight`"
    assert lines[1].startswith("the index says 200 GiB in all, but the tensors take ")


def test_what_a_stranger_wrote_is_printed_safely(tmp_path: Path) -> None:
    hostile = {"quantization_config": {"quant_method": "\x1b[31m" + "x" * 500}}
    config = LLAMA_CONFIG | hostile
    lines = read_checkpoint(write_checkpoint_of(tmp_path / "m", llama_tensors(), config)).contradictions
    assert all(line.isprintable() and len(line) < 200 for line in lines)
    assert lines


def test_a_file_alone_is_compared_with_its_name(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model-7B.safetensors", llama_tensors())
    (line,) = read_checkpoint(path).contradictions
    assert line == "the name says `7B`, but there are 112K parameters"


def test_experts_of_gpt_oss_stay_as_they_are_in_any_file() -> None:
    spec = quantize(catalog().by_id["openai/gpt-oss-20b"].spec(), "Q4_K_M")
    assert contradictions(as_file(spec, name="gpt-oss-20b-Q4_K_M")) == ()
    assert any(group.type is GgmlType.MXFP4 for group in spec.tensors)
