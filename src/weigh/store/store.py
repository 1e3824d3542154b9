"""One SQLite file: opened for each use, brought up to date, and closed; calibrations in it."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigh.errors import BadFile, WeighError
from weigh.store.migrations import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weigh.estimate.calibration import Calibration


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
        """Raises BadFile when the file is no database of ours, WeighError when it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=10)
            try:
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
        with self.open() as db:
            db.execute(
                "INSERT INTO calibration (created_unix_s, fingerprint, engine, engine_version, body)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    time.time(),
                    calibration.fingerprint,
                    calibration.engine,
                    calibration.engine_version,
                    json.dumps(calibration.to_json()),
                ),
            )

    def calibration(self, fingerprint: str, engine: str, engine_version: str) -> Calibration | None:
        """The newest one of this machine and engine version, or None."""
        if not self.path.exists():
            return None
        from weigh.estimate.calibration import Calibration

        with self.open() as db:
            row = db.execute(
                "SELECT body FROM calibration WHERE fingerprint = ? AND engine = ? AND engine_version = ?"
                " ORDER BY id DESC LIMIT 1",
                (fingerprint, engine, engine_version),
            ).fetchone()
        if row is None:
            return None
        try:
            return Calibration.from_json(json.loads(row[0]))
        except (KeyError, TypeError, ValueError):
            return None  # written by another version of weigh: calibrate again

    def save_measurement(
        self,
        *,
        fingerprint: str,
        engine: str,
        engine_version: str,
        model: str,
        quantization: str,
        kind: str,
        body: Mapping[str, Any],
    ) -> None:
        """Keep one run in the words of before the ledger; to be replaced by `ledger.record`."""
        from weigh.store.ledger import record
        from weigh.store.migrations import run_of_measurement
        from weigh.store.run import Run

        columns = [time.time(), fingerprint, engine, engine_version, model, quantization, kind]
        record(self, Run.from_json(run_of_measurement(columns, dict(body))))

    def measurements(self, model: str | None = None) -> list[dict[str, Any]]:
        """Newest first, in the words of before the ledger; to be replaced by `ledger.runs`."""
        from weigh.store.ledger import runs

        return [
            {
                "kind": str(run.kind),
                "decode_tokens_per_s": list(run.decode_tokens_per_s.measured),
                "estimated_decode_tokens_per_s": run.decode_tokens_per_s.estimated
                and run.decode_tokens_per_s.estimated.value,
            }
            for run in runs(self)
            if model in (None, run.model)
        ]
