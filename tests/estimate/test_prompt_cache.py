"""A prompt whose beginning is cached, and the RAM of prompts kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.calibrations import CALIBRATION
from weigh.bench import probes
from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.estimate.prompt_cache import kept_bytes, prompt_cache
from weigh.estimate.setup import weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload, prefill_s
from weigh.estimate.work import work
from weigh.machine.devices import target_named
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind

SPEC = probes.dense(
    "s", GgmlType.F16, layers=4, hidden=512, feed_forward=1024, heads=8, kv_heads=2, head_dim=64, vocab=2048
)
TOKEN_BYTES = 4 * 2 * 2 * 64 * 2  # layers x (key and value) x KV heads x width x F16
HERE = Site(target_named("CPU only, 64GB"), CALIBRATION)


def test_only_the_rest_is_prefilled_behind_what_is_cached() -> None:
    setup = weigh(SPEC, HERE, Settings(8192), Workload(prompt_tokens=4000))
    found = prompt_cache(setup, 3000)
    assert found.ttft_s is not None
    assert found.uncached_ttft_s is not None
    assert found.ttft_s.value == pytest.approx(
        prefill_s(work(SPEC), CALIBRATION, tokens=1000, depth_tokens=3000)
    )
    assert found.uncached_ttft_s.value == pytest.approx(prefill_s(work(SPEC), CALIBRATION, tokens=4000))
    assert found.ttft_s.value < found.uncached_ttft_s.value / 2


def test_a_kept_prompt_takes_keys_and_values_of_its_tokens() -> None:
    setup = weigh(SPEC, HERE, Settings(8192), Workload(prompt_tokens=4000))
    found = prompt_cache(setup, 1)
    assert found.kept_bytes == 4000 * TOKEN_BYTES
    assert found.kept_prompts == (8 << 30) // (4000 * TOKEN_BYTES)


def test_a_quantized_cache_keeps_more_prompts() -> None:
    plain = kept_bytes(SPEC, Settings(8192), 4000)
    q8 = kept_bytes(SPEC, Settings(8192, kv_type_k=GgmlType.Q8_0, kv_type_v=GgmlType.Q8_0), 4000)
    assert q8 * 32 == plain * 17  # 34 bytes for 32 values instead of 64


def test_sliding_layers_keep_their_window_and_recurrent_ones_a_state() -> None:
    mixed = replace(
        SPEC,
        mixers=(
            Mixer(MixerKind.SLIDING, (0, 1), 8, 2, 64, 64, window=256),
            Mixer(MixerKind.RECURRENT, (2, 3), state_elements=1000),
        ),
    )
    # 256 of window and 512 of micro-batch: 768 cells, in two layers; a state of 4,000 bytes in the other two
    assert kept_bytes(mixed, Settings(8192), 4000) == 2 * 768 * (2 * 2 * 64 * 2) + 2 * 4000


def test_something_of_the_prompt_must_be_left() -> None:
    setup = weigh(SPEC, HERE, Settings(8192), Workload(prompt_tokens=4000))
    with pytest.raises(BadInput, match="leave nothing"):
        prompt_cache(setup, 4000)
