"""What a quantized KV cache saves, gains and costs."""

from __future__ import annotations

import pytest

from tests.calibrations import CALIBRATION
from weigh.engines.engine import Settings
from weigh.estimate.kv_types import kv_choice, kv_choices, told_apart
from weigh.estimate.setup import weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.machine.devices import target_named
from weigh.model.ggml_types import GgmlType
from weigh.model.resolve import resolve

SPEC = resolve("llama-3.1-8b:Q4_K_M")
F16_BYTES = 8192 * 32 * 2 * 8 * 128 * 2  # tokens x layers x (key and value) x KV heads x width x F16
CARD = Site(target_named("RTX 3060"))


def test_bytes_saved_are_those_of_the_formats_blocks() -> None:
    found = {c.kv_type: c for c in kv_choices(SPEC, CARD, Settings(8192), Workload())}
    assert found[GgmlType.F16].saved_bytes == 0
    assert found[GgmlType.Q8_0].saved_bytes == F16_BYTES - F16_BYTES * 34 // 64
    assert found[GgmlType.Q4_0].saved_bytes == F16_BYTES - F16_BYTES * 18 // 64


def test_context_gained_is_that_of_the_setups() -> None:
    plain, q8, *_ = kv_choices(SPEC, CARD, Settings(8192), Workload(), (GgmlType.F16, GgmlType.Q8_0))
    assert plain.gained_tokens == 0
    assert q8.gained_tokens == q8.setup.max_context_tokens - plain.setup.max_context_tokens
    assert q8.gained_tokens > plain.setup.max_context_tokens / 2


def test_speed_is_that_behind_a_full_context() -> None:
    plain, q4 = kv_choices(SPEC, CARD, Settings(32_768), Workload(), (GgmlType.F16, GgmlType.Q4_0))
    assert plain.depth_tokens == 32_768 - 512 - 128
    said = weigh(SPEC, CARD, Settings(32_768), Workload(depth_tokens=plain.depth_tokens)).speed
    assert said is not None
    assert plain.decode_tokens_per_s == said.decode_tokens_per_s
    assert q4.decode_tokens_per_s is not None
    assert q4.decode_tokens_per_s.value > said.decode_tokens_per_s.value  # fewer bytes to read
    assert told_apart((plain, q4))


def test_one_setups_own_format() -> None:
    settings = Settings(8192, kv_type_k=GgmlType.Q8_0, kv_type_v=GgmlType.Q8_0)
    assert kv_choice(weigh(SPEC, CARD, settings)).saved_bytes == F16_BYTES - F16_BYTES * 34 // 64
    assert kv_choice(weigh(SPEC, CARD, Settings(8192))).saved_bytes == 0


@pytest.mark.parametrize("parallel", [1, 4])
def test_every_sequence_has_a_cache(parallel: int) -> None:
    site = Site(target_named("CPU only, 64GB"), CALIBRATION)
    settings = Settings(8192, parallel, GgmlType.Q4_0, GgmlType.Q4_0)
    assert kv_choice(weigh(SPEC, site, settings)).saved_bytes == parallel * (F16_BYTES - F16_BYTES * 18 // 64)
