"""Formats against the quantizer's own recorded choices, and file sizes against published files."""

import json
import re
from pathlib import Path

import pytest

from weigh.errors import UnknownName
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import ALL_RECIPES, RECIPES, file_bytes, quantize
from weigh.model.spec import ModelSpec

RECORDED = json.loads((Path(__file__).parent / "data" / "quantizer_types.json").read_text())["cases"]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "num_hidden_layers": 16,
}


def formats(spec: ModelSpec) -> dict[str, dict[str, list[int]]]:
    """Role -> format -> layers, as the record has them: without the F32 tensors."""
    roles: dict[str, dict[str, list[int]]] = {}
    for group in spec.tensors:
        if group.type is not GgmlType.F32:
            roles.setdefault(group.name, {})[group.type.name] = list(group.layers)
    return roles


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("case", RECORDED, ids=lambda case: re.sub(r"\W+", "-", case["name"]))
def test_every_tensor_gets_the_format_the_quantizer_gives_it(case, recipe):
    spec = quantize(spec_from_config(case["name"], case["config"]), recipe)
    assert formats(spec) == case["types"][recipe]


def test_a_quantized_spec_says_so_and_has_the_same_weights():
    spec = spec_from_config("small", LLAMA)
    small = quantize(spec, "Q4_K_M")
    assert (small.quantization, small.file_bytes) == ("Q4_K_M", None)
    assert small.parameters == spec.parameters
    assert small.mixers == spec.mixers


def test_bits_per_weight_of_a_uniform_recipe_are_those_of_its_blocks():
    # Q8_0 holds 32 weights in 34 bytes; the norms stay F32: 33 of 256 weights.
    spec = quantize(spec_from_config("small", LLAMA), "Q8_0")
    norms = 33 * 256
    assert spec.tensor_bytes == (spec.parameters - norms) * 34 // 32 + norms * 4


def test_experts_that_come_in_four_bits_keep_them():
    gpt_oss = catalog().by_id["openai/gpt-oss-20b"].spec()
    for recipe in ("MXFP4_MOE", "Q4_K_M", "Q8_0"):
        experts = [t for t in quantize(gpt_oss, recipe).tensors if t.experts and t.name.endswith("weight")]
        assert {t.type for t in experts} == {GgmlType.MXFP4}


def test_an_unknown_recipe_is_refused_with_close_names():
    with pytest.raises(UnknownName, match="Q4_K_M"):
        quantize(spec_from_config("small", LLAMA), "Q4_K")


def test_recipes_go_from_large_to_small():
    spec = catalog().by_id["meta-llama/Llama-3.1-8B-Instruct"].spec()
    sizes = [quantize(spec, recipe).tensor_bytes for recipe in RECIPES]
    assert sizes == sorted(sizes, reverse=True)
    assert set(RECIPES) < set(ALL_RECIPES)


# Bytes of files people download, as their repositories list them.
PUBLISHED = [
    ("meta-llama/Llama-3.1-8B-Instruct", "Q4_K_M", 4_920_739_232),
    ("meta-llama/Llama-3.1-8B-Instruct", "Q8_0", 8_540_775_840),
    ("Qwen/Qwen2.5-7B-Instruct", "Q4_K_M", 4_683_074_240),
    ("openai/gpt-oss-20b", "MXFP4_MOE", 12_109_566_560),
]


@pytest.mark.parametrize(("model", "recipe", "published_bytes"), PUBLISHED)
def test_file_sizes_are_those_of_published_files(model, recipe, published_bytes):
    predicted = file_bytes(quantize(catalog().by_id[model].spec(), recipe))
    assert predicted == pytest.approx(published_bytes, rel=0.001)
