"""TTFT, ITL and TPOT of arrivals, worked by hand."""

from __future__ import annotations

import pytest

from weigh.bench.token_times import itl_s, tpot_s, ttft_s


def test_one_token_a_piece() -> None:
    times = (0.5, 0.6, 0.8)
    assert ttft_s(times) == 0.5
    assert itl_s(times) == pytest.approx((0.1, 0.2))
    assert tpot_s(times) == pytest.approx(0.15)


def test_a_piece_of_several_tokens_shares_its_gap_evenly() -> None:
    times = (0.5, 0.8, 0.8, 0.8, 0.9)
    assert itl_s(times) == pytest.approx((0.1, 0.1, 0.1, 0.1))
    assert tpot_s(times) == pytest.approx(0.1)
    assert sum(itl_s(times)) == pytest.approx(times[-1] - times[0])


def test_a_first_piece_of_several_tokens_has_no_gap() -> None:
    times = (0.5, 0.5, 0.7)
    assert itl_s(times) == pytest.approx((0.2,))
    assert tpot_s(times) == pytest.approx(0.1)  # two tokens after the first, in 0.2 s


def test_what_is_too_short_has_none() -> None:
    assert (ttft_s(()), itl_s(()), tpot_s(())) == (None, (), None)
    assert (ttft_s((0.5,)), itl_s((0.5,)), tpot_s((0.5,))) == (0.5, (), None)
    assert itl_s((0.5, 0.5)) == ()
    assert tpot_s((0.5, 0.5)) == 0.0
