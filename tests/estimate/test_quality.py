"""Quality: what is published, the index that ranks, and what quantization takes off."""

from __future__ import annotations

import csv
import json
from importlib.resources import files

import pytest

from weigh.estimate.quality import (
    ability,
    loss_points,
    published,
    quality,
    traits,
)
from weigh.estimate.quantization_loss import quantization_loss
from weigh.figure import Basis

CODING = {"code": 0.85, "general": 0.15}
CODER_7B, CODER_14B = "Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen/Qwen2.5-Coder-14B-Instruct"


def table(name: str) -> list[dict[str, str]]:
    with files("weigh.data").joinpath(name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def catalog() -> dict[str, int]:
    """Catalog id to total parameters."""
    text = files("weigh.data").joinpath("models.json").read_text(encoding="utf-8")
    return {m["id"]: m["params_total"] for m in json.loads(text)}


def at(model_id: str, recipe: str = "Q4_K_M", axis: dict[str, float] = CODING) -> float:
    return quality(model_id, catalog()[model_id], recipe, axis).score.value


# --- the data -----------------------------------------------------------------------------------


def test_every_name_in_the_table_is_printed_somewhere_and_every_id_is_in_the_catalog() -> None:
    printed = {row["model"] for row in table("quality_scores.csv")}
    names = table("quality_names.csv")
    assert {row["name"] for row in names} <= printed
    assert len({row["name"] for row in names}) == len(names)
    ids = {row["model_id"] for row in names if row["model_id"]}
    ids |= {row["model_id"] for row in table("quality_cards.csv")}
    assert ids <= set(catalog())


def test_every_catalog_model_has_a_kind_and_an_index() -> None:
    assert {row["model_id"] for row in table("quality_kinds.csv")} == set(catalog())
    assert all(traits(model_id) for model_id in catalog())


def test_base_scores_are_never_given_to_a_model_that_follows_instructions() -> None:
    for row in table("quality_names.csv"):
        if row["model_id"]:
            found = traits(row["model_id"])
            assert found is not None
            assert (row["mode"] == "base") == (found.kind == "base"), row


# --- published ----------------------------------------------------------------------------------


def test_published_scores_keep_their_benchmark_value_and_source() -> None:
    scores = {(s.benchmark, s.value): s for s in published("Qwen/Qwen2.5-Coder-32B-Instruct")}
    aider = scores["Aider edit", 71.4]
    assert aider.source == "github.com/Aider-AI/aider aider/website/_data/edit_leaderboard.yml"


def test_a_model_nobody_measured_has_no_published_score() -> None:
    assert published("swiss-ai/Apertus-8B-Instruct-2509") == ()
    assert published("no/such-model") == ()


def test_a_measured_model_shows_its_score_and_where_it_is_from() -> None:
    found = quality(CODER_7B, 7_615_616_512, "Q4_K_M", CODING)
    assert found.headline == "HumanEval+ 84.1"
    assert "2409.12186" in found.source
    assert found.basis is Basis.PUBLISHED


def test_an_unmeasured_model_is_unknown_marked_and_wide() -> None:
    apertus = "swiss-ai/Apertus-8B-Instruct-2509"
    found = quality(apertus, catalog()[apertus], "Q4_K_M", CODING)
    assert (found.headline, found.source) == ("unknown", "")
    assert found.basis is Basis.RULE_OF_THUMB
    measured = quality(CODER_7B, catalog()[CODER_7B], "Q4_K_M", CODING)
    assert found.score.high - found.score.low > 1.5 * (measured.score.high - measured.score.low)


def test_a_chat_task_shows_the_general_score() -> None:
    found = quality("Qwen/Qwen3.5-27B", 27_781_427_952, "Q4_K_M", {"code": 0.1, "general": 0.9})
    assert found.headline.startswith("MMLU-Pro 86.1")


def test_a_model_with_general_scores_only_shows_one_but_its_code_stays_a_rule_of_thumb() -> None:
    found = quality("Qwen/Qwen3.5-9B", 9_653_104_368, "Q4_K_M", CODING)
    assert found.headline == "MMLU-Pro 82.5 thinking"
    assert found.basis is Basis.RULE_OF_THUMB


# --- the index ----------------------------------------------------------------------------------


def test_the_reference_stands_at_fifty() -> None:
    for axis in ("code", "general"):
        assert ability("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, axis).value == 50


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "codellama/CodeLlama-34b-hf"),
        ("Qwen/Qwen3-8B", "meta-llama/Llama-2-70b-hf"),  # a recent 8B against a 70B of 2023
        ("Qwen/Qwen3.5-9B", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen3.5-4B", "microsoft/phi-2"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "deepseek-ai/deepseek-coder-33b-instruct"),
        ("mistralai/Devstral-Small-2-24B-Instruct-2512", "mistralai/Codestral-22B-v0.1"),
        ("openai/gpt-oss-20b", "mistralai/Mistral-Nemo-Instruct-2407"),
        ("Qwen/Qwen2.5-Coder-14B-Instruct", "bigcode/starcoder2-15b"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen/Qwen2.5-Coder-1.5B-Instruct"),
        ("google/gemma-4-31B-it", "google/gemma-2-27b-it"),
    ],
)
def test_coding_order_is_what_a_practitioner_expects(better: str, worse: str) -> None:
    assert at(better) > at(worse) + 2


def test_obsolete_and_base_models_are_not_among_the_best_of_their_size() -> None:
    sizes = catalog()
    small = sorted((m for m in sizes if sizes[m] < 10e9), key=at, reverse=True)[:10]
    assert not [m for m in small if (found := traits(m)) and found.kind == "base"]


def test_a_stranger_is_judged_by_size_alone_and_says_so() -> None:
    small, large = (quality(None, n, "Q4_K_M", CODING) for n in (3_000_000_000, 30_000_000_000))
    assert large.score.value > small.score.value + 5
    assert small.basis is Basis.RULE_OF_THUMB
    assert small.headline == "unknown"
    assert small.score.high - small.score.low > 15


def test_weights_of_the_axes_need_not_add_up_to_one() -> None:
    half = quality(CODER_7B, 7_615_616_512, "Q8_0", {"code": 2.0, "general": 2.0})
    assert half == quality(CODER_7B, 7_615_616_512, "Q8_0", {"code": 0.5, "general": 0.5})


# --- quantization -------------------------------------------------------------------------------


def test_a_recipe_that_nobody_measured_is_judged_by_its_bits() -> None:
    named = quality(None, 8_000_000_000, "Q4_XXL", CODING, bits_per_weight=4.899)
    assert named.loss.value == pytest.approx(quantization_loss(8_000_000_000, "Q4_K_M").value)


def test_points_are_nats_times_the_rate_of_the_task() -> None:
    loss = quantization_loss(8_030_261_248, "Q2_K", model_id="meta-llama/Meta-Llama-3-8B")
    data = json.loads(files("weigh.data").joinpath("quality_loss.json").read_text(encoding="utf-8"))
    cost = loss_points(loss, code=1.0, general=0.0)
    assert cost.value == pytest.approx(0.445132 * data["points_per_nat"]["code"])
    assert cost.low < cost.value / 1.9
    assert cost.high > cost.value * 1.9


def test_the_loss_is_taken_off_the_score_and_widens_it() -> None:
    whole = quality(CODER_14B, 14_770_033_664, "BF16", CODING)
    two_bits = quality(CODER_14B, 14_770_033_664, "Q2_K", CODING)
    assert whole.score.value - two_bits.score.value == pytest.approx(two_bits.loss_points.value)
    assert two_bits.score.high - two_bits.score.low > whole.score.high - whole.score.low


def test_bigger_at_four_bits_beats_smaller_at_eight_but_two_bits_do_not_pay() -> None:
    """Qwen2.5-Coder 14B at Q4_K_M (9 GB) against 7B at Q8_0 (8 GB), and at Q2_K (5.8 GB) against Q4_K_M."""
    assert at(CODER_14B, "Q4_K_M") > at(CODER_7B, "Q8_0")
    cautious = quality(CODER_14B, 14_770_033_664, "Q2_K", CODING).score.low
    assert cautious < quality(CODER_7B, 7_615_616_512, "Q4_K_M", CODING).score.low
