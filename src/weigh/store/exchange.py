"""Files of runs, measurements and quality results: exported for others and for spreadsheets, and taken in, all or none.

What is taken in keeps its origin, and is never one's own unless it is said to be.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from weigh.errors import BadFile, BadInput
from weigh.store import ledger, measurement, quality_result
from weigh.store.fields import MOST_LETTERS
from weigh.store.measurement import Measured, Measurement, document
from weigh.store.quality_result import Measure, QualityResult
from weigh.store.run import Origin, Run
from weigh.store.store import Store

OWN = "weigh"  # the format's name
ENDINGS = (".json", ".csv", ".md")
MOST_RUNS = 5000  # of a file; these take some 9 MB
MOST_MEASUREMENTS = 5000
MOST_RESULTS = 5000  # of quality
COLUMNS = (
    *("id", "when_utc", "kind", "origin", "model", "quantization", "family", "engine", "engine_version"),
    *("cpu", "gpus", "fingerprint", "quantity", "unit", "conditions", "value", "low", "high", "samples"),
    *("noise", "problems"),
)
"""Of the CSV form: one row for each quantity under one condition; the interval holds 80 %."""
_KEYS = {ledger.FORMAT: "runs", measurement.FORMAT: "measurements", quality_result.FORMAT: "quality"}

_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import: runs, measurements and quality results that were new, and what was there already.

    Attributes:
        origin: None where they are one's own.
        format: whose file it was: "weigh", "llama-bench", "GuideLLM" or "vLLM".
    """

    origin: Origin | None
    format: str
    runs: int
    measurements: int
    results: int
    known: int

    @property
    def added(self) -> int:
        return self.runs + self.measurements + self.results


def export(
    path: Path,
    runs: Sequence[Run],
    measurements: Sequence[Measurement] = (),
    results: Sequence[QualityResult] = (),
) -> None:
    """Write one's own to a new file; it names the machine, but nobody.

    JSON holds everything, for others to import; CSV and Markdown hold medians of measurements and figures of
    quality, with their intervals.

    Raises:
        BadInput: the file exists or cannot be written, its ending is none of `ENDINGS`, something is
            someone else's, or they are too many.
    """
    if path.suffix.lower() not in ENDINGS:
        raise BadInput(
            f"{path}: exports are JSON, CSV or Markdown", hint="end the name in .json, .csv or .md"
        )
    origins = [one.origin for listed in (runs, measurements, results) for one in listed]
    if any(origins):
        raise BadInput("runs of others are theirs to pass on", hint="export your own only")
    if (most := max(len(runs), len(measurements), len(results))) > MOST_RUNS:
        raise BadInput(f"{most:,} are more than the {MOST_RUNS:,} of one file", hint="export fewer")
    match path.suffix.lower():
        case ".json":
            text = json.dumps(_document(runs, measurements, results), indent=1) + "\n"
        case ".csv":
            text = as_csv(measurements, results)
        case _:
            text = as_markdown(measurements, results)
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise BadInput(f"{path}: exists already", hint="name a new file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be written ({error})") from None


def as_csv(measurements: Sequence[Measurement], results: Sequence[QualityResult] = ()) -> str:
    """`COLUMNS`, one row for each quantity; a text that a spreadsheet would take for a formula is quoted."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(COLUMNS)
    for one in measurements:
        for measured in one.measured:
            rows.writerow([_cell(cell) for cell in _row(one, measured)])
    for result in results:
        for measure in result.measures:
            rows.writerow([_cell(cell) for cell in _quality_row(result, measure)])
    return written.getvalue()


def as_markdown(measurements: Sequence[Measurement], results: Sequence[QualityResult] = ()) -> str:
    """A table, one row for each quantity."""
    head = ("model", "engine", "machine", "quantity", "conditions", "median", "80 % interval", "samples")
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for one in measurements:
        for measured in one.measured:
            figure = measured.figure
            cells = (
                one.name,
                f"{one.engine} {one.engine_version}".strip(),
                one.cpu + "".join(f" + {gpu}" for gpu in one.gpus),
                f"{measured.name} ({measured.unit})",
                _conditions(measured),
                f"{figure.value:.6g}",
                f"{figure.low:.6g} to {figure.high:.6g}",
                str(len(measured.samples)),
            )
            lines.append(" | ".join(_escaped(cell) for cell in cells))
    for result in results:
        for measure in result.measures:
            low, high = _ends(measure)
            cells = (
                result.model.label,
                f"{result.engine} {result.engine_version}".strip(),
                "",
                f"{measure.name} ({measure.figure.unit})",
                _of_what(result, measure),
                f"{measure.figure.value:.6g}",
                f"{low:.6g} to {high:.6g}" if isinstance(low, float) and isinstance(high, float) else "",
                str(measure.count),
            )
            lines.append(" | ".join(_escaped(cell) for cell in cells))
    return "".join(f"| {line} |\n" for line in lines)


def take_in(store: Store, path: Path, who: str, *, own: bool = False) -> Imported:
    """Keep what a file holds, all or none, as data of that origin; what is kept already stays as it is.

    Args:
        who: whose they are; "" with `own`.
        own: they are one's own, as of a file written when the store had no room; only of weigh's own format.

    Raises:
        BadFile: the file is none of the formats there are, or not as it has to be.
        BadInput: nobody is named, or a foreign file is said to be one's own.
    """
    if own == bool(who.strip()) or not who.isprintable() or len(who) > MOST_LETTERS:
        raise BadInput("imported runs need an origin", hint="say in a few letters whose they are")
    origin = None if own else Origin(who.strip(), path.name[:MOST_LETTERS], time.time())
    name, runs, measurements, results = read(path, _bytes_of(path), origin)
    if own and name != OWN:
        raise BadInput(f"{path}: was written by {name}, not by weigh", hint="name its origin")
    with store.open() as db:
        new_runs = sum(ledger.insert(db, run) for run in runs)
        new_measurements = sum(measurement.insert(db, one) for one in measurements)
        new_results = sum(quality_result.insert(db, one) for one in results)
    total = len(runs) + len(measurements) + len(results)
    known = total - new_runs - new_measurements - new_results
    return Imported(origin, name, new_runs, new_measurements, new_results, known)


def read(
    path: Path, content: bytes, origin: Origin | None
) -> tuple[str, list[Run], list[Measurement], list[QualityResult]]:
    """The format's name, and the runs, measurements and quality results in it.

    Raises:
        BadFile: names `path`, the place in it, and what is wrong.
    """
    from weigh.store import foreign

    data = foreign.parsed(path, content)
    if isinstance(data, dict) and _KEYS.keys() & data.keys():
        return OWN, *_read_own(path, data, origin)
    name, measurements = foreign.read(path, data, origin)
    return name, [], measurements, []


def _read_own(
    path: Path, data: dict[str, object], origin: Origin | None
) -> tuple[list[Run], list[Measurement], list[QualityResult]]:
    numbers = {
        ledger.FORMAT: ledger.FORMAT_NUMBER,
        measurement.FORMAT: measurement.FORMAT_NUMBER,
        quality_result.FORMAT: quality_result.FORMAT_NUMBER,
    }
    told = [key for key in _KEYS if key in data]
    if any(data[key] != numbers[key] for key in told):
        raise BadFile(path, "is of a format that this weigh does not know", hint="a newer one may read it")
    if set(data) != {*told, *(_KEYS[key] for key in told)}:
        raise BadFile(path, "is no export of runs", hint="weigh exports runs to a file of its own")
    return (
        list(_each(path, data, "runs", MOST_RUNS, lambda one: Run.from_json(one, origin))),
        list(
            _each(
                path,
                data,
                "measurements",
                MOST_MEASUREMENTS,
                lambda one: Measurement.from_json(one, origin),
            )
        ),
        list(_each(path, data, "quality", MOST_RESULTS, lambda one: QualityResult.from_json(one, origin))),
    )


def _each(
    path: Path, data: dict[str, object], key: str, most: int, made: Callable[[object], _Kept]
) -> Iterator[_Kept]:
    listed = data.get(key, [])
    if not isinstance(listed, list) or len(listed) > most:
        raise BadFile(path, f"`{key}` is not a list of at most {most:,}")
    for number, one in enumerate(listed, start=1):
        try:
            yield made(one)
        except ValueError as error:
            raise BadFile(path, f"{key.removesuffix('s')} {number}: {error}") from None


def _document(
    runs: Sequence[Run], measurements: Sequence[Measurement], results: Sequence[QualityResult]
) -> dict[str, Any]:
    """Of what there is, so that earlier versions, who refuse what they do not know, read what they can."""
    held = ledger.document(runs) if runs or not (measurements or results) else {}
    held |= document(measurements) if measurements else {}
    return held | (quality_result.document(results) if results else {})


def _row(one: Measurement, measured: Measured) -> tuple[object, ...]:
    figure = measured.figure
    return (
        *(one.id, when_utc(one), one.kind, one.origin.who if one.origin else "", one.model),
        *(one.quantization, one.family, one.engine, one.engine_version, one.cpu, "; ".join(one.gpus)),
        *(one.fingerprint, measured.name, measured.unit, _conditions(measured)),
        *(figure.value, figure.low, figure.high, len(measured.samples)),
        *("" if one.noise is None else one.noise, "; ".join(one.problems)),
    )


def _quality_row(one: QualityResult, measure: Measure) -> tuple[object, ...]:
    low, high = _ends(measure)
    return (
        *(one.id, when_utc(one), f"quality: {one.way}", one.origin.who if one.origin else "", one.model.name),
        *(one.model.quantization, "", one.engine, one.engine_version, "", "", "", measure.name),
        *(measure.figure.unit, _of_what(one, measure), measure.figure.value, low, high, measure.count),
        *("", ""),
    )


def _ends(measure: Measure) -> tuple[float | str, float | str]:
    """Of the interval; "" where it is not known."""
    figure = measure.figure
    return (
        figure.low if math.isfinite(figure.low) else "",
        figure.high if math.isfinite(figure.high) else "",
    )


def _of_what(one: QualityResult, measure: Measure) -> str:
    told = {
        "on": one.material.name,
        "digest": one.material.digest,
        "against": one.reference.label if one.reference else "",
        "of": measure.of,
    }
    return "; ".join(f"{key}={value}" for key, value in told.items() if value)


def when_utc(one: Measurement | QualityResult) -> str:
    """`2026-11-25T12:00:00Z`."""
    return datetime.fromtimestamp(one.when_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditions(measured: Measured) -> str:
    return "; ".join(f"{key}={value}" for key, value in measured.conditions.items())


def _cell(value: object) -> object:
    """Source: owasp.org, CSV injection."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def _bytes_of(path: Path) -> bytes:
    from weigh.model.json_object import MOST_BYTES
    from weigh.model.source import LocalFile

    with LocalFile(path, kind="file of measurements") as source:
        if source.size_bytes > MOST_BYTES:
            raise BadFile(path, f"larger than {MOST_BYTES >> 20} MiB, which no list of measurements may be")
        return source.read(0, MOST_BYTES)
