"""The store's tables, as they came to be: small functions, applied in order, once each.

Never edit one that has shipped. A migration stands for itself: it calls nothing that may change later.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any


def _first_tables(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE calibration (id INTEGER PRIMARY KEY, created_unix_s REAL NOT NULL,"
        " fingerprint TEXT NOT NULL, engine TEXT NOT NULL, engine_version TEXT NOT NULL, body TEXT NOT NULL)"
    )
    db.execute(
        "CREATE TABLE measurement (id INTEGER PRIMARY KEY, created_unix_s REAL NOT NULL,"
        " fingerprint TEXT NOT NULL, engine TEXT NOT NULL, engine_version TEXT NOT NULL,"
        " model TEXT NOT NULL, quantization TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL)"
    )


def _ledger(db: sqlite3.Connection) -> None:
    """One table of runs, own (`origin` empty) and imported; measurements move into it."""
    import hashlib  # costs a start 5 ms

    db.execute(
        "CREATE TABLE run (id TEXT PRIMARY KEY, when_unix_s REAL NOT NULL, fingerprint TEXT NOT NULL,"
        " engine TEXT NOT NULL, engine_version TEXT NOT NULL, model TEXT NOT NULL, quantization TEXT NOT NULL,"
        " kind TEXT NOT NULL, origin TEXT NOT NULL DEFAULT '', origin_file TEXT NOT NULL DEFAULT '',"
        " imported_unix_s REAL, body TEXT NOT NULL)"
    )
    db.execute("CREATE INDEX run_of_machine ON run (fingerprint, engine, engine_version, when_unix_s)")
    rows = db.execute(
        "SELECT created_unix_s, fingerprint, engine, engine_version, model, quantization, kind, body"
        " FROM measurement ORDER BY id"
    ).fetchall()
    for *columns, text in rows:
        try:
            body = _run_of(columns, json.loads(text))
        except (KeyError, TypeError, ValueError):
            continue  # not written by weigh
        written = json.dumps(body, sort_keys=True)
        db.execute(
            "INSERT OR IGNORE INTO run (id, when_unix_s, fingerprint, engine, engine_version, model,"
            " quantization, kind, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (hashlib.sha256(written.encode()).hexdigest()[:16], *columns, written),
        )
    db.execute("DROP TABLE measurement")


def _run_of(columns: list[Any], old: dict[str, Any]) -> dict[str, Any]:
    """A measurement of the first layout as a run; what it did not keep is unknown, intervals among it."""
    when, fingerprint, engine, version, model, quantization, kind, *_ = columns

    def quantity(samples: list[float], estimate: float | None, unit: str) -> dict[str, Any]:
        figure = None
        if estimate is not None:
            value = float(estimate)
            figure = {"value": value, "low": value, "high": value, "unit": unit, "basis": "calibrated"}
        return {"measured": [float(one) for one in samples], "estimated": figure, "uncorrected": figure}

    decode, prefill = old["estimated_decode_tokens_per_s"], old["estimated_prefill_tokens_per_s"]
    return {
        "when_unix_s": when,
        "machine": {"fingerprint": fingerprint, "cpu": "", "gpus": []},
        "engine": {"name": engine, "version": version},
        "calibration": "",
        "model": model,
        "family": "",
        "quantization": quantization,
        "kind": kind,
        "settings": {
            "context_tokens": old["context_tokens"],
            "parallel": None,
            "threads": None,
            "kv_type_k": "",
            "kv_type_v": "",
        },
        "workload": {key: old[key] for key in ("prompt_tokens", "output_tokens", "depth_tokens")},
        "decode_tokens_per_s": quantity(old["decode_tokens_per_s"], decode, "tokens/s"),
        "prefill_tokens_per_s": quantity(old["prefill_tokens_per_s"], prefill, "tokens/s"),
        "load_s": quantity([old["load_s"]], None, "s"),
        "peak_memory_bytes": quantity([old["peak_memory_bytes"]], None, "bytes"),
        "noise": float(old["noise"]),
    }


def _formula_versions(db: sqlite3.Connection) -> None:
    """Of the speed formula behind a calibration or a run's estimates; unknown of all there are.

    A run is known by the hash of its body, so with another body it gets another id.
    """
    import hashlib

    db.execute("ALTER TABLE calibration ADD COLUMN formula_version INTEGER")
    db.execute("ALTER TABLE run ADD COLUMN formula_version INTEGER")
    for old_id, text in db.execute("SELECT id, body FROM run").fetchall():
        try:
            body = json.dumps({**json.loads(text), "formula_version": None}, sort_keys=True)
        except (TypeError, ValueError):
            continue  # not written by weigh
        new_id = hashlib.sha256(body.encode()).hexdigest()[:16]
        db.execute("UPDATE run SET id = ?, body = ? WHERE id = ?", (new_id, body, old_id))


def _measurements_and_events(db: sqlite3.Connection) -> None:
    """Benchmarks, load runs and imports of them, raw events apart (deflated JSON); what the guard did."""
    db.execute(
        "CREATE TABLE measurement (id TEXT PRIMARY KEY, when_unix_s REAL NOT NULL, kind TEXT NOT NULL,"
        " fingerprint TEXT NOT NULL, engine TEXT NOT NULL, engine_version TEXT NOT NULL, model TEXT NOT NULL,"
        " quantization TEXT NOT NULL, origin TEXT NOT NULL DEFAULT '', origin_file TEXT NOT NULL DEFAULT '',"
        " imported_unix_s REAL, body TEXT NOT NULL, raw BLOB NOT NULL)"
    )
    db.execute("CREATE INDEX measurement_by_time ON measurement (origin, when_unix_s)")
    db.execute(
        "CREATE TABLE event (id INTEGER PRIMARY KEY, when_unix_s REAL NOT NULL, kind TEXT NOT NULL,"
        " text TEXT NOT NULL, details TEXT NOT NULL)"
    )


def _quality(db: sqlite3.Connection) -> None:
    """What was measured of models' quality, pieces apart (deflated JSON)."""
    db.execute(
        "CREATE TABLE quality (id TEXT PRIMARY KEY, when_unix_s REAL NOT NULL, way TEXT NOT NULL,"
        " model TEXT NOT NULL, quantization TEXT NOT NULL, catalog_id TEXT NOT NULL, fingerprint TEXT NOT NULL,"
        " origin TEXT NOT NULL DEFAULT '', origin_file TEXT NOT NULL DEFAULT '', imported_unix_s REAL,"
        " body TEXT NOT NULL, pieces BLOB NOT NULL)"
    )
    db.execute("CREATE INDEX quality_by_time ON quality (origin, when_unix_s)")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _first_tables,
    _ledger,
    _formula_versions,
    _measurements_and_events,
    _quality,
)
