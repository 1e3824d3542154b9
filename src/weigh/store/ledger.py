"""The ledger: every run beside the estimate made before it, one's own and those others have shared."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.errors import BadFile, BadInput, UnknownName
from weigh.figure import Basis
from weigh.store.fields import MOST_LETTERS
from weigh.store.run import Kind, Origin, Quantity, Run
from weigh.store.store import Store

if TYPE_CHECKING:
    import sqlite3

    from weigh.estimate.learned import Learned, Lesson, Miss

FORMAT = "weigh_runs"  # the key that an export begins with; its value is the format's number
FORMAT_NUMBER = 1
MOST_RUNS = 5000  # of an export
MOST_BYTES = 16 << 20  # these take some 9 MB
MOST_TEACHING = 200  # newest runs that are learned from; older ones hardly add to them


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import: runs that were new, and those the ledger had already."""

    origin: Origin
    added: int
    known: int


def record(store: Store, run: Run) -> None:
    """Keep a run of one's own; one that is there already stays as it is."""
    with store.open() as db:
        _insert(db, run)


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
        if model is None or _is_of(run, model):
            found.append(run)
    return found


def remove(store: Store, beginning: str) -> Run:
    """Forget the run whose id begins so.

    Raises:
        UnknownName: none does.
        BadInput: several do.
    """
    found = [run for run in _read(store, "") if run.id.startswith(beginning)] if beginning else []
    if not found:
        raise UnknownName("run", beginning, hint="history lists their ids")
    if len(found) > 1:
        raise BadInput(f"{len(found)} runs have ids that begin with `{beginning}`", hint="give more of it")
    with store.open() as db:
        db.execute("DELETE FROM run WHERE id = ?", (found[0].id,))
    return found[0]


def export(path: Path, kept: Sequence[Run]) -> None:
    """Write runs of one's own to a new file, for others to import; it names the machine, but nobody.

    Raises:
        BadInput: the file exists or cannot be written, a run is someone else's, or they are too many.
    """
    if any(run.origin for run in kept):
        raise BadInput("runs of others are theirs to pass on", hint="export your own only")
    if len(kept) > MOST_RUNS:
        raise BadInput(f"{len(kept):,} runs are more than the {MOST_RUNS:,} of one file", hint="export fewer")
    document = {FORMAT: FORMAT_NUMBER, "runs": [run.to_json() for run in kept]}
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
    except FileExistsError:
        raise BadInput(f"{path}: exists already", hint="name a new file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be written ({error})") from None


def import_runs(store: Store, path: Path, who: str) -> Imported:
    """Take in the runs of an export, all or none, as data of that origin.

    Runs the ledger has already, one's own among them, stay as they are.

    Args:
        who: whose they are.

    Raises:
        BadFile: the file is no export, or one of its runs is not as it has to be.
        BadInput: nobody is named.
    """
    if not who.strip() or not who.isprintable() or len(who) > MOST_LETTERS:
        raise BadInput("imported runs need an origin", hint="say in a few letters whose they are")
    origin = Origin(who.strip(), path.name[:MOST_LETTERS], time.time())
    found = read_export(path, _bytes_of(path), origin)
    with store.open() as db:
        added = sum(_insert(db, run) for run in found)
    return Imported(origin, added, len(found) - added)


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


def _is_of(run: Run, asked: str) -> bool:
    name, _, quantization = asked.casefold().partition(":")
    return name in run.model.casefold() and quantization in ("", run.quantization.casefold())


def _insert(db: sqlite3.Connection, run: Run) -> bool:
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


def _bytes_of(path: Path) -> bytes:
    from weigh.model.source import LocalFile

    with LocalFile(path, kind="file of runs") as source:
        if source.size_bytes > MOST_BYTES:
            raise BadFile(path, f"larger than {MOST_BYTES >> 20} MiB, which no list of runs is")
        return source.read(0, MOST_BYTES)


def read_export(path: Path, content: bytes, origin: Origin) -> list[Run]:
    """The runs in an export's bytes; raises BadFile that names `path`, the run and what is wrong with it."""
    from weigh.model.json_object import json_object

    data = json_object(path, content, what="the list of runs")
    if data.get(FORMAT) != FORMAT_NUMBER or set(data) != {FORMAT, "runs"}:
        raise BadFile(path, "is no export of runs", hint="weigh exports runs to a file of its own")
    listed = data["runs"]
    if not isinstance(listed, list) or len(listed) > MOST_RUNS:
        raise BadFile(path, f"`runs` is not a list of at most {MOST_RUNS:,}")
    found = []
    for number, one in enumerate(listed, start=1):
        try:
            found.append(Run.from_json(one, origin))
        except ValueError as error:
            raise BadFile(path, f"run {number}: {error}") from None
    return found
