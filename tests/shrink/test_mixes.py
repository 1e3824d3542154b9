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


def test_a_budget_is_kept_and_used_as_well_as_it_can_be() -> None:
    """Against all 1,024 mixes of five tensors; a grain is one byte here."""
    for seed in range(10):
        options = drawn(5, seed)
        front = Front(options)
        everything = [
            (sum(o.bytes for o in chosen), sum(o.loss for o in chosen))
            for chosen in itertools.product(*options.values())
        ]
        for budget in range(front.mix(0).bytes, front.mix(len(front) - 1).bytes + 1, 7):
            found = front.within(budget)
            assert found is not None
            assert found.bytes <= budget
            assert found.loss <= min(loss for size, loss in everything if size <= budget) + 1e-12


def test_coarse_grains_lose_nothing_against_the_steps() -> None:
    options = {
        name: [Option(o.type, o.bytes * 100_003, o.loss) for o in each] for name, each in drawn(40, 3).items()
    }
    front = Front(options)
    for number in range(0, len(front) - 1, 5):
        budget = (front.mix(number).bytes + front.mix(number + 1).bytes) // 2
        found = front.within(budget)
        assert found is not None
        assert found.bytes <= budget
        assert found.loss <= front.mix(number).loss


def test_nothing_is_smaller_than_the_smallest() -> None:
    front = Front(drawn(3, 0))
    assert front.within(front.mix(0).bytes - 1) is None


def test_mixes_between_those_of_the_front_are_smaller_than_the_next_and_lose_less_than_the_last() -> None:
    for seed in range(20):
        front = Front(drawn(5, seed))
        fine = front.fine()
        assert [m.bytes for m in fine] == sorted({m.bytes for m in fine})
        assert [m.loss for m in fine] == sorted({m.loss for m in fine}, reverse=True)
        assert fine[0] == front.mix(0)
        assert fine[-1].loss == front.mix(len(front) - 1).loss
        assert {front.mix(n).loss for n in range(len(front))} <= {m.loss for m in fine}
    assert any(len(Front(drawn(5, seed)).fine()) > len(Front(drawn(5, seed))) for seed in range(20))
