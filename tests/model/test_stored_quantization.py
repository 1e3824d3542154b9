"""What checkpoints hold at each quantization, against what real quantizers wrote and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model.checkpoint_files import RECORDED, write_recorded
from weigh.errors import NotSupported, UnknownName
from weigh.model.catalog import catalog
from weigh.model.checkpoint import read_checkpoint
from weigh.model.checks import contradictions
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import SCHEMES, checkpoint_bytes, scheme_named, stored
from weigh.model.stored_types import StoredType


def bytes_by_name(spec: ModelSpec) -> dict[str, int]:
    return {group.name: group.total_bytes for group in spec.tensors}


@pytest.mark.parametrize(
    ("recorded", "scheme", "off_bytes"),
    [
        ("llama-nf4", "NF4", 0),
        ("llama-gptq-int4", "GPTQ-INT4", 0),
        ("qwen3-moe-awq", "AWQ-INT4", 0),
        # llm-compressor keeps block scales in bfloat16, where DeepSeek and transformers have float32
        ("qwen3-moe-fp8", "FP8", 2),
        # made for 16-bit inputs, so without the scale of the inputs
        ("llama-nvfp4", "NVFP4", 4),
    ],
)
def test_a_config_alone_gives_what_the_quantizer_wrote(
    tmp_path: Path, recorded: str, scheme: str, off_bytes: int
) -> None:
    """Tensor by tensor; `off_bytes` of each scale are a choice of the quantizer that was used."""
    config = json.loads((RECORDED / f"{recorded}.json").read_text())["config"]
    worked_out = stored(spec_from_config("m", config), scheme)
    real = read_checkpoint(write_recorded(tmp_path / "m", recorded))
    assert worked_out.quantization == real.quantization == scheme
    if not off_bytes:
        assert bytes_by_name(worked_out) == bytes_by_name(real)
    assert worked_out.tensor_bytes == pytest.approx(real.tensor_bytes, rel=1e-4)
    assert real.file_bytes is not None
    assert checkpoint_bytes(worked_out) == pytest.approx(real.file_bytes, rel=0.005)


def llama(scheme: str) -> ModelSpec:
    return stored(catalog().by_id["meta-llama/Llama-3.1-8B-Instruct"].spec(), scheme)


def test_sixteen_bits_are_two_bytes_a_parameter() -> None:
    """8,030,261,248 parameters as published; `rope_freqs` is in GGUF files only."""
    assert llama("BF16").tensor_bytes == llama("F16").tensor_bytes == 2 * 8_030_261_248
    assert llama("F32").tensor_bytes == 4 * 8_030_261_248


# Llama 3.1 8B: 6,979,321,856 weights in the blocks' matrices, the rest 1,050,939,392.
LINEAR, REST = 6_979_321_856, 1_050_939_392


@pytest.mark.parametrize(
    ("scheme", "linear_bytes"),
    [
        ("FP8", LINEAR + LINEAR // 128 // 128 * 4),
        ("W4A16", LINEAR // 2 + LINEAR // 128 * 2 + 32 * 7 * 16),
        ("AWQ", LINEAR // 2 + LINEAR // 128 * 5 // 2),
        # a group index for each input: 6 matrices of 4096 and one of 14336 in each of 32 layers
        ("GPTQ-INT4", LINEAR // 2 + LINEAR // 128 * 5 // 2 + 32 * (6 * 4096 + 14336) * 4),
        ("GPTQ-INT4-G32", LINEAR // 2 + LINEAR // 32 * 5 // 2 + 32 * (6 * 4096 + 14336) * 4),
        ("MXFP4", LINEAR // 2 + LINEAR // 32),
        ("NVFP4", LINEAR // 2 + LINEAR // 16 + 32 * 7 * 8),
        # a float32 for each output: 4096 for query, output and down, 1024 twice, 14336 twice
        ("INT8", LINEAR + 32 * ((3 * 4096 + 2 * 1024 + 2 * 14336) * 4 + 7)),
    ],
)
def test_llama_by_hand(scheme: str, linear_bytes: int) -> None:
    assert llama(scheme).tensor_bytes == linear_bytes + 2 * REST


def test_embeddings_norms_and_biases_stay_in_sixteen_bits() -> None:
    spec = stored(catalog().by_id["Qwen/Qwen2.5-7B-Instruct"].spec(), "AWQ")
    types = {group.name: group.type for group in spec.tensors}
    for name in ("token_embd.weight", "output.weight", "blk.{}.attn_norm.weight", "blk.{}.attn_q.bias"):
        assert types[name] is GgmlType.F16
    assert types["blk.{}.attn_q.weight"] is StoredType.INT4


def test_routers_stay_in_sixteen_bits() -> None:
    spec = stored(catalog().by_id["Qwen/Qwen3-30B-A3B"].spec(), "FP8")
    types = {group.name: group.type for group in spec.tensors}
    assert types["blk.{}.ffn_gate_inp.weight"] is GgmlType.BF16
    assert types["blk.{}.ffn_up_exps.weight"] is StoredType.FP8_E4M3


def test_bitsandbytes_leaves_experts_alone_and_says_so() -> None:
    spec = stored(catalog().by_id["Qwen/Qwen3-30B-A3B"].spec(), "NF4")
    types = {group.name: group.type for group in spec.tensors}
    assert types["blk.{}.ffn_up_exps.weight"] is GgmlType.BF16
    assert types["blk.{}.attn_q.weight"] is StoredType.NF4
    assert "its experts stay in 16 bits" in spec.notes[-1]


def test_gpt_oss_is_as_published_at_mxfp4() -> None:
    """Experts in MXFP4 at 17 bytes for 32, all else in bfloat16: 13.76 GB of tensors, as the files hold."""
    spec = stored(catalog().by_id["openai/gpt-oss-20b"].spec(), "MXFP4")
    experts = 24 * 32 * 3 * 2880 * 2880
    assert spec.tensor_bytes == experts // 32 * 17 + 2 * (spec.parameters - experts)
    assert spec.tensor_bytes == pytest.approx(13.76e9, rel=0.001)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("awq", "AWQ-INT4"), ("gptq_int4_g128", "GPTQ-INT4"), ("fp16", "F16"), ("LLM.int8", "INT8")],
)
def test_schemes_go_by_several_names(typed: str, meant: str) -> None:
    assert scheme_named(typed).name == meant


def test_an_unknown_scheme_is_told_with_close_ones() -> None:
    with pytest.raises(UnknownName, match="unknown quantization `NVFP5`; did you mean `NVFP4`"):
        scheme_named("NVFP5")


def test_what_is_quantized_is_not_quantized_again() -> None:
    with pytest.raises(NotSupported, match="is NF4 already; it cannot be made FP8 again"):
        stored(llama("NF4"), "FP8")


def test_no_scheme_contradicts_itself_on_any_dense_or_mixed_model() -> None:
    ids = (
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen/Qwen3-30B-A3B",
        "deepseek-ai/DeepSeek-V2-Lite",
        "google/gemma-3-4b-it",
    )
    specs = [stored(catalog().by_id[i].spec(), scheme) for i in ids for scheme in SCHEMES]
    assert [contradictions(spec) for spec in specs] == [()] * len(specs)
