"""What was measured of a model on an engine: samples as they came, under stated conditions; and what a guard did.

Measurements travel between people as JSON, so `Measurement.from_json` trusts nothing, as `Run.from_json` does.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from weigh.errors import NotKept
from weigh.figure import Basis, Figure
from weigh.median import median_interval
from weigh.store.aside import open_or_aside
from weigh.store.bodies import read_bodies
from weigh.store.fields import LARGEST, LAST_UNIX_S, Fields, Scalar, printable
from weigh.store.run import MOST_GPUS, Origin, is_of, run_id

if TYPE_CHECKING:
    import sqlite3

    from weigh.store.store import Store

FORMAT = "weigh_measurements"  # the key that an export begins with; its value is the format's number
FORMAT_NUMBER = 1
KINDS = ("bench", "load")
MOST_SAMPLES = 1 << 20  # of one quantity: the gaps between the tokens of 200 clients in two minutes
MOST_QUANTITIES = 10_000
MOST_CONDITIONS = 100
MOST_WORDS = 1000  # of a command
MOST_WORD_LETTERS = 4096  # of one of its words, which may be a path
MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """One quantity under one condition.

    Attributes:
        name: with its unit, as `decode_tokens_per_s`, `ttft_s`, `peak_memory_bytes`.
        unit: as `Figure` has it: "tokens/s", "s", "bytes", "J/token", "requests/s", …
        samples: at least one, in the order they came; finite and not below nought.
        conditions: what it holds for, as `prompt_tokens`, `depth_tokens`, `parallel`, `rate_per_s`; only
            what applies.

    Raises:
        ValueError: no samples, or one that is no such number.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    conditions: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.name}: no samples")
        if not all(math.isfinite(sample) and 0 <= sample <= LARGEST for sample in self.samples):
            raise ValueError(f"{self.name}: a sample is not between 0 and {LARGEST:g}")

    @property
    def figure(self) -> Figure:
        """Median of the samples, with its 80 % interval (`weigh.median`)."""
        import statistics  # costs a start 5 ms

        low, high = median_interval(self.samples)
        return Figure(statistics.median(self.samples), low, high, self.unit, Basis.MEASURED)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": printable(self.name),
            "unit": printable(self.unit),
            "samples": [float(sample) for sample in self.samples],
            "conditions": _scalars(self.conditions),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One benchmark, load run or import of either.

    Attributes:
        kind: one of `KINDS`.
        fingerprint: the machine's (`Machine.fingerprint`); "" where unknown, as of a server elsewhere.
        cpu, gpus: names; "" and () where unknown or none.
        command: the engine's own, without secrets; () where it was not started here.
        model, family, quantization: "" where unknown.
        file_bytes: size of the model's file; None where unknown.
        settings: what the engine was asked for, as `context_tokens`, `threads`, `kv_type_k`.
        noise: relative 80 % half-width of single decode steps; None where not measured.
        problems: why it is not to be trusted, in plain words; () when nothing speaks against it.
        raw: times of events and whatever else is worth keeping, as plain JSON.
        origin: None for one's own.
    """

    kind: str
    when_unix_s: float
    fingerprint: str = ""
    cpu: str = ""
    gpus: tuple[str, ...] = ()
    engine: str
    engine_version: str = ""
    command: tuple[str, ...] = ()
    model: str
    family: str = ""
    quantization: str = ""
    file_bytes: int | None = None
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    measured: tuple[Measured, ...]
    noise: float | None = None
    problems: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin | None = None

    @property
    def id(self) -> str:
        """Of the content but for the raw events, whoever's it is: imported twice it is one measurement."""
        return run_id(self.to_json(raw=False))

    @property
    def name(self) -> str:
        """`model:quantization`, or what of it is known."""
        return f"{self.model}:{self.quantization}" if self.quantization else self.model

    def first(self, name: str) -> Measured | None:
        """That quantity under the first condition it was measured under."""
        return next((one for one in self.measured if one.name == name), None)

    def to_json(self, *, raw: bool = True) -> dict[str, Any]:
        """Without the origin, which is the importer's to state.

        In texts, what is not printable is replaced; in the command, the user's home folder, which names them.
        """
        document: dict[str, Any] = {
            "kind": self.kind,
            "when_unix_s": float(self.when_unix_s),
            "machine": {
                "fingerprint": printable(self.fingerprint),
                "cpu": printable(self.cpu),
                "gpus": [printable(gpu) for gpu in self.gpus[:MOST_GPUS]],
            },
            "engine": {
                "name": printable(self.engine),
                "version": printable(self.engine_version),
                "command": [_anonymous(word) for word in self.command[:MOST_WORDS]],
            },
            "model": printable(self.model),
            "family": printable(self.family),
            "quantization": printable(self.quantization),
            "file_bytes": self.file_bytes,
            "settings": _scalars(self.settings),
            "measured": [one.to_json() for one in self.measured],
            "noise": None if self.noise is None else float(self.noise),
            "problems": [printable(problem) for problem in self.problems[:MOST_PROBLEMS]],
        }
        return {**document, "raw": dict(self.raw)} if raw else document

    @classmethod
    def from_json(cls, data: object, origin: Origin | None = None) -> Self:
        """Raises ValueError that says in a few words what is wrong; `raw` may be left out."""
        fields = Fields(data, "a measurement")
        machine, engine = fields.part("machine"), fields.part("engine")
        found = cls(
            kind=fields.one_of("kind", list(KINDS)),
            when_unix_s=fields.number("when_unix_s", most=LAST_UNIX_S),
            fingerprint=machine.text("fingerprint", empty=True),
            cpu=machine.text("cpu", empty=True),
            gpus=machine.texts("gpus", most=MOST_GPUS, empty=True),
            engine=engine.text("name", empty=True),
            engine_version=engine.text("version", empty=True),
            command=engine.texts("command", most=MOST_WORDS, empty=True, letters=MOST_WORD_LETTERS),
            model=fields.text("model", empty=True),
            family=fields.text("family", empty=True),
            quantization=fields.text("quantization", empty=True),
            file_bytes=fields.whole("file_bytes", most=int(LARGEST)) if fields.known("file_bytes") else None,
            settings=fields.scalars("settings", most=MOST_CONDITIONS),
            measured=tuple(_measured(one) for one in fields.parts("measured", most=MOST_QUANTITIES)),
            noise=fields.number("noise", zero=True) if fields.known("noise") else None,
            problems=fields.texts("problems", most=MOST_PROBLEMS, empty=True),
            raw=fields.plain("raw") if fields.told("raw") else {},
            origin=origin,
        )
        for part in (machine, engine, fields):
            part.end()
        return found


@dataclass(frozen=True, slots=True)
class Event:
    """Something a guard did, and why.

    Attributes:
        kind: what, as `warned`, `paused`, `stopped`.
        text: in plain words, one line.
        details: plain JSON.
    """

    when_unix_s: float
    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


def save(store: Store, measurement: Measurement) -> str:
    """Keep a measurement; it is on the disk when this returns. One that is there already stays as it is.

    Returns:
        its id.

    Raises:
        NotKept: the store cannot be written, as on a full disk; the measurement lies in a file then, or in the
            exception (`weigh.store.aside`).
    """
    with open_or_aside(store, measurement.id, lambda: document([measurement])) as db:
        insert(db, measurement)
    return measurement.id


def try_to_save(store: Store, measurement: Measurement) -> NotKept | None:
    """As `save`, for what is still to be shown where it cannot be kept: the error then, to be raised afterwards."""
    try:
        save(store, measurement)
    except NotKept as error:
        return error
    return None


def measurements(
    store: Store,
    model: str | None = None,
    *,
    limit: int | None = None,
    imported: bool = False,
    raw: bool = True,
) -> list[Measurement]:
    """Newest first; one that another version of weigh wrote differently is left out.

    Args:
        model: part of its name, in any case, with or without `:QUANTIZATION`; None for all.
        imported: also those of others.
        raw: with their raw events, which may be many.
    """
    if not store.path.exists():
        return []
    with store.open() as db:
        rows = db.execute(
            "SELECT id, model, quantization FROM measurement WHERE ? OR origin = '' ORDER BY when_unix_s DESC, id",
            (imported,),
        ).fetchall()
        chosen = [id_ for id_, *name in rows if model is None or is_of(model, *name)]
        return _read(db, chosen[:limit], raw=raw)


def beginning_with(store: Store, id_: str, *, raw: bool = True) -> list[Measurement]:
    """Those whose id begins so, anyone's, newest first."""
    if not store.path.exists():
        return []
    with store.open() as db:
        rows = db.execute(
            "SELECT id FROM measurement WHERE substr(id, 1, ?) = ? ORDER BY when_unix_s DESC, id",
            (len(id_), id_),
        ).fetchall()
        return _read(db, [found for (found,) in rows], raw=raw)


def save_event(store: Store, event: Event) -> None:
    """Raises WeighError when it could not be kept."""
    with store.open() as db:
        db.execute(
            "INSERT INTO event (when_unix_s, kind, text, details) VALUES (?, ?, ?, ?)",
            (
                event.when_unix_s,
                printable(event.kind),
                printable(event.text),
                json.dumps(dict(event.details)),
            ),
        )


def events(store: Store, limit: int | None = None) -> list[Event]:
    """Newest first."""
    if not store.path.exists():
        return []
    with store.open() as db:
        rows = db.execute(
            "SELECT when_unix_s, kind, text, details FROM event ORDER BY when_unix_s DESC, id DESC LIMIT ?",
            (-1 if limit is None else limit,),
        ).fetchall()
    return [Event(when, kind, text, json.loads(details)) for when, kind, text, details in rows]


def document(kept: Sequence[Measurement], *, raw: bool = True) -> dict[str, Any]:
    """Measurements as one JSON document, which `weigh.store.exchange` reads again."""
    return {FORMAT: FORMAT_NUMBER, "measurements": [one.to_json(raw=raw) for one in kept]}


def insert(db: sqlite3.Connection, measurement: Measurement) -> bool:
    """Whether it is new."""
    origin = measurement.origin or Origin("", "", 0.0)
    done = db.execute(
        "INSERT OR IGNORE INTO measurement (id, when_unix_s, kind, fingerprint, engine, engine_version, model,"
        " quantization, origin, origin_file, imported_unix_s, body, raw)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            measurement.id,
            measurement.when_unix_s,
            measurement.kind,
            printable(measurement.fingerprint),
            printable(measurement.engine),
            printable(measurement.engine_version),
            printable(measurement.model),
            printable(measurement.quantization),
            origin.who,
            origin.file,
            origin.imported_unix_s or None,
            json.dumps(measurement.to_json(raw=False), sort_keys=True),
            zlib.compress(json.dumps(dict(measurement.raw)).encode(), 1),
        ),
    )
    return done.rowcount == 1


def _read(db: sqlite3.Connection, ids: Sequence[str], *, raw: bool) -> list[Measurement]:
    return read_bodies(db, "measurement", "raw", ids, whole=raw, read=Measurement.from_json)


def _measured(fields: Fields) -> Measured:
    found = Measured(
        fields.text("name"),
        fields.text("unit", empty=True),
        fields.numbers("samples", most=MOST_SAMPLES, zero=True),
        fields.scalars("conditions", most=MOST_CONDITIONS),
    )
    fields.end()
    return found


def _anonymous(word: str) -> str:
    home = str(Path.home())
    named = home if len(home) > 1 else ""
    return printable(word.replace(named, "~") if named else word, MOST_WORD_LETTERS)


def _scalars(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {
        printable(name): printable(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
