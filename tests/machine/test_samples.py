from __future__ import annotations

import pytest

from weigh.figure import Basis
from weigh.machine.samples import measured_rate


def test_median_with_the_middle_eighty_percent() -> None:
    # Eleven samples 0, 10, ... 100: the tenths fall on the samples themselves.
    figure = measured_rate([float(10 * n) for n in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 10)], "here")
    assert (figure.low, figure.value, figure.high) == pytest.approx((10, 50, 90))
    assert (figure.unit, figure.basis, figure.source) == ("bytes/s", Basis.MEASURED, "here")


def test_one_sample_shows_no_spread() -> None:
    figure = measured_rate([7.0], "here")
    assert figure.low == figure.value == figure.high == 7.0
