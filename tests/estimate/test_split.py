"""The split that is found: what fits, what is fastest of it, and how it is said to the engine."""

from __future__ import annotations

from functools import cache
from itertools import accumulate

import pytest

from tests.tiny_models import tiny_llama
from weigh.engines.engine import Settings
from weigh.errors import NotSupported
from weigh.estimate.device_memory import layer_bytes, placed_memory
from weigh.estimate.engine_arguments import arguments
from weigh.estimate.memory import memory
from weigh.estimate.placement import Placement
from weigh.estimate.split import Placed, best_placement, fits_together, max_context_tokens_placed
from weigh.machine.target import Backend, Device, Target
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.units import GB, GIB

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
QWEN_MOE = "Qwen/Qwen3-30B-A3B"
GPT_OSS = "openai/gpt-oss-120b"
EIGHT_K = Settings(context_tokens=8192)


@cache
def typed(name: str, recipe: str = "Q4_K_M") -> ModelSpec:
    return quantize(catalog().by_id[name].spec(), recipe)


def gpu(
    gib: float, gb_per_s: float = 900, *, unified: bool = False, backend: Backend = Backend.CUDA
) -> Device:
    size = int(gib * GIB)
    name = f"{gib:g} GiB"
    return Device(name, "", backend, size, size, bandwidth_bytes_per_s=gb_per_s * GB, unified=unified)


def machine(*gpus: Device, ram_gib: int = 64, gb_per_s: float = 60) -> Target:
    ram = ram_gib * GIB
    return Target("m", Device("cpu", "", Backend.CPU, ram, ram, bandwidth_bytes_per_s=gb_per_s * GB), gpus)


def room(target: Target) -> tuple[int, ...]:
    return (target.host.free_bytes, *(gpu.free_bytes for gpu in target.gpus))


def found(spec: ModelSpec, target: Target, settings: Settings = EIGHT_K) -> Placed | None:
    """The best placement where each device takes as long as reading what a token visits of its weights."""
    experts = layer_bytes(spec, settings).experts_before
    idle_share = 1 - spec.experts_used / spec.experts if spec.experts else 0.0

    def decode_s(placement: Placement) -> float:
        held = placed_memory(spec, settings, target, placement, available=room(target))
        ends = [*accumulate((spec.layers - sum(placement.gpu_layers), *placement.gpu_layers))]
        kept = [max(end, placement.experts_in_ram) for end in ends]
        seconds = 0.0
        for memory_, device, first, end in zip(
            held, (target.host, *target.gpus), [0, *kept[:-1]], kept, strict=True
        ):
            visited = memory_.weights_bytes - idle_share * (experts[end] - experts[first])
            seconds += visited / (device.bandwidth_bytes_per_s or 1)
        return seconds

    return best_placement(spec, settings, target, room(target), decode_s)


def placement(spec: ModelSpec, target: Target, settings: Settings = EIGHT_K) -> Placement:
    best = found(spec, target, settings)
    assert best is not None
    assert fits_together(best.memory, target, room(target))
    return best.placement


# --- one GPU --------------------------------------------------------------------------------------------


def test_all_goes_on_a_gpu_that_has_room() -> None:
    assert placement(typed(LLAMA_8B), machine(gpu(24))) == Placement((32,), output_on_gpu=True)


def test_as_many_layers_as_fit_and_not_one_more() -> None:
    spec, target = typed(LLAMA_70B), machine(gpu(24))
    best = placement(spec, target)
    assert 0 < best.gpu_layers[0] < 80
    more = Placement((best.gpu_layers[0] + 1,), output_on_gpu=True)
    held = placed_memory(spec, EIGHT_K, target, more, available=room(target))
    assert not held[1].fits


def test_experts_stay_in_ram_as_few_as_need_be() -> None:
    spec, target = typed(QWEN_MOE), machine(gpu(12))
    best = placement(spec, target)
    assert best.gpu_layers == (48,)
    assert 0 < best.experts_in_ram < 48
    fewer = Placement((48,), output_on_gpu=True, experts_in_ram=best.experts_in_ram - 1)
    assert not placed_memory(spec, EIGHT_K, target, fewer, available=room(target))[1].fits


def test_layers_leave_the_gpu_when_it_has_no_room_for_all_without_experts() -> None:
    spec, target = typed(GPT_OSS), machine(gpu(2.4), ram_gib=96)
    best = placement(spec, target)
    assert 0 < best.gpu_layers[0] < 36


def test_a_gpu_too_small_for_a_layer_is_left_alone() -> None:
    assert not placement(typed(LLAMA_70B), machine(gpu(1))).on_gpu


def test_a_gpu_slower_than_the_processor_is_left_alone() -> None:
    best = found(typed(LLAMA_8B), machine(gpu(24, gb_per_s=20), gb_per_s=80))
    assert best is not None
    assert not best.placement.on_gpu
    assert best.why == "everything on the processor, which is faster here"


def test_what_fits_nowhere_has_no_placement() -> None:
    assert found(typed(LLAMA_70B), machine(gpu(8), ram_gib=16)) is None


def test_a_gpu_can_hold_what_ram_cannot() -> None:
    target = machine(gpu(48), ram_gib=4)
    assert memory(typed(LLAMA_70B), EIGHT_K, ()).total_bytes > 4 * GIB
    assert placement(typed(LLAMA_70B), target).gpu_layers == (80,)


def test_without_gpus_the_processor_does_it() -> None:
    best = found(typed(LLAMA_8B), machine())
    assert best is not None
    assert best.placement == Placement(())
    assert len(best.memory) == 1


# --- several GPUs ---------------------------------------------------------------------------------------


def test_one_gpu_beats_two_when_it_has_room() -> None:
    assert placement(typed(LLAMA_8B), machine(gpu(24), gpu(24))).gpu_layers == (32, 0)


def test_the_faster_of_two_is_taken() -> None:
    assert placement(typed(LLAMA_8B), machine(gpu(24, 300), gpu(24, 900))).gpu_layers == (0, 32)


def test_like_gpus_share_evenly() -> None:
    first, second = placement(typed(LLAMA_70B), machine(gpu(24), gpu(24))).gpu_layers
    assert first + second == 80
    assert abs(first - second) <= 4


@pytest.mark.parametrize("faster", [0, 1])
def test_the_faster_gpu_is_filled_first(faster: int) -> None:
    speeds = [300, 300]
    speeds[faster] = 900
    best = found(typed(LLAMA_70B), machine(gpu(24, speeds[0]), gpu(32, speeds[1])))
    assert best is not None
    counts = best.placement.gpu_layers
    assert sum(counts) == 80
    left = [m.available_bytes - m.total_bytes for m in best.memory[1:]]
    assert left[faster] < 0.7 * GIB < left[1 - faster]


def test_two_fast_gpus_beat_one_large_slow_one() -> None:
    best = placement(typed(QWEN_MOE), machine(gpu(12, 900), gpu(12, 900), gpu(24, 300)))
    assert best.gpu_layers[2] == 0
    assert sum(best.gpu_layers) == 48


def test_gpus_and_ram_together() -> None:
    spec, target = typed(LLAMA_70B), machine(gpu(12), gpu(12))
    counts = placement(spec, target).gpu_layers
    assert all(counts)
    assert sum(counts) < 80


def test_experts_in_ram_with_two_gpus() -> None:
    spec, target = typed(GPT_OSS), machine(gpu(16), gpu(16))
    best = placement(spec, target)
    assert sum(best.gpu_layers) == 36
    assert 0 < best.experts_in_ram < 36


# --- memory that is shared ------------------------------------------------------------------------------


def test_a_shared_memory_is_counted_once() -> None:
    # 32 GiB in all, of which the GPU may take 24: 18 GiB of weights fit, twice 18 would not
    target = machine(gpu(24, unified=True, backend=Backend.METAL), ram_gib=32)
    assert placement(typed(QWEN_MOE), target).gpu_layers == (48,)


def test_what_a_gpu_may_not_take_of_a_shared_memory_stays_with_the_host() -> None:
    target = machine(gpu(12, unified=True, backend=Backend.METAL), ram_gib=32)
    best = placement(typed(QWEN_MOE), target)
    assert best.experts_in_ram or sum(best.gpu_layers) < 48


def test_a_shared_memory_too_small_for_both_holds_nothing() -> None:
    target = machine(gpu(16, unified=True, backend=Backend.METAL), ram_gib=16)
    assert found(typed(QWEN_MOE), target) is None


# --- how it is said -------------------------------------------------------------------------------------


def test_why_says_how_much_more_all_would_need() -> None:
    best = found(typed(LLAMA_70B), machine(gpu(24)))
    assert best is not None
    layers = best.placement.gpu_layers[0]
    assert best.why.startswith(f"{layers} of 80 layers on the GPU; everything there would need ")
    assert best.why.endswith(" GiB more")


def test_why_names_each_gpu() -> None:
    best = found(typed(LLAMA_70B), machine(gpu(24), gpu(24)))
    assert best is not None
    first, second = best.placement.gpu_layers
    assert best.why == f"{first} + {second} of 80 layers on GPUs 0 and 1"


# --- context --------------------------------------------------------------------------------------------


def test_the_largest_context_fits_and_a_step_more_does_not() -> None:
    spec, target = typed(LLAMA_8B), machine(gpu(8))
    most = max_context_tokens_placed(spec, EIGHT_K, target, room(target))
    assert placement(spec, target, Settings(context_tokens=most)).gpu_layers == (32,)
    assert placement(spec, target, Settings(context_tokens=most + 256)).gpu_layers != (32,)


def test_a_context_can_be_all_that_the_model_was_trained_for() -> None:
    target = machine(gpu(80))
    assert max_context_tokens_placed(typed(LLAMA_8B), EIGHT_K, target, room(target)) == 131072


def test_no_context_fits_where_the_model_does_not() -> None:
    target = machine(gpu(4), ram_gib=8)
    assert max_context_tokens_placed(typed(LLAMA_70B), EIGHT_K, target, room(target)) == 0


# --- arguments ------------------------------------------------------------------------------------------


def llama_cpp(
    placement: Placement, target: Target, spec: ModelSpec | None = None, settings: Settings = EIGHT_K
) -> str:
    return " ".join(arguments(placement, target, spec or typed(LLAMA_8B), settings, "llama.cpp"))


def test_the_output_counts_as_a_layer() -> None:
    assert llama_cpp(Placement((19,), output_on_gpu=True), machine(gpu(8))) == "-ngl 20 -c 8192 -np 1"


def test_layers_that_predict_further_tokens_count_too() -> None:
    spec = tiny_llama(layers=4)
    with_draft = ModelSpec(
        **{f: getattr(spec, f) for f in spec.__slots__ if f != "hyper"},
        hyper={**spec.hyper, "nextn_predict_layers": 1},
    )
    assert llama_cpp(Placement((4,), output_on_gpu=True), machine(gpu(8)), with_draft).startswith("-ngl 6 ")


def test_one_of_several_gpus_is_named() -> None:
    given = llama_cpp(Placement((0, 32), output_on_gpu=True), machine(gpu(8), gpu(24)))
    assert given == "-ngl 33 -sm none -mg 1 -c 8192 -np 1"


def test_shares_are_whole_layers_with_the_output_on_the_last_gpu() -> None:
    given = llama_cpp(Placement((20, 12), output_on_gpu=True), machine(gpu(8), gpu(24)))
    assert given == "-ngl 33 -sm layer -ts 20,13 -c 8192 -np 1"


@pytest.mark.parametrize("counts", [(1, 31), (20, 12), (31, 1), (10, 9), (7, 11, 14), (3, 1, 2)])
def test_llama_cpps_rule_gives_each_gpu_the_layers_it_is_to_have(counts: tuple[int, ...]) -> None:
    target = machine(*(gpu(24) for _ in counts))
    given = arguments(Placement(counts, output_on_gpu=True), target, typed(LLAMA_8B), EIGHT_K)
    offloaded = int(given[given.index("-ngl") + 1])
    shares = [float(share) for share in given[given.index("-ts") + 1].split(",")]
    ends = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
    owners = [next(g for g, end in enumerate(ends) if end > i / offloaded) for i in range(offloaded)]
    assert tuple(owners.count(g) - (g == len(counts) - 1) for g in range(len(counts))) == counts


def test_gpus_that_are_not_used_are_not_given() -> None:
    target = machine(gpu(8), gpu(8), gpu(8, backend=Backend.VULKAN))
    given = llama_cpp(Placement((20, 0, 12), output_on_gpu=True), target)
    assert given.startswith("-ngl 33 --device CUDA0,Vulkan0 -sm layer -ts 20,13 ")


def test_experts_and_settings_are_said() -> None:
    settings = Settings(
        context_tokens=4096,
        parallel=2,
        kv_type_k=GgmlType.Q8_0,
        kv_type_v=GgmlType.Q8_0,
        ubatch_tokens=256,
        mmap=False,
    )
    split = Placement((48,), output_on_gpu=True, experts_in_ram=30)
    assert llama_cpp(split, machine(gpu(8)), typed(QWEN_MOE), settings) == (
        "-ngl 49 --n-cpu-moe 30 -c 8192 -np 2 -ub 256 -ctk q8_0 -fa on -ctv q8_0 --load-mode none"
    )


def test_the_processor_alone_is_told_to_leave_gpus_alone() -> None:
    assert llama_cpp(Placement((0,)), machine(gpu(8))).startswith("--device none ")
    assert llama_cpp(Placement(()), machine()) == "-c 8192 -np 1"


def test_ollama_counts_as_llama_cpp_does() -> None:
    given = arguments(
        Placement((19,), output_on_gpu=True), machine(gpu(8)), typed(LLAMA_8B), EIGHT_K, "ollama"
    )
    assert given == ("PARAMETER num_gpu 20", "PARAMETER num_ctx 8192")


def test_vllm_splits_over_gpus_and_leaves_the_rest_in_ram() -> None:
    target = machine(gpu(24), gpu(24))
    both = Placement((32, 32), output_on_gpu=True, tensor_parallel=True)
    given = " ".join(arguments(both, target, typed(LLAMA_8B), EIGHT_K, "vllm"))
    assert given.startswith("--tensor-parallel-size 2 --gpu-memory-utilization 0.95 --max-model-len 8192")
    part = arguments(Placement((16, 8), output_on_gpu=True), target, typed(LLAMA_8B), EIGHT_K, "vllm")
    assert part[:2] == ("--pipeline-parallel-size", "2")
    assert part[-2:] == ("--cpu-offload-gb", "1")  # 8 of 32 layers, half a GiB for each GPU to find in RAM


def test_transformers_is_told_how_much_each_device_may_hold() -> None:
    given = arguments(
        Placement((16,), output_on_gpu=True), machine(gpu(8)), typed(LLAMA_8B), EIGHT_K, "transformers"
    )
    assert given[0] == 'device_map="auto"'
    assert given[1].startswith('max_memory={0: "')


@pytest.mark.parametrize("engine", ["ollama", "transformers"])
def test_engines_without_expert_placement_say_so(engine: str) -> None:
    split = Placement((48,), output_on_gpu=True, experts_in_ram=30)
    with pytest.raises(NotSupported, match="experts"):
        arguments(split, machine(gpu(8)), typed(QWEN_MOE), EIGHT_K, engine)
