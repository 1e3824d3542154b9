"""Families beyond the catalog, against parameters counted by transformers' own classes; and what lies beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weigh.errors import BadInput
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.spec import Mixer, MixerKind, ModelSpec
from weigh.synth.gguf import write_gguf

COUNTED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "transformers_counts.json").read_text()
)["models"]

CONVERTED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "mmproj_bytes.json").read_text()
)["files"]


def of_catalog(name: str) -> ModelSpec:
    return catalog().by_id[name].spec()


def beside(spec: ModelSpec, *prefixes: str) -> int:
    return sum(t.total_elements for t in spec.beside if t.name.startswith(prefixes))


@pytest.mark.parametrize("name", COUNTED)
def test_it_has_as_many_parameters_as_transformers_builds(name: str) -> None:
    spec = spec_from_config(name, COUNTED[name]["config"])
    assert spec.parameters + beside(spec, "v.", "a.", "mm.") == COUNTED[name]["parameters"]


@pytest.mark.parametrize("name", CONVERTED)
def test_an_encoder_takes_the_bytes_of_the_file_that_the_converter_writes(name: str) -> None:
    spec = spec_from_config(name, CONVERTED[name]["config"])
    assert sum(t.total_bytes for t in spec.beside) == CONVERTED[name]["bytes"]
    assert sum(t.count for t in spec.beside) == CONVERTED[name]["tensors"]


def test_matrices_of_an_encoder_are_f16_and_its_vectors_and_positions_f32() -> None:
    spec = of_catalog("google/gemma-3-4b-it")
    types = {t.name: t.type for t in spec.beside}
    assert types["v.blk.{}.attn_q.weight"] is types["mm.input_projection.weight"] is GgmlType.F16
    assert types["v.blk.{}.attn_q.bias"] is types["v.position_embd.weight"] is GgmlType.F32


def test_a_prediction_layer_is_a_layer_and_what_feeds_it() -> None:
    # MiMo 7B: attention with biases, gated feed-forward, two norms; a matrix from 2 x 4096, three norms
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 4096 + 2 * 1024 + 3 * 4096 * 11008 + 2 * 4096
    assert beside(of_catalog("XiaomiMiMo/MiMo-7B-RL"), "mtp.") == layer + 2 * 4096 * 4096 + 3 * 4096


def test_sound_and_images_are_told_apart_by_name() -> None:
    spec = of_catalog("google/gemma-4-E2B-it")
    assert beside(spec, "v.") == 167364608
    assert beside(spec, "a.") == 304824608
    assert beside(spec, "mm.") == 1536 * (768 + 1536)


def test_an_encoder_that_is_not_known_is_noted_and_left_out() -> None:
    text = COUNTED["LLaVA 1.5 7B"]["config"]["text_config"]
    spec = spec_from_config(
        "m", {"model_type": "brand_new_vl", "text_config": text, "vision_config": {"a": 1}}
    )
    assert spec.beside == ()
    assert "brand_new_vl" in spec.notes[0]


def test_widths_of_an_encoder_that_no_model_has_are_one_line() -> None:
    config = COUNTED["Qwen3-VL 8B"]["config"]
    for wrong in (-1, "wide", 1 << 40, {}):
        vision = config["vision_config"] | {"hidden_size": wrong}
        with pytest.raises(BadInput, match="`hidden_size`"):
            spec_from_config("m", config | {"vision_config": vision})


def test_deepseek_v4_keeps_a_window_and_pooled_keys() -> None:
    kinds = {m.pooled_every: m for m in of_catalog("deepseek-ai/DeepSeek-V4-Flash").mixers}
    # keys of 512 serve as values; an indexer's 128 beside those pooled from 4; compressors sum in F32,
    # two sums over 8 tokens of twice the width, or over 128 of its own
    assert kinds[4] == Mixer(
        MixerKind.SLIDING,
        kinds[4].layers,
        64,
        1,
        512,
        0,
        128,
        2 * 8 * 2 * 640,
        pooled_every=4,
        pooled_dim=640,
    )
    assert (kinds[128].state_elements, kinds[128].pooled_dim) == (2 * 128 * 512, 512)
    assert (kinds[0].state_elements, kinds[0].layers) == (0, (0, 1))


def test_kimi_linear_has_a_latent_in_every_fourth_layer() -> None:
    kinds = {m.kind: m for m in of_catalog("moonshotai/Kimi-Linear-48B-A3B-Instruct").mixers}
    assert kinds[MixerKind.LATENT].layers == (3, 7, 11, 15, 19, 23, 26)
    # three convolutions look back at 3 tokens; a state of 128 x 128 for each of 32 heads
    assert kinds[MixerKind.RECURRENT].state_elements == 3 * 3 * 32 * 128 + 32 * 128 * 128


@pytest.mark.parametrize("entry", catalog().embedding, ids=lambda entry: entry.id)
def test_embedding_models_write_no_text(entry: Any) -> None:
    assert not entry.spec().generates
    assert entry.recomputed == entry.stated_total


def test_an_encoder_keeps_nothing_and_a_decoder_used_for_embedding_does() -> None:
    assert all(m.kv_heads == 0 for m in of_catalog("BAAI/bge-m3").mixers)
    assert all(m.kv_heads == 8 for m in of_catalog("Qwen/Qwen3-Embedding-0.6B").mixers)
    assert of_catalog("Qwen/Qwen3-0.6B").generates


def test_gemma_3_that_looks_both_ways_is_an_embedding_model() -> None:
    config = dict(catalog().by_id["google/embeddinggemma-300m"].config, model_type="gemma3_text")
    assert spec_from_config("m", config).architecture == "gemma-embedding"


@pytest.mark.parametrize("name", ["BAAI/bge-small-en-v1.5", "nomic-ai/nomic-embed-text-v1.5"])
def test_a_file_of_an_embedding_model_is_read_as_one(name: str, tmp_path: Path) -> None:
    spec = of_catalog(name)
    write_gguf(spec, tmp_path / "m.gguf", weights=False)
    found = read_gguf(tmp_path / "m.gguf")
    assert (found.architecture, found.parameters, found.mixers) == (
        spec.architecture,
        spec.parameters,
        spec.mixers,
    )
    assert not found.generates
