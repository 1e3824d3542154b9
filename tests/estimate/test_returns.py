"""What size brings within a family, and the same bytes spent on size or on bits."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from tests.cli.test_commands import answer, ask
from weigh import units
from weigh.errors import BadInput
from weigh.estimate.quality import loss_points
from weigh.estimate.quantization_loss import quantization_loss
from weigh.estimate.returns import RECIPES, doublings, same_bytes

CODING = {"code": 0.85, "general": 0.15}


def test_each_doubling_brings_less_than_the_one_before() -> None:
    steps = doublings(CODING)
    gains = [step.gain.value for step in steps]
    assert gains == sorted(gains, reverse=True)
    assert all(step.gain.low <= step.gain.value <= step.gain.high for step in steps)
    assert all(
        step.per_gib.value == pytest.approx(step.gain.value / (step.weights_bytes / units.GIB))
        for step in steps
    )


def test_the_same_bytes_are_the_same_bytes() -> None:
    ways = same_bytes(8 * units.GIB, CODING)
    bits = json.loads(files("weigh.data").joinpath("quality_loss.json").read_text())["bits_per_weight"]
    for way in ways:
        assert way.parameters * bits[way.recipe] / 8 == pytest.approx(8 * units.GIB, rel=1e-6)
    assert sum(way.best_chance for way in ways) == pytest.approx(1, abs=0.02)
    assert max(way.behind.value for way in ways) == 0
    assert [way.recipe for way in ways] == list(RECIPES)


def test_the_loss_is_the_one_recommend_uses() -> None:
    way = same_bytes(4 * units.GIB, CODING, ("Q4_K_M", "Q8_0"))[0]
    assert way.loss == quantization_loss(way.parameters, "Q4_K_M")
    assert loss_points(way.loss, code=0.85, general=0.15).value > 0


def test_four_bits_beat_sixteen_and_eight() -> None:
    for size in (1, 4, 16, 64):
        behind = {way.recipe: way.behind for way in same_bytes(size * units.GIB, CODING)}
        assert behind["F16"].high < 0
        assert behind["Q8_0"].value < behind["Q4_K_M"].value


def test_unknown_recipes_and_no_bytes_are_refused() -> None:
    with pytest.raises(BadInput, match="Q9_9"):
        doublings(CODING, "Q9_9")
    with pytest.raises(BadInput, match="64 MiB"):
        same_bytes(1000, CODING)


def test_the_command_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = ask(capsys, "returns", "--weights", "4GiB")
    assert code == 0
    assert "8B → 16B" in shown
    assert "4.00 GiB" in shown
    assert len(answer(capsys, "returns")["doublings"]) == 8
