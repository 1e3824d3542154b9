from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from tests.shrink.models import EXPERTS, gaussian_model
from weigh.errors import BadInput, UnknownName
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.gguf_encoding import NewTensor
from weigh.shrink import ggml, quantize
from weigh.shrink.gguf_file import GgufWeights, value_of
from weigh.shrink.imatrix import ImportanceMatrix
from weigh.shrink.quantize import Plan, by_recipe, file_bytes, write

RECIPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "IQ4_NL", "Q3_K_M", "Q2_K", "F32", "BF16")


def ones(weights: GgufWeights) -> ImportanceMatrix:
    """An importance matrix that finds all columns alike."""
    values = {
        t.name: np.ones((prod(t.shape[2:]), t.shape[0]), dtype=np.float32)
        for t in weights.tensors
        if len(t.shape) > 1
    }
    return ImportanceMatrix(values, "ones.gguf", ("nothing",), 7)


def floats(weights: GgufWeights, name: str) -> ggml.Floats:
    tensor = next(t for t in weights.tensors if t.name == name)
    return ggml.dequantize(weights.rows(tensor, 0, prod(tensor.shape[1:])), tensor.type)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_makes_the_file_that_was_foretold(recipe: str, tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    plan = by_recipe(source, recipe)
    size = write(source, plan, tmp_path / "made.gguf")
    made = GgufWeights(tmp_path / "made.gguf")
    assert size == (tmp_path / "made.gguf").stat().st_size == file_bytes(source, plan)
    assert made.spec.quantization == recipe
    assert list(made.tensors) == plan.tensors(source)
    assert value_of(made.entries, "general.quantization_version") == 2
    unchanged = source.entries.keys() - {"general.file_type"}
    assert {key: made.entries[key] for key in unchanged} == {key: source.entries[key] for key in unchanged}


def test_what_is_rounded_is_near_and_what_is_not_is_the_same(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    write(source, by_recipe(source, "Q6_K"), tmp_path / "made.gguf")
    made = GgufWeights(tmp_path / "made.gguf")
    for tensor in source.tensors:
        before, after = floats(source, tensor.name), floats(made, tensor.name)
        if len(tensor.shape) == 1:
            assert np.array_equal(before, after)
        else:
            assert 0 < np.square(after - before).sum() / np.square(before).sum() < 0.001


def test_rows_that_are_no_whole_blocks_fall_back(tmp_path: Path) -> None:
    odd = gaussian_model(
        tmp_path / "m.gguf",
        hidden_size=288,
        intermediate_size=520,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    source = GgufWeights(odd)
    write(source, by_recipe(source, "Q4_K_M"), tmp_path / "made.gguf")
    types = {tensor.name: tensor.type.name for tensor in GgufWeights(tmp_path / "made.gguf").tensors}
    assert types["blk.1.attn_q.weight"] == "Q5_0"  # rows of 288 are nine blocks of 32
    assert types["blk.1.ffn_down.weight"] == "F16"  # rows of 520 are none


def test_slabs_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    plan = by_recipe(source, "Q4_K_M")
    write(source, plan, tmp_path / "a.gguf")
    monkeypatch.setattr(quantize, "_SLAB_WEIGHTS", 7 * 256)
    write(source, plan, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_each_expert_is_rounded_by_its_own_importance(tmp_path: Path) -> None:
    path = gaussian_model(tmp_path / "m.gguf", **EXPERTS)
    source, matrix = GgufWeights(path), ones(GgufWeights(path))
    name = "blk.0.ffn_up_exps.weight"
    values = matrix.values[name].copy()
    values[2, :128] = 1000
    guided = replace(matrix, values={**matrix.values, name: values})
    plan = by_recipe(source, "Q3_K_M", matrix=True)
    for file, used in (("plain", matrix), ("guided", guided)):
        write(source, plan, tmp_path / f"{file}.gguf", matrix=used)
    plain, found = (floats(GgufWeights(tmp_path / f"{f}.gguf"), name) for f in ("plain", "guided"))
    differs = np.any((plain != found).reshape(4, -1), axis=1)
    assert differs.tolist() == [False, False, True, False]


def test_a_quantized_source_is_rounded_again_only_when_told(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    write(source, by_recipe(source, "Q8_0"), tmp_path / "q8.gguf")
    rounded = GgufWeights(tmp_path / "q8.gguf")
    with pytest.raises(BadInput, match=r"quantized already \(Q8_0\)"):
        by_recipe(rounded, "Q4_K_M")
    plan = by_recipe(rounded, "Q4_K_M", requantize=True)
    assert plan.types == by_recipe(source, "Q4_K_M").types
    write(rounded, plan, tmp_path / "q4.gguf")
    assert read_gguf(tmp_path / "q4.gguf").quantization == "Q4_K_M"


def test_the_mixes_with_wide_ends_have_the_number_of_their_base(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    plan = by_recipe(source, "Q4_K_L")
    write(source, plan, tmp_path / "made.gguf")
    assert read_gguf(tmp_path / "made.gguf").quantization == "Q4_K_M"
    assert plan.types["output.weight"] is plan.types["token_embd.weight"] is GgmlType.Q8_0


def test_a_mix_has_no_number_and_is_called_by_its_formats(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    types = {t.name: GgmlType.Q5_K for t in source.tensors if len(t.shape) > 1}
    write(source, Plan("mix", types), tmp_path / "made.gguf")
    made = GgufWeights(tmp_path / "made.gguf")
    assert "general.file_type" not in made.entries
    assert made.spec.quantization == "Q5_K"


def test_unknown_recipes_and_missing_matrices_are_told(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    with pytest.raises(UnknownName, match="did you mean"):
        by_recipe(source, "Q4_K_N")
    with pytest.raises(BadInput, match="importance matrix only"):
        by_recipe(source, "IQ2_M")
    matrix = ones(source)
    without = {name: v for name, v in matrix.values.items() if "attn_q" not in name}
    plan = by_recipe(source, "IQ2_XS", matrix=True)
    with pytest.raises(BadInput, match=r"says nothing of `blk\.0\.attn_q\.weight`"):
        write(source, plan, tmp_path / "made.gguf", matrix=replace(matrix, values=without))
    other = {name: v[:, :-1] for name, v in matrix.values.items()}
    with pytest.raises(BadInput, match="is of another model"):
        write(source, plan, tmp_path / "made.gguf", matrix=replace(matrix, values=other))
    assert not (tmp_path / "made.gguf").exists()


def test_a_matrix_is_named_in_what_was_made_with_it(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf", num_hidden_layers=1))
    write(source, by_recipe(source, "Q4_K_M", matrix=True), tmp_path / "made.gguf", matrix=ones(source))
    entries = GgufWeights(tmp_path / "made.gguf").entries
    said = {key: value_of(entries, key) for key in entries if key.startswith("quantize.")}
    assert said == {
        "quantize.imatrix.file": "ones.gguf",
        "quantize.imatrix.dataset": "nothing",
        "quantize.imatrix.entries_count": 9,
        "quantize.imatrix.chunks_count": 7,
    }


def test_weights_that_cannot_be_rounded_name_their_tensor(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))

    class Damaged(GgufWeights):
        def rows(self, tensor: NewTensor, start: int, stop: int) -> ggml.Bytes:
            rows = super().rows(tensor, start, stop).copy()
            if tensor.name == "blk.2.ffn_up.weight":
                rows[0, :2] = (0, 0x7E)  # a half-precision NaN
            return rows

    damaged = Damaged(tmp_path / "model.gguf")
    with pytest.raises(BadInput, match=r"`blk.2.ffn_up.weight`: it holds weights that are no numbers"):
        write(damaged, by_recipe(source, "Q4_K_M"), tmp_path / "made.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
