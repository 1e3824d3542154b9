"""Results kept as JSON, with what is large of each deflated in a column of its own."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from weigh.store.run import Origin

Kept = TypeVar("Kept")


def read_bodies(
    db: sqlite3.Connection,
    table: str,
    large: str,
    ids: Sequence[str],
    *,
    whole: bool,
    read: Callable[[dict[str, Any], Origin | None], Kept],
) -> list[Kept]:
    """In the order of `ids`; those that another version of weigh wrote differently are left out.

    Args:
        large: the column, and the key in the JSON form, of what is deflated; only read where `whole` is wanted.
        read: raises TypeError or ValueError for what it does not know.
    """
    found = []
    columns = f"body, {large}" if whole else "body, NULL"
    for id_ in ids:
        row = db.execute(
            f"SELECT {columns}, origin, origin_file, imported_unix_s FROM {table} WHERE id = ?", (id_,)
        ).fetchone()
        if row is None:  # another weigh has just removed it
            continue
        body, packed, who, file, imported_unix_s = row
        try:
            document = json.loads(body)
            if packed is not None:
                document[large] = json.loads(zlib.decompress(packed))
            found.append(read(document, Origin(who, file, imported_unix_s) if who else None))
        except (TypeError, ValueError, zlib.error):
            continue
    return found
