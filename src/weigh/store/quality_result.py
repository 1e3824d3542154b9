"""What `weigh quality` measured of one model: figures, what they are of, and what each piece of it came to.

The pieces are kept so that models measured on different days can still be compared on the same of them. Results
travel between people as JSON, so `QualityResult.from_json` trusts nothing, as `Run.from_json` does.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from weigh.errors import NotKept
from weigh.figure import Basis, Figure
from weigh.store.aside import open_or_aside
from weigh.store.bodies import read_bodies
from weigh.store.fields import LARGEST, LAST_UNIX_S, Fields, Scalar, printable
from weigh.store.run import Origin, is_of, run_id

if TYPE_CHECKING:
    import sqlite3

    from weigh.store.store import Store

FORMAT = "weigh_quality"  # the key that an export begins with; its value is the format's number
FORMAT_NUMBER = 1
MOST_METRICS = 1000
MOST_PIECES = 1 << 20
MOST_SETTINGS = 100  # and needs
LARGEST_METRIC = 1e300  # a perplexity may be anything

Piece = tuple[Scalar, ...]


class Way(StrEnum):
    """How a model was measured."""

    TEXT = "text"  # bits per byte of every byte of a text
    WINDOWS = "windows"  # perplexity as llama-perplexity defines it
    DIVERGENCE = "divergence"  # from a reference, on the same windows
    REPOSITORY = "repository"  # on held-out files of the user's own code
    TASKS = "tasks"  # tasks solved, judged in a sandbox


COLUMNS: dict[Way, dict[str, type]] = {
    Way.TEXT: {"file": int, "part": int, "block": int, "bits": float, "text_bytes": int},
    Way.WINDOWS: {"tokens": int, "nats": float},
    Way.DIVERGENCE: {"tokens": int, "kl_nats": float, "same_top": int, "worse_nats": float},
    Way.REPOSITORY: {
        "excerpt": str,  # a digest of its text, so that no name of a file is kept
        "file": int,
        "bits": float,
        "text_bytes": int,
        "next_line_exact": bool,
        "next_line_similarity": float,
        "middle_exact": bool,
        "middle_similarity": float,
    },
    Way.TASKS: {
        "task": str,
        "version": str,  # a digest of what it asks and how it is judged
        "need": str,
        "difficulty": int,
        "samples": int,
        "passed": int,
    },
}
"""What a piece of each way holds, in this order; a line of a repository that was not asked for is None.

A text's pieces are numbered as `weigh.quality.paired.Piece`; those of equal digests are the same bytes. Windows come
in the order in which they were read, the same for all models of one tokenizer. Tasks are named by their ids.
"""


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """Which model it was.

    Attributes:
        catalog_id: of the catalog's model that it is by name and number of parameters; "" where unknown.
        fingerprint: of the file (`weigh.model.fingerprint`); "" for a server's.
        parameters, weights_bytes: None where unknown.
    """

    name: str
    quantization: str = ""
    catalog_id: str = ""
    fingerprint: str = ""
    parameters: int | None = None
    weights_bytes: int | None = None

    @property
    def label(self) -> str:
        """`name:quantization`, or what of it is known."""
        return f"{self.name}:{self.quantization}" if self.quantization else self.name

    def to_json(self) -> dict[str, Any]:
        return {
            "name": printable(self.name) or "unnamed",
            "quantization": printable(self.quantization),
            "catalog_id": printable(self.catalog_id),
            "fingerprint": printable(self.fingerprint),
            "parameters": self.parameters,
            "weights_bytes": self.weights_bytes,
        }


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a model.

    Attributes:
        name: as `bits_per_byte`, `perplexity`, `likeliest_share`; `kl_nats`, `same_top`, `delta_p_mean`,
            `delta_p_rms`, `log_perplexity_ratio`; `next_line_exact`, `next_line_similarity`, `middle_exact`,
            `middle_similarity`; `pass@1`, `pass@5`.
        figure: an end of the interval that is not known is infinite.
        count: how many independent units it rests on: files (pieces where files are few), windows, tasks.
        of: "" for all; else what part: a need's name, or `difficulty 3`.
    """

    name: str
    figure: Figure
    count: int
    of: str = ""

    def to_json(self) -> dict[str, Any]:
        figure = self.figure
        return {
            "name": printable(self.name),
            "of": printable(self.of),
            "value": figure.value,
            "low": figure.low if abs(figure.low) <= LARGEST_METRIC else None,
            "high": figure.high if abs(figure.high) <= LARGEST_METRIC else None,
            "unit": figure.unit,
            "count": self.count,
        }


@dataclass(frozen=True, slots=True)
class Material:
    """What a model was measured on.

    Attributes:
        name: of the file or folder, of the repository, or of the task set; never a path.
        digest: of the text, or of the task set; of a repository the newest commit, "" without one.
        text_bytes: that were judged; of windows and divergence of the whole text; None of tasks.
        needs: of the tasks; () otherwise.
        settings: how it was asked, as `temperature`, `samples`, `seed`.
    """

    name: str
    digest: str = ""
    text_bytes: int | None = None
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Scalar] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": printable(self.name) or "unnamed",
            "digest": printable(self.digest),
            "text_bytes": self.text_bytes,
            "needs": [printable(need) for need in self.needs],
            "settings": {k: printable(v) if isinstance(v, str) else v for k, v in self.settings.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityResult:
    """One model, measured one way on one thing.

    Attributes:
        reference: what the divergence is from; None otherwise.
        ended: why the measuring ended, in the words of its way, as "all read" or "interrupted".
        pieces: as `COLUMNS` has them; () where they were not read (see `quality_results`).
        origin: None for one's own.
    """

    way: Way
    when_unix_s: float
    model: MeasuredModel
    reference: MeasuredModel | None = None
    material: Material
    measures: tuple[Measure, ...]
    engine: str
    engine_version: str = ""
    ended: str = ""
    pieces: tuple[Piece, ...] = ()
    origin: Origin | None = None

    @property
    def id(self) -> str:
        """Of the content but for the pieces, whoever's it is: imported twice it is one result."""
        return run_id(self.to_json(pieces=False))

    def measure(self, name: str, of: str = "") -> Measure | None:
        return next((one for one in self.measures if (one.name, one.of) == (name, of)), None)

    def to_json(self, *, pieces: bool = True) -> dict[str, Any]:
        """Without the origin, which is the importer's to state; what is not printable is replaced."""
        document: dict[str, Any] = {
            "way": str(self.way),
            "when_unix_s": float(self.when_unix_s),
            "model": self.model.to_json(),
            "reference": self.reference and self.reference.to_json(),
            "material": self.material.to_json(),
            "measures": [one.to_json() for one in self.measures],
            "engine": {"name": printable(self.engine), "version": printable(self.engine_version)},
            "ended": printable(self.ended),
        }
        return {**document, "pieces": [list(one) for one in self.pieces]} if pieces else document

    @classmethod
    def from_json(cls, data: object, origin: Origin | None = None) -> Self:
        """Raises ValueError that says in a few words what is wrong; `pieces` may be left out."""
        fields = Fields(data, "a quality result")
        engine = fields.part("engine")
        way = Way(fields.one_of("way", list(Way)))
        found = cls(
            way=way,
            when_unix_s=fields.number("when_unix_s", most=LAST_UNIX_S),
            model=_model(fields.part("model")),
            reference=_model(fields.part("reference")) if fields.known("reference") else None,
            material=_material(fields.part("material")),
            measures=tuple(_measure(one) for one in fields.parts("measures", most=MOST_METRICS)),
            engine=engine.text("name", empty=True),
            engine_version=engine.text("version", empty=True),
            ended=fields.text("ended", empty=True),
            pieces=fields.rows("pieces", COLUMNS[way], most=MOST_PIECES) if fields.told("pieces") else (),
            origin=origin,
        )
        for part in (engine, fields):
            part.end()
        return found


def save(store: Store, results: Sequence[QualityResult]) -> None:
    """Keep results; they are on the disk when this returns. One that is there already stays as it is.

    Raises:
        NotKept: the store cannot be written, as on a full disk; the results lie in a file then, or in the
            exception (`weigh.store.aside`).
    """
    if not results:
        return
    with open_or_aside(store, results[0].id, lambda: document(results)) as db:
        for one in results:
            insert(db, one)


def try_to_save(store: Store, results: Sequence[QualityResult]) -> NotKept | None:
    """As `save`, for what is still to be shown where it cannot be kept: the error then, to be raised afterwards."""
    try:
        save(store, results)
    except NotKept as error:
        return error
    return None


def quality_results(
    store: Store,
    model: str | None = None,
    *,
    way: Way | None = None,
    fingerprint: str | None = None,
    catalog_id: str | None = None,
    of_catalog: bool = False,
    limit: int | None = None,
    imported: bool = False,
    pieces: bool = False,
) -> list[QualityResult]:
    """Newest first; one that another version of weigh wrote differently is left out.

    Args:
        model: part of its name, in any case, with or without `:QUANTIZATION`; None for all.
        way, fingerprint, catalog_id: of the result, the model's file, the catalog's model; None for all.
        of_catalog: only of models that are the catalog's.
        imported: also those of others.
        pieces: with what each piece came to, which may be many.
    """
    if not store.path.exists():
        return []
    with store.open() as db:
        rows = db.execute(
            "SELECT id, model, quantization FROM quality WHERE (? OR origin = '') AND way = ifnull(?, way)"
            " AND fingerprint = ifnull(?, fingerprint) AND catalog_id = ifnull(?, catalog_id)"
            " AND (NOT ? OR catalog_id != '') ORDER BY when_unix_s DESC, id",
            (imported, way and str(way), fingerprint, catalog_id, of_catalog),
        ).fetchall()
        chosen = [id_ for id_, *name in rows if model is None or is_of(model, *name)]
        return _read(db, chosen[:limit], pieces=pieces)


def beginning_with(store: Store, id_: str, *, pieces: bool = True) -> list[QualityResult]:
    """Those whose id begins so, anyone's, newest first."""
    if not store.path.exists():
        return []
    with store.open() as db:
        rows = db.execute(
            "SELECT id FROM quality WHERE substr(id, 1, ?) = ? ORDER BY when_unix_s DESC, id", (len(id_), id_)
        ).fetchall()
        return _read(db, [found for (found,) in rows], pieces=pieces)


def document(kept: Sequence[QualityResult]) -> dict[str, Any]:
    """Results as one JSON document, which `weigh.store.exchange` reads again."""
    return {FORMAT: FORMAT_NUMBER, "quality": [one.to_json() for one in kept]}


def insert(db: sqlite3.Connection, one: QualityResult) -> bool:
    """Whether it is new."""
    origin = one.origin or Origin("", "", 0.0)
    done = db.execute(
        "INSERT OR IGNORE INTO quality (id, when_unix_s, way, model, quantization, catalog_id, fingerprint,"
        " origin, origin_file, imported_unix_s, body, pieces) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            one.id,
            one.when_unix_s,
            str(one.way),
            printable(one.model.name),
            printable(one.model.quantization),
            printable(one.model.catalog_id),
            printable(one.model.fingerprint),
            origin.who,
            origin.file,
            origin.imported_unix_s or None,
            json.dumps(one.to_json(pieces=False), sort_keys=True),
            zlib.compress(json.dumps([list(piece) for piece in one.pieces], separators=(",", ":")).encode()),
        ),
    )
    return done.rowcount == 1


def _read(db: sqlite3.Connection, ids: Sequence[str], *, pieces: bool) -> list[QualityResult]:
    return read_bodies(db, "quality", "pieces", ids, whole=pieces, read=QualityResult.from_json)


def _model(fields: Fields) -> MeasuredModel:
    def size(key: str) -> int | None:
        return fields.whole(key, least=1, most=int(LARGEST)) if fields.known(key) else None

    found = MeasuredModel(
        name=fields.text("name"),
        quantization=fields.text("quantization", empty=True),
        catalog_id=fields.text("catalog_id", empty=True),
        fingerprint=fields.text("fingerprint", empty=True),
        parameters=size("parameters"),
        weights_bytes=size("weights_bytes"),
    )
    fields.end()
    return found


def _material(fields: Fields) -> Material:
    found = Material(
        name=fields.text("name"),
        digest=fields.text("digest", empty=True),
        text_bytes=fields.whole("text_bytes", most=int(LARGEST)) if fields.known("text_bytes") else None,
        needs=fields.texts("needs", most=MOST_SETTINGS),
        settings=fields.scalars("settings", most=MOST_SETTINGS),
    )
    fields.end()
    return found


def _measure(fields: Fields) -> Measure:
    value = fields.signed("value", most=LARGEST_METRIC)
    low = fields.signed("low", most=LARGEST_METRIC) if fields.known("low") else -math.inf
    high = fields.signed("high", most=LARGEST_METRIC) if fields.known("high") else math.inf
    if not low <= value <= high:
        raise ValueError(f"`{fields.where}` is not inside its own interval")
    found = Measure(
        name=fields.text("name"),
        figure=Figure(value, low, high, fields.text("unit", empty=True), Basis.MEASURED),
        count=fields.whole("count", most=int(LARGEST)),
        of=fields.text("of", empty=True),
    )
    fields.end()
    return found
