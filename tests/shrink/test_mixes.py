import itertools

import numpy as np

from weigh.model.ggml_types import GgmlType
from weigh.shrink.mixes import Front, Option, hull

TYPES = (GgmlType.Q2_K, GgmlType.Q3_K, GgmlType.Q4_K, GgmlType.Q6_K)


def drawn(tensors: int, seed: int) -> dict[str, list[Option]]:
    """Options whose loss falls with their bytes, by chance more or less evenly."""
    random = np.random.default_rng(seed)
    return {
        f"t{n}": [
            Option(type, int(size), float(loss))
            for type, size, loss in zip(
                TYPES,
                np.cumsum(random.integers(10, 40, len(TYPES))),
                np.sort(random.exponential(1.0, len(TYPES)))[::-1],
                strict=True,
            )
        ]
        for n in range(tensors)
    }


def test_options_above_the_hull_are_left_out() -> None:
    best = [Option(GgmlType.Q2_K, 10, 1.0), Option(GgmlType.Q4_K, 20, 0.2), Option(GgmlType.Q6_K, 40, 0.1)]
    above = [
        Option(GgmlType.Q3_K, 15, 0.8),
        Option(GgmlType.IQ4_XS, 21, 0.3),
        Option(GgmlType.Q5_K, 30, 0.19),
    ]
    assert hull([*above, *best]) == best


def test_every_mix_of_the_front_is_the_best_of_its_size() -> None:
    """Against all 256 mixes of four tensors."""
    for seed in range(20):
        options = drawn(4, seed)
        front = Front(options)
        everything = [
            (sum(o.bytes for o in chosen), sum(o.loss for o in chosen))
            for chosen in itertools.product(*options.values())
        ]
        mixes = [front.mix(number) for number in range(len(front))]
        for mix in mixes:
            assert mix.loss <= min(loss for size, loss in everything if size <= mix.bytes) + 1e-12
        assert [m.bytes for m in mixes] == sorted(m.bytes for m in mixes)
        assert [m.loss for m in mixes] == sorted((m.loss for m in mixes), reverse=True)


def test_a_budget_is_kept_and_used() -> None:
    """Between two mixes of the front the best one is not found always, but never one worse than the smaller."""
    for seed in range(20):
        options = drawn(6, seed)
        front = Front(options)
        for budget in range(front.mix(0).bytes, front.mix(len(front) - 1).bytes + 1, 7):
            found = front.within(budget)
            assert found is not None
            assert found.bytes <= budget
            number = max(n for n in range(len(front)) if front.mix(n).bytes <= budget)
            assert found.loss <= front.mix(number).loss + 1e-12


def test_nothing_is_smaller_than_the_smallest() -> None:
    front = Front(drawn(3, 0))
    assert front.within(front.mix(0).bytes - 1) is None
