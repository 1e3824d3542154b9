"""What each device holds, worked by hand, and against what llama-server says it would allocate.

The recorded figures are of llama-server build 11669 with one or two Vulkan devices (lavapipe), 2026-11-22; the
command that records them is benchmarks/split_memory.py.
"""

from __future__ import annotations

from functools import cache

import pytest

from tests.tiny_models import tiny_llama
from weigh.engines.engine import Settings
from weigh.errors import NotSupported
from weigh.estimate.device_memory import gpu_overhead, layer_bytes, placed_memory
from weigh.estimate.memory import memory
from weigh.estimate.placement import DeviceMemory, Placement
from weigh.machine.target import Backend, Device, Target
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.units import GIB, MIB

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"
QWEN_MOE = "Qwen/Qwen3-30B-A3B"
DEFAULT = Settings()


def machine(gpus: int, backend: Backend = Backend.VULKAN) -> Target:
    host = Device("processor", "", Backend.CPU, 64 * GIB, 64 * GIB)
    return Target("m", host, tuple(Device(f"gpu {i}", "", backend, 24 * GIB, 24 * GIB) for i in range(gpus)))


def held(
    spec: ModelSpec, placement: Placement, settings: Settings = DEFAULT, backend: Backend = Backend.VULKAN
) -> tuple[DeviceMemory, ...]:
    target = machine(len(placement.gpu_layers), backend)
    room = (64 * GIB, *(24 * GIB for _ in target.gpus))
    return placed_memory(spec, settings, target, placement, available=room)


@cache
def typed(name: str) -> ModelSpec:
    return quantize(catalog().by_id[name].spec(), "Q4_K_M")


# --- weights and caches ---------------------------------------------------------------------------------


def test_the_last_layers_and_the_output_go_to_the_gpu() -> None:
    # per layer: norms 2 x 256 x 4; q, k, v, o: (256 + 128 + 128 + 256) x 256 and three of 512 x 256 in Q4_K, 144
    # bytes for 256 weights; the tied embedding 1024 x 256 in Q6_K, 210 bytes, is there twice
    layer = 2048 + (768 * 256 + 3 * 512 * 256) * 144 // 256
    embedding, norm = 1024 * 210, 1024
    ram, gpu = held(tiny_llama(layers=4), Placement((3,), output_on_gpu=True))
    assert ram.weights_bytes == layer + embedding
    assert gpu.weights_bytes == 3 * layer + embedding + norm


def test_an_output_matrix_of_its_own_is_there_once() -> None:
    spec = typed(LLAMA_8B)
    ram, gpu = held(spec, Placement((32,), output_on_gpu=True))
    assert not spec.tied_embeddings
    assert ram.weights_bytes + gpu.weights_bytes == spec.tensor_bytes


def test_experts_of_the_first_layers_stay_in_ram() -> None:
    spec = tiny_llama(layers=4, experts=8, experts_used=2)
    experts = 3 * 512 * 256 * 8 * 144 // 256  # gate, up and down of a layer
    every = held(spec, Placement((4,), output_on_gpu=True))
    two = held(spec, Placement((4,), output_on_gpu=True, experts_in_ram=2))
    assert every[1].weights_bytes - two[1].weights_bytes == 2 * experts
    assert two[0].weights_bytes - every[0].weights_bytes == 2 * experts


def test_experts_of_a_layer_in_ram_are_not_counted_twice() -> None:
    spec = tiny_llama(layers=4, experts=8, experts_used=2)
    plain = held(spec, Placement((2,), output_on_gpu=True))
    named = held(spec, Placement((2,), output_on_gpu=True, experts_in_ram=1))
    assert [m.weights_bytes for m in plain] == [m.weights_bytes for m in named]


def test_the_cache_goes_where_its_layer_is() -> None:
    # 2 heads x 64 values of F16, key and value, 4096 tokens: 2 MiB a layer
    found = held(tiny_llama(layers=4), Placement((1, 2), output_on_gpu=True), Settings(context_tokens=4096))
    assert [m.kv_cache_bytes for m in found] == [2 * MIB, 2 * MIB, 4 * MIB]


def test_layers_of_a_sliding_window_keep_less_wherever_they_are() -> None:
    spec = typed("google/gemma-3-4b-it")  # every sixth layer keeps all: 6, 12, 18, 24 and 30 of 34
    long = Settings(context_tokens=32768)
    ram, gpu = held(spec, Placement((34 - 6,), output_on_gpu=True), long)
    full = 2 * 4 * 256 * 2 * 32768  # key and value, 4 heads of 256, F16
    sliding = 2 * 4 * 256 * 2 * (1024 + 512)
    assert ram.kv_cache_bytes == full + 5 * sliding
    assert gpu.kv_cache_bytes == 4 * full + 24 * sliding


@pytest.mark.parametrize("name", [LLAMA_8B, LLAMA_1B, QWEN_MOE, "google/gemma-3-4b-it", "Qwen/Qwen3.5-4B"])
def test_devices_together_hold_the_model_once_and_a_tied_embedding_twice(name: str) -> None:
    spec = typed(name)
    split = held(spec, Placement((spec.layers // 3, spec.layers // 3), output_on_gpu=True))
    tied = sum(t.total_bytes for t in spec.tensors if t.name == "token_embd.weight" and spec.tied_embeddings)
    small = 64 * 1024  # rotary factors, on every device
    assert 0 <= sum(m.weights_bytes for m in split) - spec.tensor_bytes - tied < small
    assert sum(m.kv_cache_bytes for m in split) == memory(spec, Settings(), ()).kv_cache_bytes


def test_layer_bytes_add_up() -> None:
    spec = typed(QWEN_MOE)
    sizes = layer_bytes(spec, Settings())
    layers = sum(t.total_bytes for t in spec.tensors if t.layers)
    assert sizes.between(0, 48, 0) == layers + memory(spec, Settings(), ()).kv_cache_bytes
    assert sizes.between(0, 48, 10) == sizes.between(0, 48, 0) - (
        sizes.between(0, 10, 0) - sizes.between(0, 10, 48)
    )


def test_where_layers_end_that_fit_in_a_room() -> None:
    sizes = layer_bytes(typed(LLAMA_8B), Settings())
    room = sizes.between(5, 9, 0)
    assert sizes.end(5, room, 0) == 9
    assert sizes.end(5, room - 1, 0) == 8
    assert sizes.start(9, room, 0) == 5
    assert sizes.start(9, room - 1, 0) == 6


# --- scratch, by hand -----------------------------------------------------------------------------------


def test_a_gpu_that_holds_all_needs_what_the_processor_would_without_the_inputs() -> None:
    # Llama 3.1 8B, 512 tokens: gate, up and their product 3 x 28 MiB; residual stream, norm, and two tensors of
    # the branch for mixed batches, 8 MiB each; mask 4 MiB
    _, gpu = held(typed(LLAMA_8B), Placement((32,), output_on_gpu=True), Settings(context_tokens=4096))
    assert 0 <= gpu.compute_bytes - (84 + 4 * 8 + 4) * MIB < 64 * 1024


def test_ram_holds_inputs_and_embeddings() -> None:
    # two inputs for embeddings given directly, what is looked up and its like for mixed batches: 4 x 8 MiB; the
    # mask 4 MiB; logits of one token
    ram, _ = held(typed(LLAMA_8B), Placement((32,), output_on_gpu=True), Settings(context_tokens=4096))
    assert 0 <= ram.compute_bytes - 36 * MIB - 4 * 128256 < 64 * 1024


def test_several_gpus_that_hold_all_keep_four_copies_of_their_inputs() -> None:
    spec, settings = typed(LLAMA_8B), Settings(context_tokens=4096)
    _, first, second = held(spec, Placement((16, 16), output_on_gpu=True), settings)
    # first: embeddings, two for mixed batches, mask; second: stream, its first norm, mask
    assert 0 <= first.compute_bytes - (4 * (3 * 8 + 4) + 116) * MIB < 128 * 1024
    assert 0 <= second.compute_bytes - (4 * (2 * 8 + 4) + 108) * MIB < 128 * 1024


def test_with_layers_in_ram_gpus_work_one_after_another() -> None:
    spec, settings = typed(LLAMA_8B), Settings(context_tokens=4096)
    _, _, together = held(spec, Placement((16, 16), output_on_gpu=True), settings)
    _, _, alone = held(spec, Placement((8, 16), output_on_gpu=True), settings)
    assert alone.compute_bytes < together.compute_bytes - 60 * MIB


def test_the_first_gpu_needs_room_for_the_cache_of_a_layer_in_ram() -> None:
    # at 64k a layer of Llama 3.1 8B keeps 128 MiB of keys and as much of values; both are copied over
    spec, long = typed(LLAMA_8B), Settings(context_tokens=65536)
    _, whole = held(spec, Placement((32,), output_on_gpu=True), long)
    _, most = held(spec, Placement((31,), output_on_gpu=True), long)
    assert most.compute_bytes - whole.compute_bytes > 128 * MIB


def test_a_context_too_short_to_be_worth_it_copies_nothing() -> None:
    spec, short = typed(LLAMA_8B), Settings(context_tokens=16)  # fewer than 32 tokens at once
    _, gpu = held(spec, Placement((16,), output_on_gpu=True), short)
    assert gpu.compute_bytes < 16 * MIB


def test_nothing_on_gpus_is_what_the_processor_holds() -> None:
    spec = typed(LLAMA_1B)
    ram, gpu = held(spec, Placement((0,)))
    alone = memory(spec, Settings(), ())
    assert ram.total_bytes == alone.total_bytes
    assert gpu.total_bytes == 0


def test_a_gpu_without_layers_is_left_alone() -> None:
    found = held(typed(LLAMA_1B), Placement((0, 16), output_on_gpu=True))
    assert found[1].total_bytes == 0
    assert found[2].weights_bytes > 0


# --- scratch, as the engine has it ----------------------------------------------------------------------

Q8 = {"kv_type_k": GgmlType.Q8_0, "kv_type_v": GgmlType.Q8_0}
RECORDED = [  # model, layers on GPUs, experts in RAM, settings, MiB of each GPU, MiB of the host
    (LLAMA_8B, (32,), 0, {}, (120.01,), 36.02),
    (LLAMA_8B, (16, 16), 0, {}, (228.05, 188.04), 96.07),
    (LLAMA_8B, (16, 16), 0, {"context_tokens": 32768, "parallel": 4}, (340.05, 300.04), 208.07),
    (LLAMA_8B, (19,), 0, {}, (139.50,), 36.02),
    (LLAMA_8B, (10, 9), 0, {}, (139.50, 104.01), 36.02),
    (LLAMA_8B, (19,), 0, {"context_tokens": 32768}, (264.00,), 64.02),
    (LLAMA_1B, (8,), 0, {}, (81.00,), 20.02),
    (QWEN_MOE, (48,), 0, {}, (88.01,), 20.02),
    (QWEN_MOE, (24,), 0, {}, (221.50,), 20.02),
    (QWEN_MOE, (48,), 48, {}, (221.51,), 20.02),
    (QWEN_MOE, (24, 24), 24, {}, (221.51, 80.51), 20.02),
    (QWEN_MOE, (12, 12), 0, {"context_tokens": 16384}, (274.00, 92.51), None),
    ("Qwen/Qwen2.5-7B-Instruct", (14,), 0, {}, (196.32,), None),
    ("Qwen/Qwen2.5-7B-Instruct", (7, 7), 0, {"context_tokens": 16384}, (164.00, 141.01), None),
    ("google/gemma-2-2b-it", (13,), 0, {"context_tokens": 16384}, (110.50,), None),
    ("google/gemma-3-4b-it", (17, 17), 0, Q8 | {"parallel": 4}, (167.22, 142.20), None),
    ("openai/gpt-oss-20b", (24,), 12, {}, (202.74,), None),
    ("openai/gpt-oss-20b", (6, 6), 0, {"context_tokens": 16384}, (251.21, 95.64), None),
    ("deepseek-ai/DeepSeek-V2-Lite", (27,), 13, {}, (247.51,), None),
    ("deepseek-ai/DeepSeek-V2-Lite", (6, 6), 0, {"context_tokens": 16384}, (277.00, 73.76), None),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", (48,), 24, {}, (870.00,), None),
    ("Qwen/Qwen3.5-4B", (16, 16), 0, {}, (145.08, 120.06), None),
    ("zai-org/GLM-4.5-Air", (11, 11), 0, {"context_tokens": 16384}, (948.00, 162.76), None),
    ("CohereLabs/aya-expanse-8b", (8, 8), 0, {"context_tokens": 16384}, (165.94, 124.01), None),
    ("tiiuae/falcon-7b", (8, 8), 0, {"context_tokens": 16384}, (218.64, 78.13), None),
]


@pytest.mark.parametrize(("name", "layers", "experts", "given", "gpus_mib", "host_mib"), RECORDED)
def test_scratch_memory_is_the_engines(
    name: str,
    layers: tuple[int, ...],
    experts: int,
    given: dict[str, object],
    gpus_mib: tuple[float, ...],
    host_mib: float | None,
) -> None:
    spec = typed(name)
    settings = Settings(**given)  # type: ignore[arg-type]
    ram, *gpus = held(spec, Placement(layers, output_on_gpu=True, experts_in_ram=experts), settings)
    assert [g.compute_bytes / MIB for g in gpus] == pytest.approx(gpus_mib, rel=0.002)
    if host_mib is not None:
        logits = 4 * spec.vocab * settings.parallel
        assert (ram.compute_bytes - logits) / MIB == pytest.approx(host_mib, abs=0.02)


def test_a_quantized_cache_in_ram_is_met_to_three_percent() -> None:
    ram, gpu = held(typed(LLAMA_8B), Placement((19,), output_on_gpu=True), Settings(**Q8))  # type: ignore[arg-type]
    assert gpu.compute_bytes / MIB == pytest.approx(131.11, rel=0.03)
    assert (ram.compute_bytes - 4 * 128256) / MIB == pytest.approx(36.10, abs=0.02)


def test_a_share_of_every_layer_is_not_llama_cpps() -> None:
    with pytest.raises(NotSupported):
        held(typed(LLAMA_1B), Placement((16, 16), output_on_gpu=True, tensor_parallel=True))


# --- the runtime beside it ------------------------------------------------------------------------------


def test_a_gpu_in_use_loses_a_context_to_its_runtime() -> None:
    spec = typed(LLAMA_1B)
    _, cuda = held(spec, Placement((16,), output_on_gpu=True), backend=Backend.CUDA)
    _, metal = held(spec, Placement((16,), output_on_gpu=True), backend=Backend.METAL)
    assert 250 * MIB < cuda.overhead_bytes < 700 * MIB
    assert metal.overhead_bytes == 0


@pytest.mark.parametrize("backend", list(Backend))
def test_every_backend_has_an_overhead_with_an_interval(backend: Backend) -> None:
    found = gpu_overhead(Device("d", "", backend, GIB, GIB))
    assert found.low <= found.value <= found.high
    assert found.source or backend is Backend.CPU
