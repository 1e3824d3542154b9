"""Which layers cache what, worked out by hand from published models' hyperparameters."""

from __future__ import annotations

import pytest

from weigh.errors import BadInput
from weigh.model.mixers import mixers
from weigh.model.spec import HyperValue, Mixer, MixerKind

FULL, SLIDING, LATENT, RECURRENT = MixerKind.FULL, MixerKind.SLIDING, MixerKind.LATENT, MixerKind.RECURRENT


def heads(query: int, kv: int | tuple[int, ...], **more: HyperValue) -> dict[str, HyperValue]:
    base: dict[str, HyperValue] = {
        "embedding_length": 4096,
        "attention.head_count": query,
        "attention.head_count_kv": kv,
    }
    return base | {key.replace("__", "."): value for key, value in more.items()}


def sliding_layers(found: tuple[Mixer, ...]) -> tuple[int, ...]:
    return tuple(layer for mixer in found if mixer.kind is SLIDING for layer in mixer.layers)


def test_head_width_is_the_hidden_width_shared_out() -> None:
    assert mixers("llama", heads(32, 8), 32) == (Mixer(FULL, tuple(range(32)), 32, 8, 128, 128),)


def test_stated_head_widths_win() -> None:  # Qwen3-4B: 2560 / 32 would be 80
    hyper = heads(32, 8, attention__key_length=128, attention__value_length=128)
    assert mixers("qwen3", hyper, 1) == (Mixer(FULL, (0,), 32, 8, 128, 128),)


def test_without_kv_heads_every_query_head_has_its_own() -> None:
    hyper = heads(32, 8)
    del hyper["attention.head_count_kv"]
    assert mixers("llama", hyper, 1)[0].kv_heads == 32


@pytest.mark.parametrize(
    ("architecture", "window", "layers", "expected"),
    [
        ("gemma2", {}, 4, (0, 2)),
        ("gemma3", {"attention.sliding_window": 1024}, 8, (0, 1, 2, 3, 4, 6, 7)),
        ("gemma3", {}, 8, ()),
        ("gpt-oss", {"attention.sliding_window": 128}, 4, (0, 2)),
        ("cohere2", {"attention.sliding_window": 4096}, 5, (0, 1, 2, 4)),
        ("cohere2moe", {"attention.sliding_window": 4096}, 5, (1, 2, 3)),
        ("llama4", {}, 4, (0, 1, 2)),
        ("llama4", {"attention.sliding_window": 0}, 4, ()),
        ("olmo2", {}, 4, ()),
        ("olmo2", {"attention.sliding_window": 4096}, 4, (0, 1, 2)),
        ("exaone4", {"attention.sliding_window": 4096}, 30, ()),
        ("phi3", {"attention.sliding_window": 2047}, 4, ()),
        ("qwen2", {"attention.sliding_window": 4096}, 4, ()),
    ],
)
def test_each_architecture_slides_in_its_own_layers(
    architecture: str, window: dict[str, HyperValue], layers: int, expected: tuple[int, ...]
) -> None:
    assert sliding_layers(mixers(architecture, heads(32, 8) | window, layers)) == expected


def test_windows_default_to_the_architectures_own() -> None:
    assert [m.window for m in mixers("gemma2", heads(32, 8), 2)] == [4096, 0]
    assert [m.window for m in mixers("llama4", heads(32, 8, attention__sliding_window=77), 4)] == [8192, 0]


def test_a_pattern_in_the_file_wins() -> None:
    window: dict[str, HyperValue] = {"attention.sliding_window": 512}
    listed = window | {"attention.sliding_window_pattern": (False, True, True)}
    every_third = window | {"attention.sliding_window_pattern": 3}
    assert sliding_layers(mixers("gemma3", heads(32, 8) | listed, 3)) == (1, 2)
    assert sliding_layers(mixers("gemma3", heads(32, 8) | every_third, 6)) == (0, 1, 3, 4)
    with pytest.raises(BadInput, match="has to list the layers of `gemma4`"):
        mixers("gemma4", heads(32, 8) | window, 3)


def test_gemma_4_has_two_head_widths_and_borrowed_caches() -> None:
    hyper = heads(
        8,
        1,
        attention__key_length=512,
        attention__value_length=512,
        attention__key_length_swa=256,
        attention__value_length_swa=256,
        attention__sliding_window=512,
        attention__sliding_window_pattern=(True, False, True, False),
        attention__shared_kv_layers=2,
    )
    assert mixers("gemma4", hyper, 4) == (
        Mixer(SLIDING, (0,), 8, 1, 256, 256, 512),
        Mixer(FULL, (1,), 8, 1, 512, 512),
        Mixer(SLIDING, (2,), 8, 0, 256, 256, 512),
        Mixer(FULL, (3,), 8, 0, 512, 512),
    )


DEEPSEEK = heads(
    128,
    1,
    attention__kv_lora_rank=512,
    attention__key_length=576,
    attention__value_length=512,
    attention__key_length_mla=192,
    attention__value_length_mla=128,
)


def test_deepseek_caches_a_latent_of_512_and_64_rope_values() -> None:
    assert mixers("deepseek2", DEEPSEEK, 2) == (Mixer(LATENT, (0, 1), 128, 1, 576, 512),)


def test_an_indexer_caches_its_keys_too() -> None:
    found = mixers("deepseek32", DEEPSEEK | {"attention.indexer.key_length": 128}, 1)
    assert found[0].key_dim == 576 + 128


def test_files_from_before_the_latent_cache_hold_whole_keys() -> None:
    hyper = heads(
        128, 128, attention__kv_lora_rank=512, attention__key_length=192, attention__value_length=128
    )
    assert mixers("deepseek2", hyper, 1) == (Mixer(FULL, (0,), 128, 128, 192, 128),)


def test_draft_layers_cache_nothing() -> None:
    found = mixers("glm4moe", heads(96, 8, nextn_predict_layers=1), 3)
    assert [(m.layers, m.kv_heads) for m in found] == [((0, 1), 8), ((2,), 0)]


def test_mamba_keeps_three_inputs_and_sixteen_states_a_channel() -> None:
    # mamba-130m: 1536 channels x (4 - 1 taps + 16 states)
    hyper: dict[str, HyperValue] = {
        "embedding_length": 768,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 1536,
        "ssm.state_size": 16,
    }
    assert mixers("mamba", hyper, 2) == (Mixer(RECURRENT, (0, 1), state_elements=1536 * (3 + 16)),)


def test_qwen3_next_attends_in_every_fourth_layer() -> None:
    state: dict[str, HyperValue] = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 4096,
        "ssm.state_size": 128,
        "ssm.group_count": 16,
    }
    found = mixers(
        "qwen3next", heads(16, 2, attention__key_length=256, attention__value_length=256) | state, 5
    )
    # 3 taps of 4096 + 2 x 16 x 128 channels, and 128 x 4096 of state
    assert found[0] == Mixer(RECURRENT, (0, 1, 2, 4), state_elements=3 * 8192 + 128 * 4096)
    assert found[1] == Mixer(FULL, (3,), 16, 2, 256, 256)


def test_layers_without_kv_heads_are_recurrent_in_hybrids() -> None:
    found = mixers("lfm2", heads(32, (0, 8), shortconv__l_cache=3), 2)
    assert found == (Mixer(RECURRENT, (0,), state_elements=2 * 4096), Mixer(FULL, (1,), 32, 8, 128, 128))


def test_nemotron_h_has_layers_of_feed_forward_alone() -> None:
    hyper = heads(32, (0, 0, 8), feed_forward_length=(0, 12288, 0), ssm__conv_kernel=1)
    assert [(m.kind, m.layers, m.kv_heads) for m in mixers("nemotron_h", hyper, 3)] == [
        (RECURRENT, (0,), 0),
        (FULL, (1,), 0),
        (FULL, (2,), 8),
    ]


def test_falcon_h1_has_attention_and_a_state_in_every_layer() -> None:
    hyper = heads(32, 8, ssm__conv_kernel=4, ssm__inner_size=10, ssm__state_size=2, ssm__group_count=1)
    assert mixers("falcon-h1", hyper, 1) == (Mixer(FULL, (0,), 32, 8, 128, 128, state_elements=3 * 14 + 20),)


def test_encoders_cache_nothing() -> None:
    assert mixers("bert", heads(12, 12), 1)[0].kv_heads == 0


@pytest.mark.parametrize("value", ["8", -1, 2.5, float("nan"), 1 << 40])
def test_what_is_no_count_is_refused(value: HyperValue) -> None:
    with pytest.raises(BadInput, match=r"`attention.head_count_kv` is .* where a count is expected"):
        mixers("llama", heads(32, 8) | {"attention.head_count_kv": value}, 1)
