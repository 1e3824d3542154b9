"""What is remembered of a model stays its own."""

from __future__ import annotations

from tests.tiny_models import tiny_llama
from weigh.estimate import remembered as module
from weigh.estimate.remembered import remembered
from weigh.model.spec import ModelSpec


def test_it_is_worked_out_once_for_each_model_and_argument() -> None:
    asked: list[tuple[str, int]] = []

    @remembered
    def layers_and(spec: ModelSpec, more: int) -> int:
        asked.append((spec.name, more))
        return spec.layers + more

    one, other = tiny_llama(name="one", layers=1), tiny_llama(name="other", layers=5)
    assert [layers_and(one, 1), layers_and(one, 1), layers_and(one, 2), layers_and(other, 1)] == [2, 2, 3, 6]
    assert asked == [("one", 1), ("one", 2), ("other", 1)]


def test_models_that_come_and_go_are_never_mistaken_for_one_another() -> None:
    @remembered
    def layers(spec: ModelSpec) -> int:
        return spec.layers

    counts = [layers(tiny_llama(layers=1 + n % 7)) for n in range(2 * module.MOST_REMEMBERED)]
    assert counts == [1 + n % 7 for n in range(2 * module.MOST_REMEMBERED)]
