"""What the store cannot take, as on a full disk, goes to a file of its own, to be imported later."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigh.errors import NotKept, WeighError

if TYPE_CHECKING:
    import sqlite3

    from weigh.store.store import Store


@contextmanager
def open_or_aside(
    store: Store, id_: str, document: Callable[[], Mapping[str, Any]]
) -> Iterator[sqlite3.Connection]:
    """The store, open to keep what `document` says.

    Raises:
        NotKept: it cannot be written; the document lies in `weigh-ID.json` of the current or the temporary
            folder then, or, without room there either, in the exception.
    """
    try:
        with store.open() as db:
            yield db
    except WeighError as error:
        kept = document()
        raise NotKept(error, _written(f"weigh-{id_}.json", kept), kept) from error


def _written(name: str, kept: Mapping[str, Any]) -> Path | None:
    """The file, in the first folder of some that takes it whole and durably; a part of one is removed."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        path = folder / name
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(kept, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            continue
        except OSError:
            path.unlink(missing_ok=True)
        else:
            return path
    return None
