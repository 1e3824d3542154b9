"""JSON objects of model files: untrusted, so that length, nesting, repeats and memory are bounded.

A parser makes some 70 bytes or more of every two that say `{}`, so a text of 32 MiB could fill 2 GB. Commas
and brackets are therefore counted before it is parsed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

from weigh.errors import BadFile

MOST_BYTES = 32 << 20  # headers of 100,000 tensors take 16 MiB, indexes of 200,000 some 25
MOST_PIECES = 1 << 20  # objects, lists and their members
MOST_WIDE_BYTES = 4 << 20  # of text that is not ASCII, which takes four times its length in memory


def json_object(path: Path, data: bytes, *, what: str) -> dict[str, object]:
    """The JSON object that `data` holds, blanks around it allowed.

    Args:
        path, what: the file and the part of it that messages speak of.

    Raises:
        BadFile: it is none, says a name twice, nests too deep, or is larger than any real one.
    """
    value = json_value(path, data, what=what)
    if not isinstance(value, dict):
        raise BadFile(path, f"{what} is no JSON object")
    return value


def json_value(path: Path, data: bytes, *, what: str) -> object:
    """Likewise any JSON value."""
    _check_size(path, data, what)
    try:
        value: object = json.loads(data.decode(), object_pairs_hook=_once_each, parse_constant=_refuse)
    except _Twice as error:
        raise BadFile(path, f"{what} says {error} twice") from None
    except (ValueError, RecursionError):
        raise BadFile(path, f"{what} is not JSON") from None
    return value


def _check_size(path: Path, data: bytes, what: str) -> None:
    pieces = data.count(b",") + data.count(b"{") + data.count(b"[")
    most = MOST_BYTES if data.isascii() else MOST_WIDE_BYTES
    if len(data) > most or pieces > MOST_PIECES:
        raise BadFile(path, f"{what} is larger than that of any model ({len(data):,} bytes)")


class _Twice(ValueError):
    pass


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if names.index(name) < place)
        raise _Twice(ascii(twice[:80]))
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
