"""Values that travel whole between two processes, and how a changed one is taken over. Imports nothing of weigh."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

MUTABLE = (list, dict, set)


def restore(value: Any, changed: Any) -> None:
    """Give a list, dict or set the contents `changed`, keeping the containers in it that are still there."""
    if type(value) is not type(changed) or not isinstance(value, MUTABLE):
        return
    if isinstance(value, list):
        same = len(value) == len(changed)
        value[:] = [_restored(*pair) for pair in zip(value, changed, strict=True)] if same else changed
    elif isinstance(value, dict):
        merged = {key: _restored(value.get(key), entry) for key, entry in changed.items()}
        value.clear()
        value.update(merged)
    else:
        value.clear()
        value.update(changed)


def _restored(value: Any, changed: Any) -> Any:
    if type(value) is not type(changed) or not isinstance(value, MUTABLE):
        return changed
    restore(value, changed)
    return value


COLLECTIONS: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
# name, class, to JSON, from JSON; datetime before date, which it is a subclass of
SCALARS: tuple[tuple[str, Any, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    ("bytes", bytes | bytearray, lambda v: bytes(v).hex(), bytes.fromhex),
    ("complex", complex, lambda v: [repr(v.real), repr(v.imag)], lambda v: complex(float(v[0]), float(v[1]))),
    ("datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    ("date", date, date.isoformat, date.fromisoformat),
    ("time", time, time.isoformat, time.fromisoformat),
    (
        "timedelta",
        timedelta,
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda v: timedelta(days=v[0], seconds=v[1], microseconds=v[2]),
    ),
    ("decimal", Decimal, str, Decimal),
    (
        "fraction",
        Fraction,
        lambda v: [hex(v.numerator), hex(v.denominator)],
        lambda v: Fraction(int(v[0], 16), int(v[1], 16)),
    ),
    ("path", PurePath, str, Path),
    ("range", range, lambda v: [v.start, v.stop, v.step], lambda v: range(*v)),
)
