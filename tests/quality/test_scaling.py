"""The curve L(N, D) against curves it should find, and its intervals against their promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weigh.errors import BadInput
from weigh.quality import scaling
from weigh.quality.scaling import LossCurve, Run, fit_loss_curve

TRUTH = LossCurve(0.6, 30.0, 0.35, 400.0, 0.45, "nats")
SIZES = (250_000, 600_000, 1_500_000, 4_000_000, 11_000_000, 31_000_000)


def runs(noise: float, seed: int, tokens: tuple[int, ...] = (1_000_000, 2_000_000, 4_000_000)) -> list[Run]:
    random = np.random.default_rng(seed)
    return [
        Run(size, amount, TRUTH.loss(size, amount) * math.exp(noise * random.standard_normal()))
        for size in SIZES
        for amount in tokens
    ]


def test_a_curve_without_noise_is_found() -> None:
    found = fit_loss_curve(runs(0, 1), "nats", draws=2)
    assert found.size_exponent == pytest.approx(0.35, abs=0.03)
    assert found.data_exponent == pytest.approx(0.45, abs=0.03)
    for size in (*SIZES, 100_000_000):
        assert found.loss(size, 3_000_000) == pytest.approx(TRUTH.loss(size, 3_000_000), rel=0.01)


def test_one_amount_of_data_gives_a_curve_over_size_alone() -> None:
    found = fit_loss_curve(runs(0, 1, tokens=(2_000_000,)), "nats", draws=2)
    assert found.data_coefficient == 0
    assert found.loss(5_000_000, 1) == pytest.approx(TRUTH.loss(5_000_000, 2_000_000), rel=0.01)


def test_intervals_hold_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for exponents in ("SIZE_EXPONENTS", "DATA_EXPONENTS"):  # a coarser grid, for time
        monkeypatch.setattr(scaling, exponents, np.linspace(0.02, 1.2, 30))
    held = 0
    for seed in range(40):
        figure = fit_loss_curve(runs(0.01, seed), "nats", draws=40).gain_per_doubling(4_000_000, 2_000_000)
        truth = TRUTH.loss(4_000_000, 2_000_000) - TRUTH.loss(8_000_000, 2_000_000)
        held += figure.low <= truth <= figure.high
    assert 24 <= held <= 40  # 32 of 40 expected


def test_a_further_run_lies_within_its_interval_about_as_often_as_it_says() -> None:
    """Six runs and three unknowns: the curve follows them closer than a further one will lie."""
    held = 0
    for seed in range(100):
        seen, more = (runs(0.01, number, tokens=(2_000_000,)) for number in (seed, 5000 + seed))
        figure = fit_loss_curve(seen, "nats", draws=20).at(more[3].parameters, more[3].tokens)
        held += figure.low <= more[3].loss <= figure.high
    assert 68 <= held <= 92  # 80 expected


def test_gains_shrink_with_size() -> None:
    found = fit_loss_curve(runs(0.005, 3), "nats", draws=20)
    gains = [found.gain_per_doubling(size, 2_000_000).value for size in SIZES]
    assert gains == sorted(gains, reverse=True)


def test_too_few_sizes_are_refused() -> None:
    with pytest.raises(BadInput, match="4 sizes"):
        fit_loss_curve(runs(0, 1)[:9], "nats")
