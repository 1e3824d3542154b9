"""Drafts priced: rounds worked by hand over steps of the same operations model, and memory of both models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.calibrations import CALIBRATION
from weigh.bench import probes
from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.estimate.memory import PROCESS_BYTES, PROGRAM_BYTES
from weigh.estimate.setup import weigh
from weigh.estimate.site import Site
from weigh.estimate.speculative import (
    GRID,
    Method,
    SpeculativeEstimate,
    accepted_tokens,
    further_bytes,
    further_layers,
    speculative,
    verify_s,
)
from weigh.estimate.speed import Workload, decode_step_s
from weigh.estimate.work import work
from weigh.machine.devices import target_named
from weigh.model.ggml_types import GgmlType
from weigh.model.resolve import resolve
from weigh.model.spec import ModelSpec

TARGET = probes.dense(
    "t",
    GgmlType.F16,
    layers=10,
    hidden=1000,
    feed_forward=4000,
    heads=8,
    kv_heads=2,
    head_dim=125,
    vocab=2048,
)
DRAFT = replace(
    probes.dense(
        "d",
        GgmlType.F16,
        layers=2,
        hidden=256,
        feed_forward=512,
        heads=4,
        kv_heads=2,
        head_dim=64,
        vocab=2048,
    ),
    name="d",
)
HERE = Site(target_named("CPU only, 64GB"), CALIBRATION)
SETTINGS, LOAD = Settings(), Workload(prompt_tokens=512, output_tokens=128, depth_tokens=1000)
DEPTH = 1000 + 128 / 2  # the mean over the output


def priced(method: Method = Method.MODEL, **asked: object) -> SpeculativeEstimate:
    draft = {"draft": DRAFT} if method is Method.MODEL else {}
    return speculative(TARGET, HERE, SETTINGS, LOAD, method, **draft, **asked)  # type: ignore[arg-type]


def test_tokens_of_a_round() -> None:
    assert accepted_tokens(0.0, 4) == 1  # the model's own token is always there
    assert accepted_tokens(1.0, 4) == 5
    assert accepted_tokens(0.5, 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125)


def test_a_round_is_n_draft_steps_and_one_step_of_n_plus_one_tokens() -> None:
    (found,) = priced(acceptance=0.5, draft_tokens=3).rounds
    draft_step = decode_step_s(work(DRAFT), CALIBRATION, cached_tokens=DEPTH)
    check = decode_step_s(work(TARGET), CALIBRATION, cached_tokens=DEPTH, sequences=4)
    assert found.draft_s.value == pytest.approx(3 * draft_step)
    assert found.verify_s.value == pytest.approx(check)
    assert found.decode_tokens_per_s.value == pytest.approx(1.875 / (3 * draft_step + check))
    plain = decode_step_s(work(TARGET), CALIBRATION, cached_tokens=DEPTH)
    assert found.speedup.value == pytest.approx(1.875 * plain / (3 * draft_step + check))
    assert found.speedup.low < found.speedup.value < found.speedup.high


def test_nothing_accepted_is_slower_than_no_draft() -> None:
    (found,) = priced(acceptance=0.0, draft_tokens=4).rounds
    assert found.speedup.value < 1


def test_the_best_number_of_drafts_is_taken() -> None:
    (best,) = priced(acceptance=0.7).rounds
    for n in range(1, 17):
        (other,) = priced(acceptance=0.7, draft_tokens=n).rounds
        assert other.decode_tokens_per_s.value <= best.decode_tokens_per_s.value + 1e-9
        assert (n == best.draft_tokens) == (other.decode_tokens_per_s == best.decode_tokens_per_s)


def test_without_a_rate_there_is_a_grid() -> None:
    found = priced().rounds
    assert tuple(r.acceptance for r in found) == GRID
    speeds = [r.decode_tokens_per_s.value for r in found]
    assert speeds == sorted(speeds)
    assert [r.draft_tokens for r in found] == sorted(r.draft_tokens for r in found)


def test_looking_up_takes_no_time() -> None:
    (found,) = priced(Method.NGRAM, acceptance=0.5, draft_tokens=3).rounds
    check = decode_step_s(work(TARGET), CALIBRATION, cached_tokens=DEPTH, sequences=4)
    assert found.draft_s.value == 0
    assert found.decode_tokens_per_s.value == pytest.approx(1.875 / check)


def test_both_models_lie_in_memory_but_one_process() -> None:
    found = priced(acceptance=0.5, draft_tokens=3)
    alone, draft = (weigh(spec, HERE, SETTINGS, LOAD).memory for spec in (TARGET, DRAFT))
    logits = 4 * 2048 * 3  # a row of the vocabulary for each drafted token
    (both,) = found.devices
    assert both.kv_cache_bytes == alone.kv_cache_bytes + draft.kv_cache_bytes
    assert both.weights_bytes == alone.weights_bytes + draft.weights_bytes
    assert both.total_bytes == (
        alone.total_bytes + draft.total_bytes - PROCESS_BYTES - PROGRAM_BYTES + logits
    )
    assert found.draft_bytes == both.total_bytes - alone.total_bytes


def test_the_drafts_cache_stays_f16() -> None:
    quantized = replace(SETTINGS, kv_type_k=GgmlType.Q8_0, kv_type_v=GgmlType.Q8_0)
    found = speculative(TARGET, HERE, quantized, LOAD, Method.MODEL, draft=DRAFT)
    assert found.draft is not None
    assert found.draft.settings.kv_type_k is GgmlType.F16
    assert found.target.settings.kv_type_k is GgmlType.Q8_0


def test_two_models_that_fit_alone_may_not_fit_together() -> None:
    spec, draft = resolve("llama-3.1-8b:Q4_K_M"), resolve("llama-3.2-3b:Q4_K_M")
    small = Site(target_named("CPU only, 8GB"))
    assert weigh(spec, small, SETTINGS).fits
    assert weigh(draft, small, SETTINGS).fits
    assert not speculative(spec, small, SETTINGS, Workload(), Method.MODEL, draft=draft).fits


def test_on_a_card_the_cache_is_read_once_for_all_drafts() -> None:
    setup = weigh(
        resolve("llama-3.1-8b:Q4_K_M"),
        Site(target_named("RTX 3090")),
        Settings(32768),
        Workload(512, 128, 30000),
    )
    assert setup.speed is not None
    plain = 1 / setup.speed.decode_tokens_per_s.value
    assert plain < verify_s(setup, 2).value < 1.2 * plain
    apart = setup.at(replace(setup.workload, parallel=4))  # four sequences read four caches
    assert apart is not None
    assert verify_s(setup, 4).value < 0.8 / apart.decode_tokens_per_s.value


def test_arguments_are_those_of_todays_engine() -> None:
    found = speculative(
        resolve("llama-3.1-8b:Q4_K_M"),
        Site(target_named("RTX 3090")),
        SETTINGS,
        Workload(),
        Method.MODEL,
        draft=resolve("llama-3.2-1b:Q8_0"),
        acceptance=0.8,
        draft_tokens=5,
    )
    said = " ".join(found.arguments)
    assert said == (
        "--spec-type draft-simple -md Llama-3.2-1B-Instruct-Q8_0.gguf -ngld 17 --spec-draft-n-max 5"
    )


def test_a_model_of_another_vocabulary_cannot_draft() -> None:
    with pytest.raises(BadInput, match="vocabularies of 151,936 and 128,256"):
        speculative(
            resolve("llama-3.1-8b:Q4_K_M"),
            HERE,
            SETTINGS,
            LOAD,
            Method.MODEL,
            draft=resolve("qwen2.5-0.5b:Q4_K_M"),
        )


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_is_a_probability(rate: float) -> None:
    with pytest.raises(BadInput, match="no probability"):
        priced(acceptance=rate)


# --- layers for further tokens --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mtp() -> ModelSpec:
    return resolve("glm-4.5-air:Q4_K_M")


def test_a_further_layer_follows_the_recipe_of_the_others(mtp: ModelSpec) -> None:
    head = further_layers(mtp)
    types = {t.name: t.type for t in mtp.tensors}
    assert head.layers == 1
    for tensor in head.tensors:
        assert tensor.layers in ((), (0,))
        if tensor.name in types and len(tensor.shape) > 1:
            assert tensor.type in {t.type for t in mtp.tensors if t.name == tensor.name}
    assert any("eh_proj" in t.name for t in head.tensors)
    assert any(t.name == "output.weight" for t in head.tensors)


def test_it_adds_its_weights_and_a_cache_of_one_layer(mtp: ModelSpec) -> None:
    site = Site(target_named("CPU only, 256GB"))
    found = speculative(mtp, site, SETTINGS, Workload(), Method.MTP, acceptance=0.8, draft_tokens=1)
    alone = weigh(mtp, site, SETTINGS).memory
    (both,) = found.devices
    assert both.weights_bytes - alone.weights_bytes == further_bytes(mtp)
    # 128 experts of three matrices of 4096 x 1408, an embedding and an output of 151,552 words; 4 to 7 bits
    experts, copies = 128 * 3 * 4096 * 1408, 2 * 4096 * 151_552
    assert (experts + copies) * 4 / 8 < further_bytes(mtp) < (experts + copies) * 7 / 8
    assert both.kv_cache_bytes - alone.kv_cache_bytes == 4096 * 2 * 8 * 128 * 2
    assert both.overhead_bytes == alone.overhead_bytes
    assert found.arguments[:2] == ("--spec-type", "draft-mtp")


def test_layers_a_file_already_holds_add_no_weights(mtp: ModelSpec) -> None:
    trunk = resolve("llama-3.1-8b:Q4_K_M")
    held = replace(trunk, hyper={**trunk.hyper, "nextn_predict_layers": 1}, basis="file")
    assert further_bytes(held) == 0
    assert further_layers(held).tensors[-1].layers == (0,)


def test_a_model_without_them_says_so() -> None:
    with pytest.raises(BadInput, match="no layers that predict further tokens"):
        priced(Method.MTP)
