"""Values that travel whole between two processes, and how a changed one is taken over. Imports nothing of weigh."""

from __future__ import annotations

import sys
from collections.abc import Callable

TYPE_CHECKING = False  # typing takes as long to import as all else here
if TYPE_CHECKING:
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
# kind, module, class, to JSON, from JSON by the module; datetime before date, which it is a subclass of
_SCALARS: tuple[tuple[str, str, str, Callable[[Any], Any], Callable[[Any, Any], Any]], ...] = (
    ("bytes", "builtins", "bytes", lambda v: bytes(v).hex(), lambda m, v: m.bytes.fromhex(v)),
    ("bytes", "builtins", "bytearray", lambda v: bytes(v).hex(), lambda m, v: m.bytes.fromhex(v)),
    (
        "complex",
        "builtins",
        "complex",
        lambda v: [repr(v.real), repr(v.imag)],
        lambda m, v: m.complex(*map(float, v)),
    ),
    ("range", "builtins", "range", lambda v: [v.start, v.stop, v.step], lambda m, v: m.range(*v)),
    ("datetime", "datetime", "datetime", lambda v: v.isoformat(), lambda m, v: m.datetime.fromisoformat(v)),
    ("date", "datetime", "date", lambda v: v.isoformat(), lambda m, v: m.date.fromisoformat(v)),
    ("time", "datetime", "time", lambda v: v.isoformat(), lambda m, v: m.time.fromisoformat(v)),
    (
        "timedelta",
        "datetime",
        "timedelta",
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda m, v: m.timedelta(days=v[0], seconds=v[1], microseconds=v[2]),
    ),
    ("decimal", "decimal", "Decimal", str, lambda m, v: m.Decimal(v)),
    (
        "fraction",
        "fractions",
        "Fraction",
        lambda v: [hex(v.numerator), hex(v.denominator)],
        lambda m, v: m.Fraction(*(int(part, 16) for part in v)),
    ),
    ("path", "pathlib", "PurePath", str, lambda m, v: m.Path(v)),
)


def scalar_json(value: Any) -> tuple[str, Any] | None:
    """Kind and JSON of a value; None of what is no scalar. A class nobody has imported has no values."""
    for kind, module, name, to_json, _ in _SCALARS:
        known = getattr(sys.modules.get(module), name, None)
        if known is not None and isinstance(value, known):
            return kind, to_json(value)
    return None


def scalar(kind: str, content: Any) -> Any:
    """The value again.

    Raises:
        LookupError: there is no such kind.
    """
    for known, module, _, _, from_json in _SCALARS:
        if kind == known:
            return from_json(__import__(module), content)
    raise LookupError(kind)
