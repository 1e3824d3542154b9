"""Budgets: limits that a measurement has to keep, and the JUnit XML that CI systems read.

The median decides. Where its 80 % interval holds the limit, or the runs are too few for one, the verdict says that it
is not sure. Of several conditions (prompts, depths, sequences at once) the worst counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from weigh import units
from weigh.bench.figures import ENGINE
from weigh.bench.stopping import CONFIDENCE
from weigh.errors import MOST_LETTERS
from weigh.median import interval_confidence
from weigh.store.measurement import Measured, Measurement


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on one quantity.

    Attributes:
        quantities: names in a measurement; the first of them that was measured is judged.
        most: whether the limit is the most; else it is the least.
    """

    name: str
    quantities: tuple[str, ...]
    limit: float
    unit: str
    most: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a budget.

    Attributes:
        measured: of the worst condition; None when it was not measured, which is a miss.
        met: whether the median keeps the limit.
        sure: whether there is an interval, and all of it lies on one side of the limit.
    """

    budget: Budget
    measured: Measured | None
    met: bool
    sure: bool


QUANTITIES: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "max-memory": (("peak_memory_bytes",), "bytes", True),
    "max-load": (("load_cold_s", "load_cached_s"), "s", True),
    "max-ttft": (("ttft_s",), "s", True),
    "max-itl": (("itl_s",), "s", True),
    "min-decode": (("decode_tokens_per_s",), "tokens/s", False),
    "min-prefill": (("prefill_tokens_per_s",), "tokens/s", False),
}
"""By the names people give budgets: what is judged, its unit, and whether the limit is the most."""


def budget(name: str, limit: float) -> Budget:
    """One of `QUANTITIES`, with its limit in the quantity's own unit."""
    quantities, unit, most = QUANTITIES[name]
    return Budget(name, quantities, limit, unit, most)


def judge(measurement: Measurement, budgets: tuple[Budget, ...]) -> tuple[Verdict, ...]:
    return tuple(_verdict(measurement, one) for one in budgets)


def _verdict(measurement: Measurement, asked: Budget) -> Verdict:
    found = next((seen for name in asked.quantities if (seen := _seen(measurement, name))), [])
    if not found:
        return Verdict(asked, None, met=False, sure=True)
    worst = (max if asked.most else min)(found, key=lambda one: one.figure.value)
    figure = worst.figure
    met = figure.value <= asked.limit if asked.most else figure.value >= asked.limit
    return Verdict(asked, worst, met, _sure(worst, asked.limit))


def _sure(one: Measured, limit: float) -> bool:
    """Times of too few runs give no interval; memory is the kernel's own count, which needs none."""
    figure = one.figure
    known = one.unit == "bytes" or interval_confidence(len(one.samples), CONFIDENCE) >= CONFIDENCE
    return known and not figure.low < limit < figure.high


def _seen(measurement: Measurement, name: str) -> list[Measured]:
    """By the engine's own clock where it was measured by both."""
    every = [one for one in measurement.measured if one.name == name]
    return [one for one in every if one.conditions.get("clock") == ENGINE] or every


def junit(measurement: Measurement, verdicts: tuple[Verdict, ...], took_s: float) -> bytes:
    """One test case a budget, in the form that Jenkins, GitLab and GitHub's actions read.

    Source: the schema of Jenkins' xUnit plugin, junit-10.xsd.
    """
    of = f"{measurement.name} on {measurement.engine}"
    cases = []
    for verdict in verdicts:
        case = ElementTree.Element("testcase", name=verdict.budget.name, classname=_plain(of), time="0")
        told = _plain(said(verdict))
        if verdict.met:
            ElementTree.SubElement(case, "system-out").text = told
        else:
            failure = ElementTree.SubElement(case, "failure", message=told, type="budget")
            failure.text = "\n".join([told, *(_plain(problem) for problem in measurement.problems)])
        cases.append(case)
    return _suites(f"weigh check {of}", cases, took_s)


def junit_of_failure(budgets: tuple[Budget, ...], message: str) -> bytes:
    """Every case in error, because the engine failed and nothing could be judged."""
    cases = []
    for asked in budgets:
        case = ElementTree.Element("testcase", name=asked.name, classname="weigh check", time="0")
        ElementTree.SubElement(case, "error", message=_plain(message), type="engine")
        cases.append(case)
    return _suites("weigh check", cases, 0.0)


def _suites(name: str, cases: list[ElementTree.Element], took_s: float) -> bytes:
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": _plain(name), **counts, "skipped": "0", "time": f"{took_s:.3f}"}
    )
    suite.extend(cases)
    ElementTree.indent(suites)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def said(verdict: Verdict) -> str:
    """`ttft_s 2.1 s (2.0 s to 2.3 s) at prompt_tokens 512, at most 2.0 s asked for`."""
    asked = verdict.budget
    bound = f"at {'most' if asked.most else 'least'} {_shown(asked.limit, asked.unit)}{_unit(asked.unit)} asked for"
    if verdict.measured is None:
        return f"{' or '.join(asked.quantities)} was not measured, {bound}"
    figure = verdict.measured.figure
    conditions = ", ".join(f"{key} {value}" for key, value in verdict.measured.conditions.items())
    unsure = "" if verdict.sure else "; not sure: runs differ, or are few"
    return (
        f"{verdict.measured.name} {_shown(figure.value, figure.unit)}"
        f" ({_shown(figure.low, figure.unit)} to {_shown(figure.high, figure.unit)}){_unit(figure.unit)}"
        f"{f' at {conditions}' if conditions else ''}, {bound}{unsure}"
    )


def _shown(value: float, unit: str) -> str:
    if unit == "bytes":
        return units.gib(value)
    return units.seconds(value) if unit == "s" else f"{value:.6g}"


def _unit(unit: str) -> str:
    """What follows a number that does not hold its unit already."""
    return "" if unit in ("bytes", "s") else f" {unit}"


def _plain(text: str) -> str:
    """XML 1.0 knows few control characters, and `ElementTree` writes them all the same."""
    return "".join(c if c.isprintable() else "?" for c in text[:MOST_LETTERS])
