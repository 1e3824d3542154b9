"""An untrusted JSON object, taken key by key: every type, size and letter is checked, and what is left is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_LETTERS = 300  # of a name
MOST_TOKENS = 1 << 30
LARGEST = 1e15  # of any figure: a petabyte, which nothing that is measured reaches
SMALLEST = 1e-9  # likewise: a nanosecond, so that no ratio of two overflows
LAST_UNIX_S = 4102444800.0  # the year 2100
MOST_DEPTH = 12  # of objects and lists in one another, where any are allowed

Scalar = int | float | str | bool | None
_KINDS: dict[type, str] = {int: "whole number", float: "number", str: "text", bool: "yes or no"}


def printable(text: str, most: int = MOST_LETTERS) -> str:
    """As `Fields` takes it, whatever it was; files name things in any letters and at any length."""
    return "".join(c if c.isprintable() else "?" for c in text[:most]).strip()


class Fields:
    """An untrusted JSON object, taken key by key; each method raises ValueError with the key's place."""

    def __init__(self, data: object, of: str, where: str = "") -> None:
        """`of`: what the object is, for the message about keys that it does not have."""
        self.of, self.where = of, where
        if not isinstance(data, dict):
            raise ValueError(f"`{where}` is not an object" if where else "is not an object")
        self._left = dict(data)

    def _at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def left(self) -> tuple[str, ...]:
        """The keys that have not been taken."""
        return tuple(self._left)

    def take(self, key: str) -> object:
        """Whatever the key holds."""
        if key not in self._left:
            raise ValueError(f"`{self._at(key)}` is missing")
        return self._left.pop(key)

    def known(self, key: str) -> bool:
        """Whether the key holds something; a null is taken."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return False
        return True

    def told(self, key: str) -> bool:
        """Likewise of a key that may be missing."""
        return key in self._left and self.known(key)

    def part(self, key: str) -> Fields:
        return Fields(self.take(key), self.of, self._at(key))

    def text(self, key: str, *, empty: bool = False) -> str:
        return self._text(self.take(key), key, empty=empty)

    def said(self, key: str) -> str:
        """A text that may be missing, null or empty; "" then."""
        return self.text(key, empty=True) if self.told(key) else ""

    def texts(
        self, key: str, *, most: int, empty: bool = False, letters: int = MOST_LETTERS
    ) -> tuple[str, ...]:
        return tuple(self._text(item, key, empty=empty, most=letters) for item in self._list(key, most))

    def parts(self, key: str, *, most: int) -> tuple[Fields, ...]:
        listed = self._list(key, most)
        return tuple(
            Fields(one, self.of, f"{self._at(key)}[{place}]") for place, one in enumerate(listed, start=1)
        )

    def scalars(self, key: str, *, most: int) -> dict[str, Scalar]:
        """An object of names and single values."""
        found = self._object(key)
        if len(found) > most:
            raise ValueError(f"`{self._at(key)}` holds more than {most} values")
        return {self._text(name, key): self._scalar(value, key) for name, value in found.items()}

    def plain(self, key: str) -> dict[str, Any]:
        """An object of any plain JSON: finite numbers, nested at most `MOST_DEPTH` deep."""
        found = self._object(key)
        if not _is_plain(found, MOST_DEPTH):
            raise ValueError(
                f"`{self._at(key)}` is no plain JSON of finite numbers, {MOST_DEPTH} deep at most"
            )
        return found

    def one_of(self, key: str, names: list[Any]) -> str:
        found = self.text(key)
        if found not in names:
            raise ValueError(f"`{self._at(key)}` is none of {', '.join(names)}")
        return found

    def number(self, key: str, *, zero: bool = False, most: float = LARGEST) -> float:
        return self._number(self.take(key), key, zero=zero, most=most)

    def signed(self, key: str, *, most: float = LARGEST) -> float:
        """A number of either sign."""
        found = self.take(key)
        if isinstance(found, bool) or not isinstance(found, int | float) or not -most <= found <= most:
            raise ValueError(f"`{self._at(key)}` is not a number from {-most:g} to {most:g}")
        return float(found) + 0.0  # minus nought is nought, so that equal runs have equal ids

    def numbers(self, key: str, *, most: int, zero: bool = False) -> tuple[float, ...]:
        return tuple(self._number(item, key, zero=zero) for item in self._list(key, most))

    def number_lists(self, key: str, *, most: int) -> tuple[tuple[float, ...], ...]:
        """Lists of numbers from nought up, of at most `most` in all."""
        lists = self._list(key, most)
        if not all(isinstance(one, list) for one in lists) or sum(map(len, lists)) > most:
            raise ValueError(f"`{self._at(key)}` is not a list of lists of at most {most} numbers")
        return tuple(tuple(self._number(item, key, zero=True) for item in one) for one in lists)

    def rows(self, key: str, columns: Mapping[str, type], *, most: int) -> tuple[tuple[Scalar, ...], ...]:
        """Lists of one value for each of the columns; text, whole and other numbers of either sign, or null."""
        return tuple(
            self._row(one, place, key, columns) for place, one in enumerate(self._list(key, most), 1)
        )

    def whole(self, key: str, *, least: int = 0, most: int = MOST_TOKENS) -> int:
        found = self.take(key)
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
            raise ValueError(f"`{self._at(key)}` is not a whole number from {least} to {most}")
        return found

    def end(self) -> None:
        if self._left:
            raise ValueError(f"`{self._at(min(self._left))[:MOST_LETTERS]}` is no key of {self.of}")

    def _row(self, found: object, place: int, key: str, columns: Mapping[str, type]) -> tuple[Scalar, ...]:
        if not isinstance(found, list) or len(found) != len(columns):
            raise ValueError(f"`{self._at(key)}[{place}]` is not {', '.join(columns)}")
        for value, (name, kind) in zip(found, columns.items(), strict=True):
            self._scalar(value, key)
            told = (int, float) if kind is float else (kind,)
            if value is not None and (type(value) not in told):
                raise ValueError(f"`{self._at(key)}[{place}]`: its {name} is no {_KINDS[kind]}")
        return tuple(found)

    def _list(self, key: str, most: int) -> list[Any]:
        found = self.take(key)
        if not isinstance(found, list) or len(found) > most:
            raise ValueError(f"`{self._at(key)}` is not a list of at most {most}")
        return found

    def _object(self, key: str) -> dict[str, Any]:
        found = self.take(key)
        if not isinstance(found, dict):
            raise ValueError(f"`{self._at(key)}` is not an object")
        return found

    def _scalar(self, found: object, key: str) -> Scalar:
        if found is None or isinstance(found, bool):
            return found
        if isinstance(found, str):
            return self._text(found, key, empty=True)
        if isinstance(found, int | float) and -LARGEST <= found <= LARGEST:
            return found
        raise ValueError(f"`{self._at(key)}` holds what is no text and no number of at most {LARGEST:g}")

    def _text(self, found: object, key: str, *, empty: bool = False, most: int = MOST_LETTERS) -> str:
        if not isinstance(found, str) or not (found.strip() or (empty and not found)):
            raise ValueError(f"`{self._at(key)}` is not a text")
        if len(found) > most or not found.isprintable():
            raise ValueError(f"`{self._at(key)}` is longer than {most} letters or not printable")
        return found

    def _number(self, found: object, key: str, *, zero: bool = False, most: float = LARGEST) -> float:
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise ValueError(f"`{self._at(key)}` is not a number")
        least = 0 if zero else SMALLEST
        if not least <= found <= most:  # NaN fails it, and no whole number is too large for it
            raise ValueError(f"`{self._at(key)}` is not between {least:g} and {most:g}")
        return abs(float(found))  # minus nought is nought, so that equal runs have equal ids


def _is_plain(value: object, depth: int) -> bool:
    if value is None or isinstance(value, bool | str):
        return True
    if isinstance(value, int | float):
        return -LARGEST <= value <= LARGEST  # NaN fails it
    if isinstance(value, dict):
        return depth > 0 and all(
            isinstance(key, str) and _is_plain(one, depth - 1) for key, one in value.items()
        )
    return isinstance(value, list) and depth > 0 and all(_is_plain(one, depth - 1) for one in value)
