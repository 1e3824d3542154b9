"""Quantization loss: what is published, what was measured, and what follows from either for other types."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from weigh.errors import UnknownName
from weigh.estimate.quantization_loss import (
    Anchor,
    Factor,
    expected,
    factor_of,
    loss_table,
    quantization_loss,
)
from weigh.figure import Basis, Figure

EIGHT_B = 8_030_000_000
LLAMA_3, LLAMA_2 = "meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-2-7b-hf"


def measured(nats: float, within: float = 0.03) -> Figure:
    return Figure.within(nats, within, "nats", Basis.MEASURED)


def width(figure: Figure) -> float:
    return figure.high / figure.low


# --- published ------------------------------------------------------------------------------------


def test_a_published_divergence_is_given_as_published() -> None:
    loss = quantization_loss(8_030_261_248, "Q4_K_M", model_id=LLAMA_3)
    assert (loss.value, loss.unit, loss.basis) == (0.031273, "nats", Basis.PUBLISHED)


def test_several_files_of_one_recipe_give_their_range() -> None:
    loss = quantization_loss(9_653_104_368, "Q4_K_M", model_id="Qwen/Qwen3.5-9B")
    assert (loss.low, loss.value, loss.high) == (0.0087, 0.0222, 0.0353)


def test_what_is_published_of_a_model_tells_its_other_types() -> None:
    """Of Llama 2 7B Q2_K and Q4_K_M are published: Q3_K_M falls between, and is surer than a stranger's."""
    q4, q3, q2 = (quantization_loss(6_738_000_000, r, model_id=LLAMA_2) for r in ("Q4_K_M", "Q3_K_M", "Q2_K"))
    assert q4.value < q3.value < q2.value
    assert q3.basis is Basis.RULE_OF_THUMB
    assert width(q3) < 0.8 * width(quantization_loss(6_738_000_000, "Q3_K_M"))


def test_relatives_of_a_model_that_loses_much_are_taken_to_lose_more_than_strangers() -> None:
    kin = quantization_loss(3_212_000_000, "Q4_K_M", model_id="meta-llama/Llama-3.2-3B-Instruct")
    stranger = quantization_loss(3_212_000_000, "Q4_K_M")
    assert kin.value > 1.2 * stranger.value
    assert width(kin) < width(stranger)


# --- measured -------------------------------------------------------------------------------------


def test_what_was_measured_is_given_as_measured_even_beside_what_is_published() -> None:
    own = measured(0.05)
    assert quantization_loss(8_030_261_248, "Q4_K_M", model_id=LLAMA_3, measured={"Q4_K_M": own}) is own


def test_one_measured_type_moves_the_others_and_makes_them_surer() -> None:
    before = {recipe: quantization_loss(EIGHT_B, recipe) for recipe in ("Q4_K_M", "Q3_K_M", "Q2_K")}
    known = {"Q4_K_M": measured(3 * before["Q4_K_M"].value)}
    for recipe in ("Q3_K_M", "Q2_K"):
        after = quantization_loss(EIGHT_B, recipe, measured=known)
        assert 2.0 * before[recipe].value < after.value < 3 * before[recipe].value
        assert width(after) < 0.75 * width(before[recipe])
        assert after.basis is Basis.CALIBRATED
        assert "Q4_K_M" in after.source


def test_two_measured_types_are_worth_more_than_one() -> None:
    one = quantization_loss(EIGHT_B, "Q3_K_M", measured={"Q4_K_M": measured(0.02)})
    two = quantization_loss(EIGHT_B, "Q3_K_M", measured={"Q4_K_M": measured(0.02), "Q2_K": measured(0.25)})
    assert width(two) < width(one)


def test_a_loss_measured_on_little_text_moves_others_less() -> None:
    plain = quantization_loss(EIGHT_B, "Q3_K_M").value
    sure = quantization_loss(EIGHT_B, "Q3_K_M", measured={"Q4_K_M": measured(0.1)}).value
    vague = quantization_loss(EIGHT_B, "Q3_K_M", measured={"Q4_K_M": measured(0.1, within=1.5)}).value
    unknown = Figure(0.1, -math.inf, math.inf, "nats", Basis.MEASURED)
    unbounded = quantization_loss(EIGHT_B, "Q3_K_M", measured={"Q4_K_M": unknown}).value
    assert plain < vague < unbounded < sure


def test_measured_losses_of_nothing_of_a_mix_and_of_no_number_do_no_harm() -> None:
    plain = quantization_loss(EIGHT_B, "Q3_K_M")
    nothing = Figure.exact(0.0, "nats", Basis.MEASURED)
    assert 0 < quantization_loss(EIGHT_B, "Q3_K_M", measured={"Q8_0": nothing}).value < plain.value
    assert quantization_loss(EIGHT_B, "Q3_K_M", measured={"mix for 4 GiB": measured(0.1)}) == plain
    assert quantization_loss(EIGHT_B, "Q3_K_M", measured={"Q8_0": measured(math.nan)}) == plain


def test_the_prediction_is_the_conditional_mean_of_a_normal_distribution() -> None:
    """The same by numpy, over the joint covariance of three known types and the one that is asked."""
    table: dict[str, Any] = {
        "nats": {"A": 0.01, "B": 0.05, "C": 0.3, "D": 0.1},
        "ln_sd_of_type": {"A": 0.1, "B": 0.2, "C": 0.05, "D": 0.3},
        "ln_sd_level": 0.2,
        "ln_sd_rest": 0.15,
        "pivot_nats": 0.03,
    }
    anchors = [Anchor("A", 0.02, 0.1), Anchor("B", 0.08), Anchor("C", 0.4, 0.3)]
    names = ["A", "B", "C", "D"]
    level = np.log([table["nats"][name] / 0.03 for name in names])
    own = np.array([table["ln_sd_of_type"][name] for name in names]) ** 2
    joint = 0.5**2 + 0.2**2 * np.outer(level, level) + np.diag(own + 0.15**2)
    joint += np.diag([0.1**2, 0, 0.3**2, 0])
    mean = np.log([table["nats"][name] for name in names]) + 0.7
    seen = np.log([anchor.nats for anchor in anchors])
    weights = np.linalg.solve(joint[:3, :3], joint[:3, 3])
    ln_nats, sd = expected(table, "D", Factor(0.7, 0.5), anchors=anchors)
    assert ln_nats == pytest.approx(mean[3] + weights @ (seen - mean[:3]))
    assert sd == pytest.approx(math.sqrt(joint[3, 3] - weights @ joint[:3, 3]))


# --- by type, size and bits -----------------------------------------------------------------------


def test_fewer_bits_lose_more() -> None:
    recipes = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
    nats = [quantization_loss(EIGHT_B, recipe).value for recipe in recipes]
    assert nats == sorted(nats)


def test_small_models_lose_more_by_the_fitted_power_of_size() -> None:
    one, four = (quantization_loss(n, "Q4_K_M").value for n in (1_000_000_000, 4_000_000_000))
    assert one / four == pytest.approx(4 ** -loss_table()["exponent"])
    assert one > 1.2 * four


def test_from_eight_billion_on_size_tells_nothing() -> None:
    assert quantization_loss(EIGHT_B, "Q4_K_M") == quantization_loss(9 * EIGHT_B, "Q4_K_M")


def test_sizes_far_from_those_of_the_fit_are_less_sure() -> None:
    table = loss_table()
    assert factor_of(table, 0.1).ln_sd > factor_of(table, 8.0).ln_sd


def test_of_tiny_models_nothing_is_claimed_until_one_of_them_is_measured() -> None:
    # benchmarks/data/ladder_loss.csv: the 1m rung after 2.1 million tokens
    q4_0, q8_0 = 0.00437, 0.00013
    alone = quantization_loss(1_049_728, "Q8_0")
    assert alone.low < q8_0 < alone.value
    measured = {"Q4_0": Figure(q4_0, 0.0042, 0.0045, "nats", Basis.MEASURED, "here")}
    anchored = quantization_loss(1_049_728, "Q8_0", measured=measured)
    assert abs(math.log(anchored.value / q8_0)) < 1 < abs(math.log(alone.value / q8_0))
    assert anchored.high / anchored.low < 10 < alone.high / alone.low


def test_a_native_format_loses_nothing_but_a_cast_to_it_does() -> None:
    assert quantization_loss(20_914_757_184, "MXFP4_MOE", model_id="openai/gpt-oss-20b").value == 0
    assert quantization_loss(8_190_735_360, "MXFP4_MOE", model_id="Qwen/Qwen3-8B").value > 0.1
    assert quantization_loss(8_190_735_360, "BF16").value == 0


def test_bits_per_weight_fall_between_the_recipes_around_them() -> None:
    between = quantization_loss(EIGHT_B, bits_per_weight=4.5)
    around = [quantization_loss(EIGHT_B, recipe) for recipe in ("Q4_K_M", "Q3_K_M")]
    assert around[0].value < between.value < around[1].value
    assert width(between) > max(map(width, around))


def test_an_unknown_recipe_needs_its_bits() -> None:
    with pytest.raises(UnknownName, match="Q4_XXL"):
        quantization_loss(EIGHT_B, "Q4_XXL")


def test_recipes_made_with_an_importance_matrix_are_known_too() -> None:
    iq4, q3 = (quantization_loss(EIGHT_B, recipe).value for recipe in ("IQ4_XS", "Q3_K_M"))
    assert iq4 < q3
