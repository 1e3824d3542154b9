"""Memory bandwidth, measured for real."""

from __future__ import annotations

import pytest

from weigh.errors import BadInput
from weigh.figure import Basis
from weigh.machine.bandwidth import buffer_bytes, measure_bandwidth
from weigh.machine.cpu import read_cpu
from weigh.units import GIB, MIB


def test_counts_up_to_the_cores_allowed_are_measured() -> None:
    bandwidth = measure_bandwidth()
    counts = [threads for threads, _ in bandwidth.by_threads]
    assert counts == sorted(set(counts))
    assert counts[0] == 1
    assert counts[-1] == read_cpu().threads
    for _, figure in bandwidth.by_threads:
        assert 0 < figure.low <= figure.value <= figure.high
        assert (figure.unit, figure.basis) == ("bytes/s", Basis.MEASURED)
    assert bandwidth.best.value == max(figure.value for _, figure in bandwidth.by_threads)


def test_counts_asked_for_are_measured_in_order() -> None:
    assert [threads for threads, _ in measure_bandwidth([3, 1, 3]).by_threads] == [1, 3]


@pytest.mark.parametrize("threads", [[], [0, 1], [-1], [1, 5000]])
def test_senseless_counts_are_bad_input(threads: list[int]) -> None:
    with pytest.raises(BadInput):
        measure_bandwidth(threads)


@pytest.mark.parametrize(
    ("cache_bytes", "available_bytes", "expected_bytes"),
    [
        (None, 16 * GIB, 256 * MIB),  # cache unknown
        (8 * MIB, 16 * GIB, 256 * MIB),  # six caches are 48 MiB, too little to time
        (105 * MIB, 16 * GIB, 630 * MIB),
        (768 * MIB, 64 * GIB, 2 * GIB),  # six caches are 4.5 GiB, too long to fill
        (105 * MIB, 1 * GIB, 256 * MIB),  # a quarter of what is available
        (105 * MIB, 0, 1 * MIB),
    ],
)
def test_buffer_outgrows_the_cache_within_what_memory_allows(
    cache_bytes: int | None, available_bytes: int, expected_bytes: int
) -> None:
    assert buffer_bytes(cache_bytes, available_bytes) == expected_bytes
