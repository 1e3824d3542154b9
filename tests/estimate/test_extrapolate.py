"""From runs of short models to the whole one: the arithmetic, and how sure it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.calibrations import CALIBRATION
from tests.tiny_models import tiny_llama
from weigh.engines.engine import Settings
from weigh.estimate.extrapolate import (
    NORMAL_80,
    Parts,
    Run,
    decode_parts,
    extrapolate,
    part_names,
    prefill_parts,
)
from weigh.estimate.speed import Workload, decode_step_s, prefill_s
from weigh.estimate.work import work
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.synth import shortened

SETTINGS = Settings()
WORKLOAD = Workload(prompt_tokens=256, output_tokens=32, depth_tokens=1024)
NO_NOISE = 1e-6

# dense; dense before experts; sliding and full; attention and recurrence; number formats that differ by depth
MODELS = (
    "meta-llama/Llama-3.2-1B-Instruct",
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct",
    "google/gemma-3-270m",
    "Qwen/Qwen3.5-0.8B",
)


def model(name: str, quantization: str = "Q4_K_M") -> ModelSpec:
    return quantize(catalog().by_id[name].spec(), quantization)


def decode(spec: ModelSpec) -> Parts:
    return decode_parts(spec, CALIBRATION, WORKLOAD, SETTINGS)


def prefill(spec: ModelSpec) -> Parts:
    return prefill_parts(spec, CALIBRATION, WORKLOAD, SETTINGS)


def seconds(parts: Parts, factors: dict[str, float]) -> float:
    return sum(s * factors.get(name, 1.0) for name, s in parts.items())


@pytest.mark.parametrize("name", MODELS)
def test_parts_add_up_to_the_formula(name: str) -> None:
    spec = model(name)
    step_s = decode_step_s(
        work(spec), CALIBRATION, cached_tokens=1024 + 32 / 2, sequences=1, settings=SETTINGS
    )
    assert sum(decode(spec).values()) == pytest.approx(step_s)
    prompt_s = prefill_s(work(spec), CALIBRATION, tokens=256, depth_tokens=1024, settings=SETTINGS)
    assert sum(prefill(spec).values()) == pytest.approx(prompt_s)


@pytest.mark.parametrize("parts_of", [decode, prefill])
@pytest.mark.parametrize("name", MODELS)
def test_times_that_follow_the_formula_give_the_formula(
    name: str, parts_of: Callable[[ModelSpec], Parts]
) -> None:
    """Also on a machine that is 1.7 times as slow in everything."""
    spec = model(name)
    parts = [parts_of(shortened(spec, layers)) for layers in (4, 8)]
    whole = parts_of(spec)
    for factor in (1.0, 1.7):
        runs = [Run(one, factor * sum(one.values()), NO_NOISE) for one in parts]
        found = extrapolate(runs, whole)
        assert found.seconds == pytest.approx(factor * sum(whole.values()), rel=0.01 if factor > 1 else 1e-9)


def test_two_runs_that_differ_in_layers_tell_what_is_fixed_from_a_layer() -> None:
    """What is fixed takes three times as long as said, a layer half as long again."""
    spec = tiny_llama(layers=32)
    parts = [decode(shortened(spec, layers)) for layers in (4, 12)]
    (layer,) = (name for name in part_names(spec))
    factors = dict.fromkeys((name for name in parts[0] if name.startswith(layer)), 1.5)
    factors = {"fixed": 3.0, "output": 1.5, **factors}
    runs = [Run(one, seconds(one, factors), NO_NOISE) for one in parts]
    whole = decode(spec)
    found = extrapolate(runs, whole)
    assert found.seconds == pytest.approx(seconds(whole, factors), rel=1e-3)
    one = extrapolate(runs[:1], whole)  # which could be either
    assert abs(one.seconds / seconds(whole, factors) - 1) > 0.02
    assert one.error > 10 * found.error


def test_the_error_shrinks_with_less_noise_and_grows_with_the_distance() -> None:
    spec = tiny_llama(layers=64)

    def error(noise: float, *layers: int, of: int = 64) -> float:
        runs = [Run(p, sum(p.values()), noise) for p in (decode(shortened(spec, n)) for n in layers)]
        return extrapolate(runs, decode(shortened(spec, of))).error

    assert error(0.01, 4, 8) < error(0.03, 4, 8) < error(0.10, 4, 8)
    assert error(0.03, 4, 8, of=8) < error(0.03, 4, 8, of=16) < error(0.03, 4, 8, of=64)
    assert error(0.03, 4, 16) < error(0.03, 4, 8)  # a longer lever
    assert error(0.03, 4, 8, 4, 8) < error(0.03, 4, 8)  # more runs


def test_kinds_that_were_not_run_stay_as_unsure_as_they_were() -> None:
    """Only the dense layers before the experts were run: of experts the common error is learned, no more."""
    spec = model("deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct")
    whole, dense_only = decode(spec), decode(shortened(spec, 1))
    experts = next(name for name in whole if "experts" in name)
    assert experts not in dense_only
    nothing = extrapolate([], whole)
    some = extrapolate([Run(dense_only, sum(dense_only.values()), 0.01)], whole)
    all_of_it = extrapolate([Run(whole, sum(whole.values()), 0.01)], whole)
    assert nothing.seconds == pytest.approx(sum(whole.values()))
    assert some.seconds == pytest.approx(nothing.seconds, rel=0.05)
    assert all_of_it.error < 0.02 < some.error < nothing.error
    alone = {experts: whole[experts]}
    assert extrapolate([Run({"another kind": 1.0}, 1.0, 0.01)], alone).error > 0.1


def test_what_was_run_itself_is_given_back() -> None:
    whole = decode(tiny_llama(layers=8))
    found = extrapolate([Run(whole, 2.5 * sum(whole.values()), NO_NOISE)], whole)
    assert found.seconds == pytest.approx(2.5 * sum(whole.values()), rel=1e-6)
    assert found.error < 1e-5


def test_times_out_of_reason_give_no_time_below_nought() -> None:
    """The longer model took no time at all: more layers would take less than none."""
    spec = tiny_llama(layers=64)
    short, longer = (decode(shortened(spec, layers)) for layers in (4, 8))
    runs = [Run(short, 10 * sum(short.values()), 0.01), Run(longer, 1e-6, 0.01)]
    assert extrapolate(runs, decode(spec)).seconds > 0


def test_intervals_hold_four_in_five() -> None:
    """Factors and noise drawn as assumed: shared by all, own to each, and of each run."""
    draw = random.Random(1)
    spec = model("google/gemma-3-270m")
    parts, whole = [decode(shortened(spec, layers)) for layers in (6, 12)], decode(spec)
    inside = 0
    for _ in range(400):
        shared = draw.gauss(0, 0.3)
        factors = {name: max(0.1, 1 + shared + draw.gauss(0, 0.15)) for name in whole}
        runs = [Run(one, seconds(one, factors) * (1 + draw.gauss(0, 0.03)), 0.03) for one in parts]
        found = extrapolate(runs, whole)
        low, high = (found.seconds * (1 + sign * NORMAL_80 * found.error) for sign in (-1, 1))
        inside += low <= seconds(whole, factors) <= high
    assert 0.72 < inside / 400 < 0.92


def test_a_model_and_its_shortened_ones_call_the_same_kinds_alike() -> None:
    for name in MODELS:
        spec = model(name)
        names = part_names(spec)
        assert sum(map(len, names.values())) == spec.layers
        assert set(part_names(shortened(spec, 4))) <= set(names)
        assert set(decode(shortened(spec, 4))) <= set(decode(spec))
    mixed = part_names(model("google/gemma-3-270m"))
    assert len(mixed) == 2
    assert sorted(map(len, mixed.values()))[0] < 6  # one layer in six sees everything
    assert len(part_names(replace(tiny_llama(layers=3)))) == 1
