"""What was measured here moves advice, is said, and is never taken for more than it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store.quality import figure
from weigh.advise.measured import Evidence, evidence
from weigh.advise.needs import TASKS, need
from weigh.advise.search import Recommendation, recommend
from weigh.bench.here import Here
from weigh.estimate.quality import quality
from weigh.figure import Basis
from weigh.model.catalog import catalog
from weigh.store import Store
from weigh.store.quality_result import (
    Material,
    Measure,
    MeasuredModel,
    Piece,
    QualityResult,
    Way,
    save,
)

SMALL, LARGE = "Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen/Qwen2.5-Coder-14B-Instruct"
CODING = TASKS["coding"]
GIB = 1 << 30


def _model(model_id: str, recipe: str = "Q4_K_M") -> MeasuredModel:
    parameters = catalog().by_id[model_id].spec().parameters
    return MeasuredModel(model_id.rpartition("/")[2], recipe, model_id, f"{recipe:0<16}", parameters, GIB)


def _result(way: Way, model: MeasuredModel, material: Material, **changes: Any) -> QualityResult:
    kept = QualityResult(
        way=way, when_unix_s=1.79e9, model=model, material=material, measures=(), engine="llama.cpp"
    )
    return replace(kept, **changes)


def passes(
    model_id: str, passed: int, tasks: int = 40, *, style: str = "chat", needs: str = "completion"
) -> QualityResult:
    """The first `passed` of `tasks` tasks."""
    pieces: tuple[Piece, ...] = tuple(
        (f"{needs}/{number}", "1" * 16, needs, 1 + number % 5, 1, int(number < passed))
        for number in range(tasks)
    )
    material = Material("weigh", "e" * 32, needs=(needs,), settings={"style": style, "temperature": 0.0})
    return _result(Way.TASKS, _model(model_id), material, pieces=pieces)


def diverged(model_id: str, nats: float, *, reference: str = "F16", windows: int = 50) -> QualityResult:
    measure = Measure("kl_nats", figure(nats, 0.9 * nats, 1.1 * nats, "nats"), windows)
    return _result(
        Way.DIVERGENCE,
        _model(model_id),
        Material("prose", "d" * 32, 9999),
        reference=_model(model_id, reference),
        measures=(measure,),
    )


def on_code(model_id: str, bits: float, *, excerpts: int = 21) -> QualityResult:
    """Excerpts of a file each, of 1000 bytes and about `bits` per byte, harder and easier ones alike for all."""
    pieces: tuple[Piece, ...] = tuple(
        (f"{number:016x}", number, 1000 * (bits + 0.05 * (number % 7)), 1000, None, None, None, None)
        for number in range(excerpts)
    )
    whole = sum(float(piece[2] or 0) for piece in pieces) / (1000 * excerpts)
    measure = Measure("bits_per_byte", figure(whole, whole - 0.1, whole + 0.1, "bits/byte"), excerpts)
    return _result(
        Way.REPOSITORY,
        _model(model_id),
        Material("mine", "c" * 40, 20_000),
        measures=(measure,),
        pieces=pieces,
    )


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., Evidence]:
    """Through a real store."""
    store = Store(tmp_path / "weigh.db")

    def keep(*results: QualityResult) -> Evidence:
        save(store, results)
        return evidence(store)

    return keep


def _points(found: Evidence, model_id: str, recipe: str = "Q4_K_M") -> float:
    return found.of(CODING).quality(model_id, _model(model_id).parameters or 0, recipe).score.value


# --- divergence --------------------------------------------------------------------------------------


def test_a_measured_divergence_takes_the_place_of_the_predicted_one(kept: Callable[..., Evidence]) -> None:
    parameters = _model(LARGE).parameters or 0
    before = quality(LARGE, parameters, "Q4_K_M", CODING.axis)
    found = kept(diverged(LARGE, 0.2)).of(CODING)
    after = found.quality(LARGE, parameters, "Q4_K_M")
    assert before.loss.basis is not Basis.MEASURED
    assert (after.loss.value, after.loss.low, after.loss.high) == pytest.approx((0.2, 0.18, 0.22))
    assert after.loss.basis is Basis.MEASURED
    assert "measured here" in after.loss.source
    assert after.score.value < before.score.value
    assert found.said(LARGE, "Q4_K_M") == (
        "measured here: Q4_K_M lies 0.2 nats (0.18–0.22) from the unquantized model",
    )
    assert found.said(LARGE, "Q8_0") == ()


def test_only_the_model_itself_with_all_its_bits_is_a_reference(kept: Callable[..., Evidence]) -> None:
    distilled = replace(diverged(LARGE, 0.3), reference=_model(SMALL, "F16"))
    found = kept(diverged(LARGE, 0.2, reference="Q8_0"), distilled)
    assert found.losses.get(LARGE, {}) == {}


def test_of_several_divergences_the_longest_counts(kept: Callable[..., Evidence]) -> None:
    found = kept(diverged(LARGE, 0.2, windows=50), diverged(LARGE, 0.1, windows=400))
    assert found.losses[LARGE]["Q4_K_M"].value == 0.1


@pytest.mark.parametrize("nats", [-0.5, 1e-300, 1e5, 1e290])
def test_what_is_no_divergence_counts_for_nothing(nats: float, kept: Callable[..., Evidence]) -> None:
    odd = Measure("kl_nats", figure(nats, nats - abs(nats), nats + abs(nats), "nats"), 50)
    found = kept(replace(diverged(LARGE, 0.1), measures=(odd,)))
    assert found.losses.get(LARGE, {}) == {}


# --- tasks -------------------------------------------------------------------------------------------


def test_models_on_the_same_tasks_move_towards_what_was_measured(kept: Callable[..., Evidence]) -> None:
    """The small one passes more, so the two come nearer, and it is said of both."""
    before = {model: _points(Evidence(), model) for model in (SMALL, LARGE)}
    found = kept(passes(SMALL, 32), passes(LARGE, 20))
    assert _points(found, SMALL) > before[SMALL]
    assert _points(found, LARGE) < before[LARGE]
    said = found.of(CODING).said(SMALL, "Q4_K_M")[0]
    assert said.startswith("measured here: Q4_K_M passes 80 % (")
    assert "of 40 tasks of this need; beside Qwen2.5-Coder-14B-Instruct that moves its index by +" in said
    moved = found.of(CODING).quality(SMALL, _model(SMALL).parameters or 0, "Q4_K_M")
    assert "passes at 40 tasks measured here" in moved.score.source


def test_another_recipe_of_the_model_moves_too_and_stays_as_unsure(kept: Callable[..., Evidence]) -> None:
    found = kept(passes(SMALL, 32), passes(LARGE, 20)).of(CODING)
    parameters = _model(SMALL).parameters or 0
    for recipe, narrower in (("Q4_K_M", True), ("Q6_K", False)):
        plain = quality(SMALL, parameters, recipe, CODING.axis).score
        moved = found.quality(SMALL, parameters, recipe).score
        assert moved.value - plain.value == pytest.approx(found.shifts[SMALL].points)
        assert (moved.high - moved.low < 0.999 * (plain.high - plain.low)) is narrower


def test_a_model_measured_alone_is_shown_and_not_moved(kept: Callable[..., Evidence]) -> None:
    found = kept(passes(SMALL, 40))
    assert _points(found, SMALL) == _points(Evidence(), SMALL)
    (said,) = found.of(CODING).said(SMALL, "Q4_K_M")
    assert said.endswith("no other model was measured on 10 of them, so they do not move its place")


@pytest.mark.parametrize(
    "other",
    [
        passes(LARGE, 20, style="completion"),
        passes(LARGE, 20, needs="debugging"),
        replace(passes(LARGE, 20), model=replace(_model(LARGE), catalog_id="")),
    ],
    ids=["asked otherwise", "other tasks", "a stranger"],
)
def test_what_is_not_comparable_moves_nothing(other: QualityResult, kept: Callable[..., Evidence]) -> None:
    found = kept(passes(SMALL, 32), other)
    assert found.of(CODING).shifts == {}


def test_completion_goes_by_gaps_filled_and_debugging_by_debugging(kept: Callable[..., Evidence]) -> None:
    found = kept(
        *(passes(model, count, style="completion") for model, count in ((SMALL, 30), (LARGE, 10))),
        *(passes(model, count, needs="debugging") for model, count in ((SMALL, 10), (LARGE, 30))),
    )
    assert found.of(TASKS["autocomplete"]).shifts[SMALL].points > 0
    assert found.of(TASKS["debugging"]).shifts[SMALL].points < 0
    assert found.of(TASKS["chat"]).shifts == {}


def test_a_model_that_the_catalog_does_not_know_is_no_anchor(kept: Callable[..., Evidence]) -> None:
    stranger = replace(passes(LARGE, 20), model=replace(_model(LARGE), catalog_id="no/such-model"))
    assert kept(passes(SMALL, 32), stranger).of(CODING).shifts == {}


def test_what_others_measured_is_no_evidence_of_ones_own(tmp_path: Path) -> None:
    from weigh.store.exchange import export, take_in

    export(tmp_path / "theirs.json", [], [], [passes(SMALL, 32), passes(LARGE, 20), diverged(SMALL, 0.5)])
    store = Store(tmp_path / "weigh.db")
    assert take_in(store, tmp_path / "theirs.json", "Ada").results == 3
    assert evidence(store) == Evidence()


# --- code --------------------------------------------------------------------------------------------


def test_ones_own_code_is_a_reason_with_a_paired_difference_and_moves_nothing(
    kept: Callable[..., Evidence],
) -> None:
    found = kept(on_code(SMALL, 0.60), on_code(LARGE, 0.55))
    (small,) = found.of(CODING).said(SMALL, "Q4_K_M")
    (large,) = found.of(CODING).said(LARGE, "Q4_K_M")
    assert small == (
        "measured on your code (mine): 0.75 bits per byte, worse than Qwen2.5-Coder-14B-Instruct by 0.05 (0.05–0.05)"
    )
    assert "better than Qwen2.5-Coder-7B-Instruct by 0.05" in large
    assert _points(found, SMALL) == _points(Evidence(), SMALL)


def test_models_that_read_other_excerpts_are_not_compared(kept: Callable[..., Evidence]) -> None:
    other = on_code(LARGE, 0.55)
    pieces = tuple((f"f{str(piece[0])[1:]}", *piece[1:]) for piece in other.pieces)
    found = kept(on_code(SMALL, 0.60), replace(other, pieces=pieces))
    assert found.of(CODING).said(SMALL, "Q4_K_M") == ("measured on your code (mine): 0.75 bits per byte",)


# --- the ranking -------------------------------------------------------------------------------------


def _ranked(here: Here, found: Evidence) -> list[Recommendation]:
    host = replace(here.target.host, memory_bytes=64 * GIB, free_bytes=16 * GIB)
    roomy = replace(here, target=replace(here.target, host=host), calibration=None)
    return list(recommend(need("coding"), roomy, limit=200, evidence=found).ranked)


def test_evidence_changes_the_order_and_stands_among_the_reasons(
    calibrated: Here, kept: Callable[..., Evidence]
) -> None:
    def place(ranked: list[Recommendation], model_id: str) -> int:
        return [one.entry.id for one in ranked].index(model_id)

    before = _ranked(calibrated, Evidence())
    after = _ranked(calibrated, kept(passes(SMALL, 40), passes(LARGE, 4), diverged(LARGE, 1.0)))
    assert place(after, LARGE) > place(before, LARGE)
    assert place(after, SMALL) <= place(before, SMALL)
    small = after[place(after, SMALL)]
    assert small.moved
    assert small.measured_here
    assert set(small.measured_here) <= set(small.reasons)
    assert not before[0].measured_here
