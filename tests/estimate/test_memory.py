"""Memory of a whole model: figures worked by hand, and the embedded engine's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from weigh.engines.engine import Layout, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.estimate.memory import max_context_tokens, memory, weights
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec, TensorGroup
from weigh.synth.gguf import write_gguf
from weigh.units import GIB, MIB

AVX2 = ("AVX2",)
ARM = ("NEON", "DOTPROD")
ARM_I8MM = ("NEON", "DOTPROD", "MATMUL_INT8")


def typed(name: str, recipe: str = "Q4_K_M") -> ModelSpec:
    return quantize(catalog().by_id[name].spec(), recipe)


def one_matrix(type_: GgmlType, rows: int, name: str = "blk.{}.ffn_up.weight") -> ModelSpec:
    """A spec of one matrix of 256 columns beside an F16 output matrix."""
    spec = typed("meta-llama/Llama-3.2-1B-Instruct", "F16")
    matrix = TensorGroup(name, (256, rows), type_, (0,))
    return replace(spec, tensors=(matrix, TensorGroup("output.weight", (256, 8), GgmlType.F16)))


def engine_layout(spec: ModelSpec, settings: Settings, folder: Path) -> Layout:
    path = folder / "model.gguf"
    write_gguf(spec, path, weights=False)
    return EmbeddedLlamaCpp().layout(path, settings)


def test_weights_are_whole_blocks_of_every_tensor() -> None:
    # 64 rows of 256 in one block of 144 bytes, 8 rows of 256 in two bytes each
    found = weights(one_matrix(GgmlType.Q4_K, 64), AVX2)
    assert found.tensor_bytes == 64 * 144 + 8 * 256 * 2


@pytest.mark.parametrize(
    ("type_", "rows", "features", "repacked"),
    [
        (GgmlType.Q4_K, 64, AVX2, True),
        (GgmlType.Q4_K, 60, AVX2, False),  # kernels take 8 rows at a time
        (GgmlType.Q4_K, 64, (), False),
        (GgmlType.Q6_K, 64, AVX2, False),
        (GgmlType.Q6_K, 64, ARM, True),
        (GgmlType.Q2_K, 64, AVX2, False),
        (GgmlType.Q2_K, 64, ("AVX2", "AVX512F"), True),
        (GgmlType.Q8_0, 60, ARM_I8MM, True),  # 4 rows at a time
        (GgmlType.Q8_0, 62, ARM_I8MM, False),
        (GgmlType.F16, 64, ARM_I8MM, False),
    ],
)
def test_what_is_repacked_depends_on_format_rows_and_build(
    type_: GgmlType, rows: int, features: tuple[str, ...], repacked: bool
) -> None:
    found = weights(one_matrix(type_, rows), features)
    assert found.repacked_bytes == (type_.row_bytes(256) * rows if repacked else 0)


def test_embeddings_are_looked_up_and_stay_as_they_are() -> None:
    found = weights(one_matrix(GgmlType.Q4_0, 64, "token_embd.weight"), AVX2)
    assert (found.repacked_bytes, found.copied_bytes) == (0, 0)


def test_a_tied_embedding_is_held_twice_when_its_output_form_is_repacked() -> None:
    tied = one_matrix(GgmlType.Q4_0, 64, "token_embd.weight")
    tied = replace(tied, tensors=tied.tensors[:1])
    found = weights(tied, AVX2)
    assert found.copied_bytes == found.repacked_bytes == found.tensor_bytes
    assert weights(tied, ()).copied_bytes == 0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", Settings(context_tokens=4096)),
        ("meta-llama/Llama-3.1-70B-Instruct", Settings(context_tokens=32768)),
        ("Qwen/Qwen2.5-7B-Instruct", Settings(context_tokens=5000, parallel=4)),
        ("microsoft/Phi-3-mini-4k-instruct", Settings(context_tokens=4096, ubatch_tokens=128)),
        ("Qwen/Qwen3-30B-A3B", Settings(context_tokens=32768)),
        (
            "meta-llama/Llama-3.2-1B-Instruct",
            Settings(context_tokens=8192, kv_type_k=GgmlType.Q8_0, kv_type_v=GgmlType.Q8_0),
        ),
        ("google/gemma-3-4b-it", Settings(context_tokens=16384)),
        ("openai/gpt-oss-20b", Settings(context_tokens=16384)),
        ("Qwen/Qwen3.5-2B", Settings(context_tokens=8192, parallel=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.context_tokens}x{value.parallel}",
)
def test_the_engine_reports_the_same(name: str, settings: Settings, tmp_path: Path) -> None:
    spec = typed(name)
    features = EmbeddedLlamaCpp().cpu_features(AVX2)
    ours, theirs = memory(spec, settings, features), engine_layout(spec, settings, tmp_path)
    # each buffer's figure is cut to whole MiB
    assert 0 <= ours.kv_cache_bytes - theirs.kv_cache_bytes < MIB
    assert 0 <= ours.compute_bytes - theirs.compute_bytes < 2 * MIB
    assert 0 <= ours.weights_bytes - theirs.weights_bytes < 2 * MIB
    repacked = theirs.by_buffer.get("CPU_REPACK", (0, 0, 0))[0]
    assert 0 <= ours.repacked_bytes - repacked < MIB


@pytest.mark.parametrize("recipe", ["Q8_0", "Q6_K", "Q5_K_M", "Q4_0", "Q2_K"])
def test_the_engine_repacks_the_same_matrices(recipe: str, tmp_path: Path) -> None:
    spec = typed("Qwen/Qwen2.5-0.5B-Instruct", recipe)
    features = EmbeddedLlamaCpp().cpu_features(AVX2)
    theirs = engine_layout(spec, Settings(), tmp_path)
    repacked = theirs.by_buffer.get("CPU_REPACK", (0, 0, 0))[0]
    assert 0 <= memory(spec, Settings(), features).repacked_bytes - repacked < MIB


def test_the_total_is_the_sum_of_its_parts() -> None:
    found = memory(typed("meta-llama/Llama-3.2-1B-Instruct"), Settings(), AVX2)
    parts = found.weights_bytes + found.kv_cache_bytes + found.compute_bytes
    assert found.total_bytes == parts + found.output_bytes + found.runtime_bytes
    assert found.output_bytes == 128256 * 4


def test_mapped_pages_count_as_resident_and_not_as_private() -> None:
    spec = typed("meta-llama/Llama-3.2-1B-Instruct")
    mapped = memory(spec, Settings(mmap=True), AVX2)
    read = memory(spec, Settings(mmap=False), AVX2)
    assert mapped.mapped_bytes - read.mapped_bytes == spec.tensor_bytes
    assert read.private_bytes - mapped.private_bytes == mapped.weights_bytes - mapped.repacked_bytes
    assert mapped.resident_bytes - read.resident_bytes == mapped.repacked_bytes
    assert mapped.total_bytes == read.total_bytes
    assert mapped.load_peak_bytes >= mapped.resident_bytes


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        ["meta-llama/Llama-3.1-8B-Instruct", "google/gemma-3-4b-it", "Qwen/Qwen3.5-2B", "openai/gpt-oss-20b"]
    ),
    available=st.integers(GIB, 24 * GIB),
    parallel=st.sampled_from([1, 4]),
)
def test_the_largest_context_fits_and_one_step_more_does_not(
    name: str, available: int, parallel: int
) -> None:
    spec = typed(name)
    settings = Settings(parallel=parallel)
    most = max_context_tokens(spec, settings, AVX2, available)

    def needed(tokens: int) -> int:
        return memory(spec, replace(settings, context_tokens=tokens), AVX2).total_bytes

    assert 0 <= most <= spec.context_train
    if most:
        assert needed(most) <= available
    if most < spec.context_train:
        assert needed(most + 256) > available


def test_no_context_fits_where_the_weights_do_not() -> None:
    assert max_context_tokens(typed("meta-llama/Llama-3.1-70B-Instruct"), Settings(), AVX2, 8 * GIB) == 0
