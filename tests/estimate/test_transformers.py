"""Memory under transformers, against figures worked by hand, PyTorch's own counts and published rows."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from weigh.errors import BadInput
from weigh.estimate.transformers import block_bytes, release, split_memory, transformers_memory
from weigh.machine.target import Backend, Device
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import stored
from weigh.units import GIB, MIB

A100 = Device("A100", "NVIDIA", Backend.CUDA, 80 * GIB, 80 * GIB, compute_capability="8.0")
H20 = Device("H20", "NVIDIA", Backend.CUDA, 96 * GIB, 96 * GIB, compute_capability="9.0")

# The models below are those whose allocations were traced with PyTorch's profiler under torch 2.13.0 and
# transformers 5.23.0 on a CPU, one prompt of 1024 tokens. The attention kernel's own scratch, up to 1 MiB
# whatever the model, is in the traced figures alone.
SMALL: dict[str, object] = {
    "num_hidden_layers": 3,
    "hidden_size": 256,
    "intermediate_size": 704,
    "vocab_size": 1000,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
EXPERTS: dict[str, object] = {
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "head_dim": 32,
}


def small(**fields: object) -> ModelSpec:
    return spec_from_config("small", {**SMALL, "model_type": "qwen2", **fields})


def named(model: str) -> ModelSpec:
    return catalog().by_id[model].spec()


@pytest.mark.parametrize(
    ("fields", "attention", "traced_bytes"),
    [
        ({}, "sdpa", 7_356_424),
        ({}, "eager", 90_062_856),
        ({"intermediate_size": 128}, "sdpa", 5_558_280),
        ({"model_type": "llama", "intermediate_size": 128}, "sdpa", 5_558_296),
        ({"model_type": "qwen3", "intermediate_size": 128, "head_dim": 64}, "sdpa", 8_208_392),
        ({**EXPERTS, "moe_intermediate_size": 96}, "sdpa", 11_616_392),
        ({**EXPERTS, "moe_intermediate_size": 384}, "sdpa", 17_875_080),
    ],
)
def test_cache_and_activations_are_what_pytorch_allocated(
    fields: dict[str, object], attention: str, traced_bytes: int
) -> None:
    ours = transformers_memory(small(**fields), prompt_tokens=1024, output_tokens=1, attention=attention)  # type: ignore[arg-type]
    assert ours.kv_cache_bytes + ours.activations_bytes == pytest.approx(traced_bytes, abs=MIB)


def test_dense_prefill_holds_four_hidden_states_and_three_of_the_feed_forward() -> None:
    ours = transformers_memory(small(), prompt_tokens=1024, output_tokens=1)
    cache = 3 * 2 * 2 * 32 * 2  # layers, keys and values, heads, width of a head, bytes
    assert ours.kv_cache_bytes == 1025 * cache
    assert ours.activations_bytes == 1024 * 2 * (4 * 256 + 3 * 704) - cache  # the last token is not there yet


def test_weights_are_half_precision_and_a_tied_embedding_counts_once() -> None:
    assert (
        transformers_memory(
            named("Qwen/Qwen2.5-0.5B-Instruct"), prompt_tokens=1, output_tokens=1
        ).weights_bytes
        == 494_032_768 * 2
    )


def test_blocks_of_the_gpu_allocator() -> None:
    assert block_bytes(1) == 512
    assert block_bytes(9 * MIB) == 9 * MIB
    assert block_bytes(43 * MIB) == 44 * MIB  # one left over is too little to split off
    assert block_bytes(43 * MIB - 512) == 43 * MIB - 512


def test_sliding_layers_keep_their_window_once_they_decode() -> None:
    spec = named("google/gemma-3-1b-it")  # 22 sliding layers of 512 tokens, 4 full; one head of 256
    kept = transformers_memory(spec, prompt_tokens=4096, output_tokens=1)
    assert kept.kv_cache_bytes == (22 * 512 + 4 * 4097) * 2 * 256 * 2
    before = transformers_memory(spec, prompt_tokens=4096, output_tokens=1, version=release("4.51.3"))
    assert before.kv_cache_bytes == 26 * 4097 * 2 * 256 * 2


def test_latent_attention_cached_all_heads_before_it_cached_the_latent() -> None:
    spec = named("deepseek-ai/DeepSeek-V2-Lite")  # 27 layers, 16 heads, key 192, value 128, latent 576
    now = transformers_memory(spec, prompt_tokens=999, output_tokens=1)
    before = transformers_memory(spec, prompt_tokens=999, output_tokens=1, version=release("4.51.3"))
    assert now.kv_cache_bytes == 1000 * 27 * 576 * 2
    assert before.kv_cache_bytes == 1000 * 27 * 16 * (192 + 128) * 2


def test_logits_of_the_whole_prompt_in_old_releases() -> None:
    spec = named("Qwen/Qwen2-0.5B-Instruct")
    asked = {"prompt_tokens": 30720, "output_tokens": 2048, "device": A100, "attention": "flash_attention_2"}
    old = transformers_memory(spec, version=release("4.38.2"), **asked)  # type: ignore[arg-type]
    new = transformers_memory(spec, version=release("4.46.0"), **asked)  # type: ignore[arg-type]
    assert old.activations_bytes > 30720 * 151936 * 6 > 20 * new.activations_bytes
    assert old.allocated_bytes / GIB == pytest.approx(27.61, rel=0.005)  # published


def test_a_static_cache_has_room_for_all_tokens_from_the_start() -> None:
    grown = transformers_memory(small(), prompt_tokens=1, output_tokens=4095)
    fixed = transformers_memory(small(), prompt_tokens=1, output_tokens=4095, cache="static")
    assert fixed.kv_cache_bytes == grown.kv_cache_bytes
    # growing holds the keys of one layer twice for a moment
    assert grown.activations_bytes - fixed.activations_bytes == 4096 * 2 * 32 * 2


def test_a_prompt_in_chunks_needs_less_at_once() -> None:
    whole = transformers_memory(small(), prompt_tokens=4096, output_tokens=1)
    chunked = transformers_memory(small(), prompt_tokens=4096, output_tokens=1, prefill_chunk_tokens=512)
    assert whole.activations_bytes > 7 * chunked.activations_bytes


def test_on_a_gpu_pytorch_counts_less_than_the_card_holds() -> None:
    ours = transformers_memory(small(), prompt_tokens=1024, output_tokens=1, device=A100)
    parts = ours.weights_bytes + ours.kv_cache_bytes + ours.activations_bytes + ours.overhead_bytes
    assert parts == ours.total.value
    assert 0 < ours.allocated_bytes < ours.total.value - 400 * MIB
    assert ours.total.low < ours.total.value < ours.total.high


def test_on_a_cpu_weights_are_pages_of_the_file() -> None:
    ours = transformers_memory(named("Qwen/Qwen3-0.6B"), prompt_tokens=64, output_tokens=64)
    parts = ours.weights_bytes + ours.kv_cache_bytes + ours.activations_bytes + ours.overhead_bytes
    assert parts == ours.total.value
    assert ours.weights_bytes < ours.mapped_bytes < ours.total.value
    assert ours.allocated_bytes == 0


def test_layers_spread_over_gpus_hold_every_weight_once() -> None:
    spec = named("Qwen/Qwen2.5-14B-Instruct")
    one = split_memory(spec, prompt_tokens=1, output_tokens=64, devices=(A100,))
    three = split_memory(spec, prompt_tokens=1, output_tokens=64, devices=(A100,) * 3)
    assert sum(part.weights_bytes for part in three) == one[0].weights_bytes
    assert sum(part.kv_cache_bytes for part in three) == one[0].kv_cache_bytes
    assert three[1].weights_bytes < three[0].weights_bytes  # no embedding, no output matrix


def test_number_formats_of_gguf_are_unpacked() -> None:
    from weigh.model.quantization import quantize

    spec = named("Qwen/Qwen2.5-0.5B-Instruct")
    packed = transformers_memory(quantize(spec, "Q4_K_M"), prompt_tokens=1, output_tokens=1)
    assert packed.weights_bytes == 494_032_768 * 2
    assert "unpacks" in packed.notes[0]


@pytest.mark.parametrize("asked", [{"prompt_tokens": 0}, {"output_tokens": 0}, {"batch": 0}])
def test_nothing_asked_is_refused(asked: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="at least one"):
        transformers_memory(small(), **({"prompt_tokens": 1, "output_tokens": 1} | asked))  # type: ignore[arg-type]


def test_a_version_is_that_of_the_last_release_read() -> None:
    assert release("4.50.0") == release("4.46.0")
    assert release("3.0") == release("4.38.2")
    assert release("9.1") == release("5.23.0")
    with pytest.raises(BadInput, match="version"):
        release("latest")


def published_on_one_gpu() -> list[dict[str, str]]:
    table = files("weigh").joinpath("data", "memory.csv").read_text()
    rows = csv.DictReader(table.splitlines())
    return [r for r in rows if "speed_benchmark.rst" in r["source"] and r["n_gpu"] == "1"]


def test_every_published_row_on_one_gpu_is_met_within_five_percent() -> None:
    rows = published_on_one_gpu()
    assert len(rows) == 128
    for row in rows:
        spec = named(row["model_id"])
        ours = transformers_memory(
            spec if row["quantization"] == "BF16" else stored(spec, row["quantization"]),
            prompt_tokens=int(row["input_tokens"]),
            output_tokens=int(row["output_tokens"]),
            device=A100,
            attention="flash_attention_2",
            version=release(row["version"].split()[1]),
        )
        assert ours.allocated_bytes / GIB == pytest.approx(float(row["value_GiB"]), rel=0.05), row


def test_a_hopper_card_keeps_a_larger_workspace() -> None:
    spec = named("Qwen/Qwen3-8B")
    ours = transformers_memory(
        spec, prompt_tokens=1, output_tokens=2048, device=H20, version=release("4.51.3")
    )
    assert ours.allocated_bytes / MIB == pytest.approx(15947, rel=0.005)  # published


def test_a_model_of_recurrent_layers_alone_keeps_states_whatever_the_length() -> None:
    spec = named("state-spaces/mamba-130m-hf")
    short, long = (transformers_memory(spec, prompt_tokens=n, output_tokens=1) for n in (16, 1600))
    assert short.kv_cache_bytes == long.kv_cache_bytes > 0
    assert "recurrent" in short.notes[0]
