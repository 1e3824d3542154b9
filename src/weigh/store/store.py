"""One SQLite file: opened for each use, brought up to date, and closed; calibrations in it."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.errors import BadFile, WeighError
from weigh.store.journal import set_journal
from weigh.store.migrations import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weigh.estimate.calibration import Calibration

BUSY_S = 30.0  # longest wait for another weigh that writes


def default_path() -> Path:
    """`$WEIGH_STORE`, or the user's data folder."""
    chosen = os.environ.get("WEIGH_STORE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("weigh", appauthor=False) / "weigh.db"


class Store:
    """Opened for each use and closed after it, so that two weighs at once only ever wait briefly."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """What is done inside is one transaction, durable when this returns.

        Raises:
            BadFile: the file is no database of ours.
            WeighError: it cannot be used: no room, no leave, or another weigh wrote for `BUSY_S`.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=BUSY_S)
            try:
                set_journal(db, self.path)
                with db:
                    self._migrate(db)
                    yield db
            finally:
                db.close()
        except sqlite3.OperationalError as error:
            raise WeighError(
                f"{self.path}: the store cannot be used ({error})",
                hint="free some disk space or point WEIGH_STORE at a file you may write",
            ) from error
        except sqlite3.DatabaseError as error:
            raise BadFile(
                self.path,
                f"not a weigh store ({error})",
                hint="move the file away; weigh makes a new one",
            ) from error
        except OSError as error:
            raise WeighError(
                f"{self.path}: the store cannot be used ({error.strerror})",
                hint="point WEIGH_STORE at a file you may write",
            ) from error

    def _migrate(self, db: sqlite3.Connection) -> None:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version >= len(MIGRATIONS):
            return
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]  # another weigh may have been faster
        for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
            migration(db)
            db.execute(f"PRAGMA user_version = {number}")

    def save_calibration(self, calibration: Calibration) -> None:
        from weigh.estimate.speed import FORMULA_VERSION

        with self.open() as db:
            db.execute(
                "INSERT INTO calibration (created_unix_s, fingerprint, engine, engine_version, formula_version,"
                " body) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    time.time(),
                    calibration.fingerprint,
                    calibration.engine,
                    calibration.engine_version,
                    FORMULA_VERSION,
                    json.dumps(calibration.to_json()),
                ),
            )

    def calibration(self, fingerprint: str, engine: str, engine_version: str) -> Calibration | None:
        """The newest one of this machine, engine version and the present speed formula, or None."""
        if not self.path.exists():
            return None
        from weigh.estimate.calibration import Calibration
        from weigh.estimate.speed import FORMULA_VERSION

        with self.open() as db:
            row = db.execute(
                "SELECT body FROM calibration WHERE fingerprint = ? AND engine = ? AND engine_version = ?"
                " AND formula_version = ? ORDER BY id DESC LIMIT 1",
                (fingerprint, engine, engine_version, FORMULA_VERSION),
            ).fetchone()
        if row is None:
            return None
        try:
            return Calibration.from_json(json.loads(row[0]))
        except (KeyError, TypeError, ValueError):
            return None  # written by another version of weigh: calibrate again
