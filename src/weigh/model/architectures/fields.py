"""Checked reading of a `config.json`, which is untrusted: any field may be missing, absurd or of another type."""

from __future__ import annotations

import math
from collections.abc import Mapping

from weigh.errors import BadInput

MOST_LAYERS = 512  # what llama.cpp takes (LLAMA_MAX_LAYERS)
MOST = 1 << 24  # no width, vocabulary or window of a real model comes near


class Fields:
    """The fields of one model's config, each read as the type it must have.

    A field may be known under several names; the first that is present and not null counts.
    Every getter raises `BadInput` naming the model and the field.
    """

    def __init__(
        self, origin: str, values: Mapping[str, object], taken: dict[str, object] | None = None
    ) -> None:
        """`taken` collects the defaults that stood for missing fields, those of sections with them."""
        self.origin = origin
        self.values = values
        self.taken = {} if taken is None else taken

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def with_defaults(self, **defaults: object) -> Fields:
        """The same fields, and what a missing one means in the model's transformers class."""
        given = {name: value for name, value in self.values.items() if value is not None}
        self.taken |= {name: value for name, value in defaults.items() if name not in given}
        return Fields(self.origin, {**defaults, **given}, self.taken)

    def count(self, *names: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """A whole number in `least`..`most`; `default` stands for a missing one, None means required."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return self._whole(name, value, least, most)
        if default is None:
            raise BadInput(f"{self.origin}: `{names[0]}` is missing from the config")
        if default:  # 0 says that there is no such thing, which a missing field says too
            self.taken[names[0]] = default
        return default

    def number(self, *names: str, default: float | None = None) -> float:
        """A finite number."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
                raise self._wrong(name, value, "a number")
            if not math.isfinite(value):
                raise self._wrong(name, value, "a number")
            return float(value)
        if default is None:
            raise BadInput(f"{self.origin}: `{names[0]}` is missing from the config")
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str = "") -> str:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 4096:
            raise self._wrong(name, value, "a short text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, one per layer; empty when missing."""
        return tuple(
            v if isinstance(v, str) else self._refuse(name, v, "a list of texts") for v in self.items(name)
        )

    def counts(self, name: str, *, least: int = 0, most: int = MOST) -> tuple[int, ...]:
        """A list of whole numbers; empty when missing."""
        return tuple(self._whole(name, v, least, most) for v in self.items(name))

    def items(self, name: str) -> list[object]:
        """A list of at most a few entries per layer; empty when missing."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > 8 * MOST_LAYERS:
            raise self._wrong(name, value, "a list of at most one entry per layer")
        return value

    def section(self, *names: str) -> Fields:
        """The fields nested under the first of `names` that is there; empty when none is."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if not isinstance(value, dict):
                raise self._wrong(name, value, "an object")
            return Fields(self.origin, value, self.taken)
        return Fields(self.origin, {}, self.taken)

    def _whole(self, name: str, value: object, least: int, most: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def _refuse(self, name: str, value: object, expected: str) -> str:
        raise self._wrong(name, value, expected)

    def _wrong(self, name: str, value: object, expected: str) -> BadInput:
        shown = (
            repr(value) if isinstance(value, int | float | str) and not _long(value) else type(value).__name__
        )
        return BadInput(f"{self.origin}: `{name}` is {shown[:40]}, expected {expected}")


def _long(value: int | float | str) -> bool:
    """Whether printing it is not worth it (a number of thousands of digits cannot even be printed)."""
    return len(value) > 40 if isinstance(value, str) else abs(value) > 1e30
