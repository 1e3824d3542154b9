"""Models with fewer layers, words and experts: the same layers, in the same mix, and engines take them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.tiny_models import tiny_llama
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.errors import BadInput
from weigh.estimate.extrapolate import layer_kinds
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec, TensorGroup
from weigh.synth import shortened, synthetic_file

VOCAB = 2048

# One of each way to be made up: layers and experts to keep, few enough to be run in a moment.
RUN = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": (2, None),
    "openai-community/gpt2": (2, None),
    "google/gemma-3-270m": (6, None),  # five sliding, one full
    "google/gemma-3n-E2B-it": (5, None),  # per-layer embeddings, layers that share their cache
    "google/gemma-4-E2B-it": (5, None),
    "ibm-granite/granite-3.1-1b-a400m-instruct": (2, 8),  # experts
    "allenai/OLMoE-1B-7B-0924-Instruct": (1, 8),
    "inclusionAI/Ling-mini-2.0": (2, 32),  # a dense layer first, experts in groups
    "Qwen/Qwen3.5-0.8B": (4, None),  # three linear layers, one full
    "LiquidAI/LFM2-350M": (3, None),  # convolutions
    "state-spaces/mamba-130m-hf": (2, None),
}


def model(name: str, quantization: str = "Q4_K_M") -> ModelSpec:
    return quantize(catalog().by_id[name].spec(), quantization)


def formats(spec: ModelSpec, role: str) -> Counter[str]:
    """Layers of a matrix by number format."""
    found: Counter[str] = Counter()
    for group in spec.tensors:
        if group.name == f"blk.{{}}.{role}.weight":
            found[group.type.name] += len(group.layers)
    return found


def mean_bits(groups: list[TensorGroup]) -> float:
    layers = sum(len(group.layers) for group in groups)
    return sum(len(group.layers) * group.type.bits_per_weight for group in groups) / layers


@pytest.mark.parametrize("name", RUN)
def test_kinds_of_layers_stay_in_their_order(name: str) -> None:
    spec, (layers, _) = model(name), RUN[name]
    whole = layer_kinds(spec)
    kept = layer_kinds(shortened(spec, layers, vocab=VOCAB))
    for kind, of in kept.items():
        assert of == tuple(layer for layer in whole[kind] if layer < layers)
    assert sum(map(len, kept.values())) == layers


def test_number_formats_keep_their_shares_of_the_layers() -> None:
    """Of Q4_K_M's 16 layers, half have more bits for some matrices: all of the first and the last two."""
    spec = model("meta-llama/Llama-3.2-1B-Instruct")
    assert formats(spec, "ffn_down") == {"Q6_K": 8, "Q4_K": 8}
    for layers in (2, 4, 6, 8):
        short = shortened(spec, layers)
        assert formats(short, "ffn_down") == {"Q6_K": layers / 2, "Q4_K": layers / 2}
        assert formats(short, "ffn_up") == {"Q4_K": layers}
    assert sum(formats(shortened(spec, 3), "ffn_down").values()) == 3


@pytest.mark.parametrize("name", RUN)
def test_every_matrix_costs_what_its_layers_cost_on_average(name: str) -> None:
    """To within the one layer in a few that cannot be split between two formats."""
    spec = model(name)
    short = shortened(spec, 6)
    for role, shape in {(group.name, group.shape) for group in short.tensors if group.layers}:
        before, after = (
            [g for g in one.tensors if (g.name, g.shape) == (role, shape)] for one in (spec, short)
        )
        bits = [group.type.bits_per_weight for group in before]
        one_layer = (max(bits) - min(bits)) / sum(len(group.layers) for group in after)
        assert abs(mean_bits(after) - mean_bits(before)) <= one_layer + 1e-9


def test_a_model_of_all_its_layers_is_itself() -> None:
    spec = tiny_llama(layers=5)
    assert shortened(spec, 5, vocab=spec.vocab) == spec


def test_fewer_words_narrow_what_has_words_alone() -> None:
    spec = tiny_llama(hidden=1024, vocab=1024)  # as wide as it has words
    short = shortened(tiny_llama(vocab=4096), 1, vocab=512)
    assert (short.vocab, short.hyper["vocab_size"]) == (512, 512)
    assert {g.shape for g in short.tensors if g.name == "token_embd.weight"} == {(256, 512)}
    before = [g.shape for g in shortened(spec, 1).tensors if g.layers]
    assert [g.shape for g in shortened(spec, 1, vocab=512).tensors if g.layers] == before


def test_fewer_experts_narrow_their_matrices_and_the_router() -> None:
    spec = tiny_llama(experts=16, experts_used=2)
    short = shortened(spec, 1, experts=4)
    assert (short.experts, short.experts_used) == (4, 2)
    last = {g.name: g.shape[-1] for g in short.tensors if "_exps" in g.name or "gate_inp" in g.name}
    assert set(last.values()) == {4}
    assert len(last) == 4
    untouched = shortened(spec, 1)
    assert short.active_parameters == untouched.active_parameters - 256 * 12  # of the router only


@pytest.mark.parametrize("name", ["google/gemma-3n-E2B-it", "google/gemma-4-E2B-it"])
def test_embeddings_of_every_layer_become_fewer_too(name: str) -> None:
    spec = model(name)
    short = shortened(spec, 5, vocab=VOCAB)
    (was,) = (g.shape for g in spec.tensors if g.name == "per_layer_token_embd.weight")
    (is_,) = (g.shape for g in short.tensors if g.name == "per_layer_token_embd.weight")
    assert was == (256 * spec.layers, spec.vocab)
    assert is_ == (256 * 5, VOCAB)
    assert short.hyper["attention.shared_kv_layers"] == 0  # those that borrow come last


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layers": 0}, "layers"),
        ({"layers": 3}, "layers"),
        ({"layers": 1, "vocab": 2000}, "has 1024 words; 2000"),
        ({"layers": 1, "vocab": 0}, "has 1024 words; 0"),
        ({"layers": 1, "experts": 1}, "has 8 experts and uses 2"),
        ({"layers": 1, "experts": 9}, "has 8 experts and uses 2"),
    ],
)
def test_what_cannot_be_kept_is_refused(asked: dict[str, int], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        shortened(tiny_llama(experts=8, experts_used=2), **asked)


@pytest.mark.parametrize("name", RUN)
def test_the_engine_loads_and_runs_it(name: str, tmp_path: Path) -> None:
    layers, experts = RUN[name]
    short = shortened(model(name), layers, vocab=VOCAB, experts=experts)
    settings = Settings(context_tokens=256, threads=1)
    with (
        synthetic_file(short, tmp_path) as path,
        EmbeddedLlamaCpp().start(path, settings, Limits()) as session,
    ):
        made = session.generate(range(300, 310), 3)
    assert (made.prompt_tokens, made.output_tokens) == (10, 3)
