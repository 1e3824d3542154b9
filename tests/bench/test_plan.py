"""Plans of short models: what they hold, and that they keep to their budget."""

from __future__ import annotations

import pytest

from tests.calibrations import CALIBRATION
from weigh.bench.plan import Budget, Plan, layer_counts, plan
from weigh.engines.engine import Settings
from weigh.estimate.extrapolate import layer_kinds
from weigh.estimate.speed import Workload
from weigh.model.gguf_size import file_bytes
from weigh.model.resolve import resolve
from weigh.model.spec import MixerKind, ModelSpec


def planned(name: str, workload: Workload = Workload(), **asked: object) -> tuple[ModelSpec, Plan]:  # noqa: B008
    spec = resolve(name)
    found = plan(spec, CALIBRATION, Settings(context_tokens=1 << 17), workload, **asked)  # type: ignore[arg-type]
    assert found is not None
    return spec, found


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b", "gemma-3-12b", "gpt-oss-120b", "glm-4.5-air"]
)
def test_plans_keep_to_the_budget(name: str) -> None:
    spec, found = planned(name)
    assert found.seconds <= Budget().seconds
    assert sum(file_bytes(short) for short in found.shorts) < found.memory_bytes <= Budget().memory_bytes
    assert all(short.layers < spec.layers for short in found.shorts)
    assert len({short.layers for short in found.shorts}) == len(found.shorts) == 2
    assert found.settings.context_tokens < 1024  # as much as is run, not what was asked for
    assert 0 < found.error < 0.3


def test_a_larger_budget_never_gives_a_worse_plan() -> None:
    _, small = planned("llama-3.1-8b", budget=Budget(8.0, 1 << 30))
    _, large = planned("llama-3.1-8b", budget=Budget(60.0, 4 << 30))
    assert large.error <= small.error
    assert large.workload.prompt_tokens >= small.workload.prompt_tokens


def test_dense_layers_in_front_are_not_all_there_is() -> None:
    _, found = planned("deepseek-v3:Q4_K_M")
    assert any(kind.routed for short in found.shorts for kind in layer_kinds(short))


def test_experts_get_as_many_tokens_each_as_in_the_whole() -> None:
    spec, found = planned("qwen3-235b-a22b")
    kept = found.shorts[0].experts
    assert kept < spec.experts
    assert found.workload.prompt_tokens <= 512 * kept / spec.experts


def test_engines_find_a_cache_and_a_state_where_they_expect_them() -> None:
    for name in ("jamba-v0.1", "qwen3-next-80b", "granite-4.0-h-tiny"):
        spec = resolve(name)
        least = layer_counts(spec)[0]
        kept = [mixer for mixer in spec.mixers if min(mixer.layers) < least]
        assert any(mixer.kind is MixerKind.RECURRENT for mixer in kept)
        assert any(mixer.kind is not MixerKind.RECURRENT for mixer in kept)


def test_a_depth_that_would_take_too_long_is_run_less_deep() -> None:
    _, found = planned("llama-3.1-8b", Workload(depth_tokens=32768))
    assert 0 < found.workload.depth_tokens < 32768


def test_huge_models_are_told_from_one_layer() -> None:
    _, found = planned("llama-3.1-405b:Q4_K_M")
    assert [short.layers for short in found.shorts] == [1]


def test_there_is_no_plan_where_there_is_no_room() -> None:
    spec = resolve("llama-3.1-70b")
    assert plan(spec, CALIBRATION, Settings(), Workload(), budget=Budget(memory_bytes=1 << 20)) is None
