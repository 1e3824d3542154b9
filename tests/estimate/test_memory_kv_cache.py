"""KV cache per kind of layer, worked by hand."""

from __future__ import annotations

import pytest

from weigh.engines.engine import Settings
from weigh.estimate.kv_cache import kv_cache_bytes
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind
from weigh.units import MIB

LLAMA_8B = (Mixer(MixerKind.FULL, tuple(range(32)), query_heads=32, kv_heads=8, key_dim=128, value_dim=128),)
WINDOWED = Mixer(
    MixerKind.SLIDING, (0, 1), query_heads=8, kv_heads=4, key_dim=256, value_dim=256, window=1024
)
LATENT = Mixer(MixerKind.LATENT, (0,), query_heads=16, kv_heads=1, key_dim=576, value_dim=512)
STATE = Mixer(MixerKind.RECURRENT, (0, 1, 2), state_elements=1000)


def test_full_layers_hold_keys_and_values_of_every_token() -> None:
    # 32 layers x 2 x 8 heads x 128 x 2 bytes = 128 KiB a token
    assert kv_cache_bytes(LLAMA_8B, Settings(context_tokens=4096)) == 512 * MIB


def test_formats_of_keys_and_values_count_apart() -> None:
    settings = Settings(context_tokens=4096, kv_type_k=GgmlType.Q8_0)
    # Q8_0: 34 bytes for 32 values, so keys take 34/64 of their F16 size
    assert kv_cache_bytes(LLAMA_8B, settings) == 256 * MIB * 34 // 64 + 256 * MIB


@pytest.mark.parametrize(("asked", "held"), [(1, 256), (256, 256), (4000, 4096), (4097, 4352)])
def test_room_comes_in_steps_of_256_tokens(asked: int, held: int) -> None:
    assert kv_cache_bytes(LLAMA_8B, Settings(context_tokens=asked)) == held * 128 * 1024


def test_every_sequence_has_a_cache_of_its_own() -> None:
    one, four = Settings(context_tokens=300), Settings(context_tokens=300, parallel=4)
    assert kv_cache_bytes(LLAMA_8B, four) == 4 * kv_cache_bytes(LLAMA_8B, one)


@pytest.mark.parametrize(
    ("context", "ubatch", "held"),
    [(8192, 512, 1536), (8192, 100, 1280), (1024, 512, 1024)],
)
def test_sliding_layers_hold_window_and_micro_batch(context: int, ubatch: int, held: int) -> None:
    settings = Settings(context_tokens=context, ubatch_tokens=ubatch)
    assert kv_cache_bytes((WINDOWED,), settings) == 2 * held * 2 * 4 * 256 * 2


def test_latent_layers_hold_the_key_alone() -> None:
    assert kv_cache_bytes((LATENT,), Settings(context_tokens=1024)) == 1024 * 576 * 2


def test_states_do_not_grow_with_the_context() -> None:
    short, long = Settings(context_tokens=512, parallel=2), Settings(context_tokens=65536, parallel=2)
    assert kv_cache_bytes((STATE,), short) == kv_cache_bytes((STATE,), long) == 2 * 3 * 4000
