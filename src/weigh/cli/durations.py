"""Parameter types of times and shares: `1.5s`, `100ms`, `2m`; `2%`."""

from __future__ import annotations

import re
from typing import Any

import click

_SECONDS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_NUMBER = r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*"


class Seconds(click.ParamType[float]):
    """A time such as `2s`, `100ms`, `1.5` (seconds) or `2m`; above 0."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(_NUMBER + "([a-z]*)", value.lower())
        if match is None or match[2] not in _SECONDS or not float(match[1]):
            self.fail(f"`{value}` is not a time; write it like `2s`, `100ms` or `2m`", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class Percent(click.ParamType[float]):
    """A share such as `2%`, as a fraction: above 0, below 1."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(_NUMBER + "%?", value)
        if match is None or not 0 < float(match[1]) < 100:
            self.fail(f"`{value}` is not a share; write it like `2%`", param, ctx)
        return float(match[1]) / 100
