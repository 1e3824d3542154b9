"""Ollama's choices, as its source (v0.33.0) makes them; no Ollama server is run here."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from weigh.errors import BadInput
from weigh.estimate.ollama import OllamaSettings, ollama_settings, predicted_bytes
from weigh.machine.target import Backend, Device, Target
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.units import GIB, MIB

HOST = Device("a CPU", "Intel", Backend.CPU, 64 * GIB, 60 * GIB)


def gpu(memory_gib: float, *, free_gib: float | None = None, capability: str = "8.9") -> Device:
    free = memory_gib - 0.5 if free_gib is None else free_gib
    return Device(
        "a card",
        "NVIDIA",
        Backend.CUDA,
        int(memory_gib * GIB),
        int(free * GIB),
        compute_capability=capability,
    )


def target(*gpus: Device) -> Target:
    return Target("a machine", HOST, gpus)


def model(name: str = "Qwen/Qwen2.5-7B-Instruct") -> ModelSpec:
    return quantize(catalog().by_id[name].spec(), "Q4_K_M")


def chosen(
    *gpus: Device,
    params: Mapping[str, object] | None = None,
    name: str = "Qwen/Qwen2.5-7B-Instruct",
    **environment: str,
) -> OllamaSettings:
    return ollama_settings(model(name), params or {}, environment, target(*gpus))


# --- context -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "tokens"),
    [((), 4096), ((16,), 4096), ((22.9,), 4096), ((23.5,), 32768), ((12, 12), 32768), ((46.9,), 32768)],
)
def test_the_context_follows_the_memory_of_all_gpus(cards: tuple[float, ...], tokens: int) -> None:
    assert chosen(*map(gpu, cards)).settings.context_tokens == tokens


def test_a_large_gpu_gives_256k_but_no_more_than_the_model_was_trained_for() -> None:
    assert chosen(gpu(80)).settings.context_tokens == 32768  # Qwen2.5-7B's own limit
    assert chosen(gpu(80), name="meta-llama/Llama-3.1-8B-Instruct").settings.context_tokens == 131072


def test_gpu_overhead_lowers_the_tier() -> None:
    assert chosen(gpu(24), OLLAMA_GPU_OVERHEAD=str(2 * GIB)).settings.context_tokens == 4096


def test_the_request_wins_over_the_environment_and_that_over_memory() -> None:
    assert chosen(gpu(24), OLLAMA_CONTEXT_LENGTH="8192").settings.context_tokens == 8192
    both = chosen(gpu(24), params={"num_ctx": 2048}, OLLAMA_CONTEXT_LENGTH="8192")
    assert both.settings.context_tokens == 2048
    assert "num_ctx" in both.notes[0]


def test_a_variable_that_is_no_number_is_ignored_and_quotes_are_stripped() -> None:
    assert chosen(OLLAMA_CONTEXT_LENGTH="lots").settings.context_tokens == 4096
    assert chosen(OLLAMA_CONTEXT_LENGTH=' "8192" ').settings.context_tokens == 8192


def test_a_param_that_is_no_number_is_refused() -> None:
    for value in ("8k", True, -3, float("inf"), 1 << 40):
        with pytest.raises(BadInput, match="num_ctx"):
            chosen(params={"num_ctx": value})


# --- sequences, batch, cache -------------------------------------------------------------------------


def test_one_sequence_unless_asked_and_never_more_for_recurrent_qwen() -> None:
    assert chosen().settings.parallel == 1
    assert chosen(OLLAMA_NUM_PARALLEL="4").settings.parallel == 4
    assert chosen(name="Qwen/Qwen3-Next-80B-A3B-Instruct", OLLAMA_NUM_PARALLEL="4").settings.parallel == 1


def test_all_sequences_together_are_what_llama_cpp_is_told() -> None:
    arguments = chosen(params={"num_ctx": 8192}, OLLAMA_NUM_PARALLEL="4").arguments
    assert arguments[:4] == ("-c", "32768", "-np", "4")


def test_batches_grow_with_the_context_where_there_is_room() -> None:
    # Qwen2.5-7B Q4_K_M: 4.4 GiB; 28 layers x 2 x 4 heads x 128 x 2 B = 56 KiB a token
    assert chosen(gpu(24), params={"num_ctx": 4096}).settings.ubatch_tokens == 512
    assert chosen(gpu(24), params={"num_ctx": 8192}).settings.ubatch_tokens == 1024
    assert chosen(gpu(24), params={"num_ctx": 32768}, OLLAMA_NUM_PARALLEL="2").settings.ubatch_tokens == 2048
    assert chosen(gpu(6), params={"num_ctx": 8192}).settings.ubatch_tokens == 512
    assert chosen(params={"num_ctx": 8192}).settings.ubatch_tokens == 1024  # the CPU holds nothing against it
    assert chosen(params={"num_batch": 64}).settings.batch_tokens == 64


def test_the_prediction_is_the_file_and_a_full_cache() -> None:
    spec = model()
    assert predicted_bytes(spec, 8192) == spec.tensor_bytes + 28 * 2 * 4 * 128 * 2 * 8192


def test_the_cache_is_f16_unless_named() -> None:
    assert chosen().settings.kv_type_k is GgmlType.F16
    quantized = chosen(OLLAMA_KV_CACHE_TYPE="Q8_0").settings
    assert (quantized.kv_type_k, quantized.kv_type_v) == (GgmlType.Q8_0, GgmlType.Q8_0)
    with pytest.raises(BadInput, match="no number format"):
        chosen(OLLAMA_KV_CACHE_TYPE="int3")


def test_without_flash_attention_the_cache_stays_f16() -> None:
    off = chosen(OLLAMA_KV_CACHE_TYPE="q8_0", OLLAMA_FLASH_ATTENTION="0")
    assert off.settings.kv_type_k is GgmlType.F16
    assert any("flash attention" in note for note in off.notes)


def test_flash_attention_is_llama_cpps_choice_except_on_old_cards() -> None:
    assert chosen(gpu(24)).flash_attention is None
    assert chosen(gpu(24), OLLAMA_FLASH_ATTENTION="1").flash_attention is True
    assert chosen(gpu(24, capability="7.2")).flash_attention is False
    assert chosen(gpu(24, capability="5.2")).settings.ubatch_tokens == 512


# --- placement ---------------------------------------------------------------------------------------


def test_layers_are_left_to_llama_cpp_unless_named() -> None:
    assert chosen(gpu(24)).gpu_layers is None
    assert "-ngl" not in chosen(gpu(24)).arguments
    assert chosen(gpu(24), params={"num_gpu": 10}).arguments[-2:] == ("-ngl", "10")
    assert chosen().gpu_layers == 0


def test_num_gpu_0_keeps_the_model_off_the_gpu() -> None:
    on_cpu = chosen(gpu(24), params={"num_gpu": 0})
    assert (on_cpu.gpu_layers, on_cpu.gpus, on_cpu.settings.mmap) == (0, (), False)


def test_one_gpu_is_enough_when_the_model_takes_at_most_80_percent_of_it() -> None:
    small = {"num_ctx": 4096}  # predicted: 4.4 GiB and 224 MiB
    assert len(chosen(gpu(8), gpu(12), params=small).gpus) == 1
    assert chosen(gpu(8), gpu(12), params=small).gpus[0].memory_bytes == 12 * GIB
    assert len(chosen(gpu(5), gpu(5), params=small).gpus) == 2
    assert len(chosen(gpu(8), gpu(12), params=small, OLLAMA_SCHED_SPREAD="1").gpus) == 2


def test_the_file_is_mapped_on_a_gpu_and_read_on_the_cpu() -> None:
    assert chosen(gpu(24)).settings.mmap
    assert not chosen().settings.mmap
    assert chosen(params={"use_mmap": True}).settings.mmap
    assert "--load-mode" in chosen().arguments
    # 6 GiB free: less than a file of 4.4 GiB and 8 GB
    little = Target("a machine", Device("a CPU", "Intel", Backend.CPU, 8 * GIB, 6 * GIB), (gpu(24),))
    assert not ollama_settings(model(), {}, {}, little).settings.mmap


def test_predictions_are_of_a_plausible_size() -> None:
    assert 4.3 * GIB < predicted_bytes(model(), 0) < 4.5 * GIB
    assert predicted_bytes(model(), 4096) - predicted_bytes(model(), 0) == 224 * MIB
