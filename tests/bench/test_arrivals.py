"""Arrivals of a load: their statistics, their seeds, and traces from files."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from weigh.bench.arrivals import Arrival, Lengths, Process, planned, read_trace
from weigh.errors import BadFile, BadInput

FIXED = Lengths(10, 10)


def _gaps(process: Process, rate: float, seconds: float, *, seed: int = 1, burst: int = 8) -> list[float]:
    found = planned(process, rate, seconds, FIXED, FIXED, seed=seed, burst=burst)
    return [b.at_s - a.at_s for a, b in pairwise(found)]


def test_poisson_gaps_are_exponential() -> None:
    """Kolmogorov-Smirnov against the exponential distribution: 1.63 / sqrt(n) is exceeded once in a hundred."""
    rate = 20.0
    gaps = sorted(_gaps(Process.POISSON, rate, 500.0))
    n = len(gaps)
    expected = [1 - math.exp(-rate * gap) for gap in gaps]
    furthest = max(max(abs(share - i / n), abs(share - (i + 1) / n)) for i, share in enumerate(expected))
    assert furthest < 1.63 / math.sqrt(n)
    assert abs(n - rate * 500) < 4 * math.sqrt(rate * 500)


def test_poisson_gaps_do_not_depend_on_each_other() -> None:
    gaps = _gaps(Process.POISSON, 20.0, 500.0)
    assert abs(statistics.correlation(gaps[:-1], gaps[1:])) < 4 / math.sqrt(len(gaps))


def test_constant_arrivals_are_evenly_spaced() -> None:
    gaps = _gaps(Process.CONSTANT, 4.0, 10.0)
    assert len(gaps) == 39
    assert all(gap == pytest.approx(0.25) for gap in gaps)


def test_bursts_come_at_once_at_the_same_mean_rate() -> None:
    found = planned(Process.BURST, 4.0, 10.0, FIXED, FIXED, seed=1, burst=5)
    times = [one.at_s for one in found]
    assert len(times) == 40
    assert times[:5] == [0.0] * 5
    assert times[5] == pytest.approx(5 / 4)


def test_the_same_seed_is_the_same_load() -> None:
    def plan(seed: int) -> tuple[Arrival, ...]:
        return planned(Process.POISSON, 5.0, 20.0, Lengths(1, 900), Lengths(50, 50, 0.5), seed=seed)

    assert plan(7) == plan(7)
    assert plan(7) != plan(8)


def test_lengths_are_the_same_at_every_rate() -> None:
    slow, fast = (planned(Process.POISSON, rate, 30.0, Lengths(1, 900), FIXED, seed=3) for rate in (2.0, 9.0))
    assert [one.prompt_tokens for one in slow] == [one.prompt_tokens for one in fast[: len(slow)]]


@pytest.mark.parametrize(
    ("text", "lengths"),
    [("512", Lengths(512, 512)), ("128-1024", Lengths(128, 1024)), ("512~0.5", Lengths(512, 512, 0.5))],
)
def test_lengths_are_read_and_said_alike(text: str, lengths: Lengths) -> None:
    assert Lengths.parse(text) == lengths
    assert str(lengths) == text


@pytest.mark.parametrize("text", ["", "0", "9-3", "-4", "5~", "x", "1e3", "512~99", "99999999999"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Lengths.parse(text)


def test_log_normal_lengths_have_the_median_asked_for() -> None:
    found = planned(Process.CONSTANT, 100.0, 100.0, Lengths(512, 512, 0.5), FIXED, seed=1)
    lengths = [one.prompt_tokens for one in found]
    # the median of 10,000 has a standard deviation of 1.25 x 0.5 / 100 of itself
    assert statistics.median(lengths) == pytest.approx(512, rel=4 * 0.00625)
    assert statistics.stdev(map(math.log, lengths)) == pytest.approx(0.5, rel=0.05)
    assert max(lengths) <= Lengths(512, 512, 0.5).most


def test_too_many_requests_are_refused() -> None:
    with pytest.raises(BadInput, match="too many"):
        planned(Process.POISSON, 1e5, 100.0, FIXED, FIXED, seed=1)


AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,374,44
2024-05-10 00:00:04.324509+00:00,396,109
"""
BURST_GPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,374,44,418,Conversation log
9.314579,ChatGPT,396,109,505,Conversation log
"""
MOONCAKE = """{"timestamp": 27000, "input_length": 374, "output_length": 44, "hash_ids": [1]}

{"timestamp": 31314.579, "input_length": 396, "output_length": 109, "hash_ids": [2]}
"""
OWN = "at_s,prompt_tokens,output_tokens\n4.314579,396,109\n0,374,44\n"


@pytest.mark.parametrize("text", [AZURE_2023, AZURE_2024, BURST_GPT, MOONCAKE, OWN])
def test_public_traces_and_our_own_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    first, second = read_trace(path)
    assert first == Arrival(0.0, 374, 44)
    assert (second.prompt_tokens, second.output_tokens) == (396, 109)
    assert second.at_s == pytest.approx(4.314579, abs=1e-5)


def test_a_trace_can_be_stretched_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(OWN)
    assert read_trace(path, stretch=10)[1].at_s == pytest.approx(43.14579)
    assert len(read_trace(path, stretch=10, seconds=40)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "without requests"),
        ("a,b,c\n1,2,3\n", "row 1 has no time"),
        ("at_s,prompt_tokens,output_tokens\n1,2,3\nnoon,2,3\n", "row 2"),
        ("at_s,prompt_tokens,output_tokens\n1,-2,3\n", "row 1"),
        ("at_s,prompt_tokens,output_tokens\nnan,2,3\n", "row 1"),
        ('{"at_s": 1, "prompt_tokens": 2, "output_tokens": 3}\n[1]\n', "line 2"),
        ('{"at_s": 1,\n', "line 1"),
    ],
)
def test_what_is_no_trace_names_the_row(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(BadFile, match=said):
        read_trace(path)


def test_a_trace_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot be read"):
        read_trace(tmp_path / "none.csv")
