"""The ledger: every run beside the estimate made before it, one's own and those others have shared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from weigh.errors import BadInput, UnknownName
from weigh.figure import Basis
from weigh.store.aside import open_or_aside
from weigh.store.run import Kind, Origin, Quantity, Run, is_of
from weigh.store.store import Store

if TYPE_CHECKING:
    import sqlite3

    from weigh.estimate.learned import Learned, Lesson, Miss
    from weigh.store.measurement import Measurement
    from weigh.store.quality_result import QualityResult

FORMAT = "weigh_runs"  # the key that an export begins with; its value is the format's number
FORMAT_NUMBER = 1
MOST_TEACHING = 200  # newest runs that are learned from; older ones hardly add to them


def record(store: Store, run: Run) -> None:
    """Keep a run of one's own; one that is there already stays as it is.

    Raises:
        NotKept: the store cannot be written; the run lies in a file then, or in the exception
            (`weigh.store.aside`).
    """
    with open_or_aside(store, run.id, lambda: document([run])) as db:
        insert(db, run)


def runs(
    store: Store, model: str | None = None, *, imported: bool = False, limit: int | None = None
) -> list[Run]:
    """Newest first.

    Args:
        model: part of its name, in any case, with or without `:QUANTIZATION`; None for all.
        imported: also those of others.
    """
    found: list[Run] = []
    most = limit if limit is not None and model is None else -1
    for run in _read(store, "" if imported else "WHERE origin = ''", limit=most):
        if limit is not None and len(found) >= limit:
            break
        if model is None or is_of(model, run.model, run.quantization):
            found.append(run)
    return found


def remove(store: Store, beginning: str) -> Run | Measurement | QualityResult:
    """Forget the run, the measurement or the quality result whose id begins so.

    Raises:
        UnknownName: none does.
        BadInput: several do.
    """
    from weigh.store import measurement, quality_result

    found: dict[str, list[Run | Measurement | QualityResult]] = {}
    if beginning:
        found = {
            "run": [run for run in _read(store, "") if run.id.startswith(beginning)],
            "measurement": [*measurement.beginning_with(store, beginning)],
            "quality": [*quality_result.beginning_with(store, beginning)],
        }
    every = [(table, one) for table, listed in found.items() for one in listed]
    if not every:
        raise UnknownName("run", beginning, hint="history lists their ids")
    if len(every) > 1:
        raise BadInput(f"{len(every)} runs have ids that begin with `{beginning}`", hint="give more of it")
    ((table, gone),) = every
    with store.open() as db:
        db.execute(f"DELETE FROM {table} WHERE id = ?", (gone.id,))
    return gone


def document(kept: Sequence[Run]) -> dict[str, Any]:
    """Runs as one JSON document, which `weigh.store.exchange` reads again."""
    return {FORMAT: FORMAT_NUMBER, "runs": [run.to_json() for run in kept]}


def learned(store: Store, fingerprint: str, engine: str, engine_version: str) -> Learned | None:
    """What the own full runs on this machine and engine version teach about estimates; None without any.

    Not learned from: runs of others, of other engine versions, predictions from shortened models, and runs
    whose estimate is not known to come from a calibration and the present formula.
    """
    from weigh.estimate.learned import Learned
    from weigh.estimate.speed import FORMULA_VERSION

    own = (
        "WHERE origin = '' AND fingerprint = ? AND engine = ? AND engine_version = ? AND formula_version = ?"
        " AND kind != ?"
    )
    key = (fingerprint, engine, engine_version, FORMULA_VERSION, str(Kind.TRUNCATED))
    found = [_lesson(run) for run in _read(store, own, *key, limit=MOST_TEACHING)]
    lessons = tuple(lesson for lesson in found if lesson is not None)
    return Learned(lessons) if lessons else None


def _lesson(run: Run) -> Lesson | None:
    from weigh.estimate.learned import Lesson, Setup

    decode, prefill = _miss(run.decode_tokens_per_s), _miss(run.prefill_tokens_per_s)
    if not run.calibration or not run.parallel or not run.threads or not (decode or prefill):
        return None
    setup = Setup(
        calibration=run.calibration,
        model=run.model,
        family=run.family,
        quantization=run.quantization,
        kv_types=(run.kv_type_k, run.kv_type_v),
        threads=run.threads,
        parallel=run.parallel,
        prompt_tokens=run.prompt_tokens,
        output_tokens=run.output_tokens,
        depth_tokens=run.depth_tokens,
    )
    return Lesson(setup, run.noise, decode, prefill)


def _miss(quantity: Quantity) -> Miss | None:
    from weigh.estimate.learned import Miss

    value, uncorrected = quantity.value, quantity.uncorrected
    if value is None or uncorrected is None or uncorrected.basis is not Basis.CALIBRATED:
        return None
    return Miss.of(value, uncorrected)


def insert(db: sqlite3.Connection, run: Run) -> bool:
    """Whether it is new."""
    origin = run.origin or Origin("", "", 0.0)
    done = db.execute(
        "INSERT OR IGNORE INTO run (id, when_unix_s, fingerprint, engine, engine_version, formula_version, model,"
        " quantization, kind, origin, origin_file, imported_unix_s, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run.id,
            run.when_unix_s,
            run.fingerprint,
            run.engine,
            run.engine_version,
            run.formula_version,
            run.model,
            run.quantization,
            str(run.kind),
            origin.who,
            origin.file,
            origin.imported_unix_s or None,
            json.dumps(run.to_json(), sort_keys=True),
        ),
    )
    return done.rowcount == 1


def _read(store: Store, where: str, *values: object, limit: int = -1) -> Iterable[Run]:
    """Newest first; a row that another version of weigh wrote differently is passed over."""
    if not store.path.exists():
        return
    with store.open() as db:
        rows = db.execute(
            f"SELECT body, origin, origin_file, imported_unix_s FROM run {where}"
            " ORDER BY when_unix_s DESC, id LIMIT ?",
            (*values, limit),
        ).fetchall()
    for body, who, file, imported_unix_s in rows:
        try:
            yield Run.from_json(json.loads(body), Origin(who, file, imported_unix_s) if who else None)
        except ValueError:
            continue
