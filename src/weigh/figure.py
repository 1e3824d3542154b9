"""A number that says how sure it is and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict


class Basis(StrEnum):
    """Where a figure comes from, surest first."""

    MEASURED = "measured"  # run here, this very thing
    COMPUTED = "computed"  # exact arithmetic on the file's or the model's own shapes
    TEST_DRIVEN = "test-driven"  # run here on a stand-in of the true shapes
    CALIBRATED = "calibrated"  # a formula whose constants were measured on this machine
    PUBLISHED = "published"  # someone else's measurement, with its source
    SPEC_SHEET = "spec-sheet"  # a formula over a vendor's figures
    RULE_OF_THUMB = "rule-of-thumb"  # no better evidence at hand


class FigureJson(TypedDict):
    """The stable JSON form of a figure."""

    value: float
    low: float
    high: float
    unit: str
    basis: str


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` with its 80 % interval `low`..`high`, in `unit` ("bytes", "tokens/s", "s", "bytes/s")."""

    value: float
    low: float
    high: float
    unit: str
    basis: Basis
    source: str = ""

    @classmethod
    def exact(cls, value: float, unit: str, basis: Basis = Basis.COMPUTED, source: str = "") -> Figure:
        return cls(value, value, value, unit, basis, source)

    @classmethod
    def within(cls, value: float, relative: float, unit: str, basis: Basis, source: str = "") -> Figure:
        """`value` known to within a factor of ``1 + relative`` either way."""
        return cls(value, value / (1 + relative), value * (1 + relative), unit, basis, source)

    def to_json(self) -> FigureJson:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "unit": self.unit,
            "basis": str(self.basis),
        }
