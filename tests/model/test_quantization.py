"""Formats against the quantizer's own recorded choices, and file sizes against published files."""

import json
import re
from pathlib import Path

import pytest

from weigh.errors import NotSupported, UnknownName
from weigh.model.catalog import catalog
from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_size import file_bytes
from weigh.model.quantization import ALL_RECIPES, KV_CACHE_TYPES, NEED_MATRIX, RECIPES, quantize
from weigh.model.resolve import resolve
from weigh.model.spec import ModelSpec

RECORDED = json.loads((Path(__file__).parent / "data" / "quantizer_types.json").read_text())["cases"]

ALIASES = {"Q3_K", "Q4_K", "Q5_K"}

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "num_hidden_layers": 16,
}

GPT_2_NAMES = {"n_embd": 256, "n_head": 8, "n_inner": 512, "n_layer": 1, "n_positions": 512}


def formats(spec: ModelSpec) -> dict[str, str]:
    """Role -> "FORMAT LAYERS, ...", as the record has them: without the F32 tensors."""
    roles: dict[str, dict[str, list[int]]] = {}
    for group in spec.tensors:
        roles.setdefault(group.name, {}).setdefault(group.type.name, []).extend(group.layers)
    return {
        role: ", ".join(" ".join(map(str, (type, *sorted(found[type])))) for type in sorted(found))
        for role, found in roles.items()
        if found.keys() != {"F32"}
    }


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: re.sub(r"\W+", "-", case["name"]))
def test_every_tensor_gets_the_format_the_quantizer_gives_it(case):
    spec = spec_from_config(case["name"], case["config"])
    makings = {making for answers in case["types"].values() for names in answers.values() for making in names}
    recorded = {making.removesuffix(" imatrix") for making in makings}
    # Q1_0 is refused for some widths, and whole numbers of bytes cannot be asked for with quantized experts
    assert set(ALL_RECIPES) - ALIASES - recorded <= {"Q1_0", "F32", "F16", "BF16"}
    ours = {
        making: formats(quantize(spec, making.split()[0], imatrix=making.endswith("imatrix")))
        for making in makings
    }
    for role, answers in case["types"].items():
        for answer, names in answers.items():
            assert {making: ours[making].get(role) for making in names} == dict.fromkeys(names, answer)


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
        quantize(spec_from_config("small", LLAMA), "Q4_KM")


@pytest.mark.parametrize("recipe", ["UD-Q4_K_XL", "UD-IQ2_M", "Q4_K_XL", "Q8_K_XL"])
def test_mixes_made_by_hand_are_told_from_unknown_names(recipe):
    with pytest.raises(NotSupported, match="tensor by tensor"):
        quantize(spec_from_config("small", LLAMA), recipe)


@pytest.mark.parametrize(
    "typed", ["llama-3.1-8b:UD-Q4_K_XL", "llama-3.1-8b-UD-IQ2_M", "llama-3.1-8b:q8_k_xl"]
)
def test_they_are_told_behind_the_name_of_a_model_too(typed):
    with pytest.raises(NotSupported, match="tensor by tensor"):
        resolve(typed)


def test_other_names_of_a_recipe_are_the_recipe():
    spec = quantize(spec_from_config("small", LLAMA), "Q4_K")
    assert spec == quantize(spec_from_config("small", LLAMA), "Q4_K_M")


def test_wide_ends_cost_what_the_embedding_and_the_output_grow_by():
    # 512 tokens of 256: 131,072 weights, Q4_K (4.5 bits) to Q8_0 (8.5), and Q6_K (6.5625 bits) to Q8_0
    spec = spec_from_config("small", LLAMA)
    grown = quantize(spec, "Q4_K_L").tensor_bytes - quantize(spec, "Q4_K_M").tensor_bytes
    assert grown == 131_072 * (4 + 1.9375) / 8


def test_an_importance_matrix_guards_the_first_layers_of_q4_0_and_frees_those_of_iq4_xs():
    # the first eighth of 16 layers: two matrices of 512 x 256 at 5 bits instead of 4.5, 4.25 instead of 5.5
    spec = spec_from_config("small", LLAMA)
    for recipe, bits in (("Q4_0", 0.5), ("IQ4_XS", -1.25)):
        with_matrix = quantize(spec, recipe, imatrix=True).tensor_bytes
        assert with_matrix - quantize(spec, recipe).tensor_bytes == 2 * 512 * 256 * bits / 8


def test_recipes_that_need_a_matrix_are_made_with_one():
    spec = spec_from_config("small", LLAMA)
    for recipe in NEED_MATRIX:
        assert quantize(spec, recipe) == quantize(spec, recipe, imatrix=True)


def test_a_width_that_nothing_replaces_is_refused():
    narrow = spec_from_config("narrow", LLAMA | {"hidden_size": 288, "num_key_value_heads": 8})
    with pytest.raises(NotSupported, match="288"):
        quantize(narrow, "Q1_0")


def test_a_known_header_takes_the_place_of_the_estimate():
    spec = quantize(spec_from_config("small", LLAMA), "Q8_0")
    assert file_bytes(spec, header_bytes=1000) == spec.tensor_bytes + 1024


# Bytes of llama.cpp's `models/ggml-vocab-*.gguf`, which are tokenizers and little else.
TOKENIZERS = [
    ("bert", 30522, 627_549),  # BERT's WordPiece
    ("nomic_bert", 250048, 6_821_877),  # XLM-RoBERTa's pieces
    ("llama", 32000, 723_869),
    ("llama", 102400, 3_970_167),
    ("llama", 128256, 7_818_140),
    ("falcon", 65024, 2_287_728),
    ("qwen2", 151936, 5_928_681),
    ("cohere", 256000, 10_874_545),
]


@pytest.mark.parametrize(("model_type", "vocab", "tokenizer_bytes"), TOKENIZERS)
def test_a_header_is_about_as_long_as_the_tokenizer_it_holds(model_type, vocab, tokenizer_bytes):
    fields = {"model_type": model_type, "vocab_size": vocab, "num_hidden_layers": 1}
    spec = spec_from_config("small", LLAMA | GPT_2_NAMES | fields)
    header_bytes = file_bytes(spec) - file_bytes(spec, header_bytes=0)
    assert header_bytes == pytest.approx(tokenizer_bytes, rel=0.02, abs=24_000)


def test_kv_cache_types_are_those_the_server_accepts():
    assert [t.name for t in KV_CACHE_TYPES] == [
        *("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
    ]


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
