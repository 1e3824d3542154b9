"""Budgets on made measurements, and the XML that CI systems read."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from weigh.bench.budget import Verdict, budget, judge, junit, said
from weigh.store.measurement import Measured, Measurement

SAMPLES = (9.0, 10.0, 10.0, 11.0)


def measurement(*measured: Measured, **changed: object) -> Measurement:
    given = {
        "kind": "bench",
        "when_unix_s": 1.0,
        "engine": "llama.cpp",
        "model": "m",
        "quantization": "Q4_K_M",
    }
    return Measurement(**{**given, "measured": measured, **changed})  # type: ignore[arg-type]


def decode(*samples: float, clock: str = "engine", depth: int = 0) -> Measured:
    return Measured("decode_tokens_per_s", "tokens/s", samples, {"clock": clock, "depth_tokens": depth})


def verdict(limit: float, *measured: Measured, name: str = "min-decode") -> Verdict:
    (found,) = judge(measurement(*measured), (budget(name, limit),))
    return found


@pytest.mark.parametrize(
    ("limit", "met", "sure"),
    [(8.0, True, True), (9.5, True, False), (10.5, False, False), (12.0, False, True)],
)
def test_the_median_decides_and_the_interval_says_how_sure(limit: float, met: bool, sure: bool) -> None:
    found = verdict(limit, decode(*SAMPLES))
    assert (found.met, found.sure) == (met, sure)
    longest = verdict(limit, Measured("ttft_s", "s", SAMPLES), name="max-ttft")
    assert (longest.met, longest.sure) == (not met, sure)


def test_a_limit_that_is_met_exactly_is_kept() -> None:
    assert verdict(10.0, decode(*SAMPLES)).met
    assert verdict(10.0, Measured("itl_s", "s", SAMPLES), name="max-itl").met


def test_too_few_runs_are_never_sure_but_memory_is() -> None:
    assert not verdict(1.0, decode(10.0)).sure
    assert verdict(50.0, Measured("peak_memory_bytes", "bytes", (40.0,)), name="max-memory").sure


def test_the_worst_condition_counts_by_the_engines_clock() -> None:
    found = verdict(9.0, decode(*SAMPLES), decode(5.0, depth=4096), decode(1.0, clock="client"))
    assert not found.met
    assert found.measured is not None
    assert found.measured.conditions["depth_tokens"] == 4096
    assert verdict(0.5, decode(1.0, clock="client")).met  # of a server without a clock


def test_a_cold_start_counts_where_it_was_measured() -> None:
    cold, cached = Measured("load_cold_s", "s", (9.0,)), Measured("load_cached_s", "s", (1.0,))
    assert not verdict(5.0, cached, cold, name="max-load").met
    assert verdict(5.0, cached, name="max-load").met


def test_what_was_not_measured_is_missed() -> None:
    found = verdict(5.0, name="max-memory")
    assert (found.measured, found.met) == (None, False)
    assert said(found) == "peak_memory_bytes was not measured, at most 0.0 KiB asked for"


def test_words_hold_figure_interval_and_limit() -> None:
    assert said(verdict(9.5, decode(*SAMPLES))) == (
        "decode_tokens_per_s 10 (9 to 11) tokens/s at clock engine, depth_tokens 0,"
        " at least 9.5 tokens/s asked for; not sure: runs differ, or are few"
    )


def test_junit_has_a_case_for_each_budget() -> None:
    found = measurement(decode(*SAMPLES), model='a<b>&"c\x00', problems=("a\x1bb",))
    verdicts = judge(found, (budget("min-decode", 8), budget("min-decode", 12), budget("max-memory", 1)))
    suites = ElementTree.fromstring(junit(found, verdicts, 1.5))
    assert suites.tag == "testsuites"
    (suite,) = suites
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "3",
        "failures": "2",
        "errors": "0",
        "skipped": "0",
        "time": "1.500",
    }
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["min-decode", "min-decode", "max-memory"]
    assert cases[0].find("failure") is None
    failure = cases[1].find("failure")
    assert failure is not None
    assert "10 (9 to 11) tokens/s" in (failure.get("message") or "")
    assert "a?b" in (failure.text or "")
    assert 'a<b>&"c?' in (cases[0].get("classname") or "")
