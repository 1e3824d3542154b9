"""Where parameters and bytes are: the parts are the whole, and a token's cost is worked by hand."""

from __future__ import annotations

from dataclasses import replace

from tests.tiny_models import tiny_llama
from weigh.model.breakdown import breakdown, kv_bytes_per_token, window_bytes_per_token
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind


def test_the_parts_are_all_of_the_model() -> None:
    for entry in catalog():
        if entry.unsupported is None:
            spec = entry.spec()
            parts = breakdown(spec)
            assert sum(part.parameters for part in parts) == spec.parameters
            assert sum(part.bytes for part in parts) == spec.tensor_bytes


def test_each_part_holds_its_own_tensors() -> None:
    parts = {part.name: part for part in breakdown(tiny_llama(experts=4, experts_used=2))}
    assert list(parts) == ["embedding", "attention", "experts", "norms"]
    assert parts["embedding"].parameters == 256 * 1024
    assert parts["attention"].parameters == 2 * (2 * 256 * 256 + 2 * 256 * 128)
    assert parts["experts"].parameters == 2 * (3 * 4 * 256 * 512 + 256 * 4)
    assert parts["experts"].types == ("Q4_K", "F32")  # the router is in F32
    assert parts["norms"].parameters == 5 * 256


def test_a_token_costs_keys_and_values_in_every_full_layer() -> None:
    spec = catalog().by_id["meta-llama/Llama-3.1-8B-Instruct"].spec()
    values = 32 * 8 * (128 + 128)
    assert kv_bytes_per_token(spec) == values * 2
    assert kv_bytes_per_token(spec, GgmlType.Q8_0, GgmlType.Q8_0) == values * 34 // 32
    assert kv_bytes_per_token(spec, GgmlType.Q8_0, GgmlType.F16) == values // 2 * 34 // 32 + values


def test_sliding_layers_are_counted_apart() -> None:
    spec = catalog().by_id["google/gemma-3-27b-it"].spec()  # 62 layers, every sixth full, 16 KV heads of 128
    assert kv_bytes_per_token(spec) == 10 * 16 * 256 * 2
    assert window_bytes_per_token(spec) == 52 * 16 * 256 * 2


def test_a_latent_is_stored_once_and_a_state_does_not_grow() -> None:
    latent = Mixer(MixerKind.LATENT, (0,), 128, 1, 576, 512)
    state = Mixer(MixerKind.RECURRENT, (1,), state_elements=1000)
    assert kv_bytes_per_token(replace(tiny_llama(), mixers=(latent, state))) == 576 * 2
