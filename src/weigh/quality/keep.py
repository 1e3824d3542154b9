"""What of a run of `weigh quality` goes into the store: one result for each model that was measured."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from weigh.errors import WeighError
from weigh.figure import Basis, Figure
from weigh.quality.code_answers import Answer, Quantity
from weigh.quality.paired import LEAST_FILES
from weigh.store.fields import LARGEST, Scalar, printable
from weigh.store.quality_result import (
    LARGEST_METRIC,
    Material,
    Measure,
    MeasuredModel,
    Piece,
    QualityResult,
    Way,
)

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec
    from weigh.quality.completion import Written
    from weigh.quality.own_code import OwnCode
    from weigh.quality.tasks.passing import Outcome
    from weigh.quality.tasks.run import TaskRun
    from weigh.quality.text import Texts, TextScore
    from weigh.quality.text_models import DivergenceRun, PerplexityRun, Server
    from weigh.quality.text_run import TextRun


def of_text(found: TextRun, models: Sequence[ModelSpec | Server], place: Path) -> list[QualityResult]:
    """Of every model that judged something; `models` in the order in which they were named."""
    results = []
    digest = found.texts.digest
    for one, model in zip(found.candidates, models, strict=True):
        made = one.quality
        if made is None:
            continue
        files = _units(one.scores)
        results.append(
            _result(
                Way.TEXT,
                model,
                material=Material(
                    _name(place),
                    digest,
                    made.text_bytes,
                    settings={"files": made.files, "all_bytes": found.texts.bytes},
                ),
                measures=[
                    Measure("bits_per_byte", made.bits_per_byte, files),
                    Measure("perplexity", made.perplexity, files),
                    Measure("likeliest_share", _without_interval(made.top_share, "share"), files),
                ],
                pieces=[
                    (piece.file, piece.part, piece.block, piece.bits, piece.text_bytes)
                    for piece in one.pieces
                ],
                ended=str(found.ended),
                server=one.scorer,
            )
        )
    return results


def of_windows(
    found: PerplexityRun, models: Sequence[ModelSpec | Server], texts: Texts, place: Path
) -> list[QualityResult]:
    """Of every model that read a window; the first of `models` do, in their order."""
    return [
        _result(
            Way.WINDOWS,
            model,
            material=Material(
                _name(place), texts.digest, texts.bytes, settings={"windows_planned": one.planned}
            ),
            measures=[Measure("perplexity", one.perplexity, one.windows)],
            pieces=one.nats,
            ended=str(found.ended),
        )
        for one, model in zip(found.perplexed, models, strict=False)
    ]


def of_divergence(
    found: DivergenceRun, reference: ModelSpec, models: Sequence[ModelSpec], texts: Texts, place: Path
) -> list[QualityResult]:
    """As `of_windows`."""
    results = []
    for one, model in zip(found.diverged, models, strict=False):
        made = one.found
        figures = {
            "kl_nats": made.kl,
            "same_top": made.same_top,
            "delta_p_mean": made.delta_p_mean,
            "delta_p_rms": made.delta_p_rms,
            "log_perplexity_ratio": made.log_perplexity_ratio,
            "perplexity": _without_interval(made.perplexity, "perplexity"),
        }
        results.append(
            _result(
                Way.DIVERGENCE,
                model,
                reference=reference,
                material=Material(
                    _name(place), texts.digest, texts.bytes, settings={"windows_planned": one.planned}
                ),
                measures=[Measure(name, figure, made.windows) for name, figure in figures.items()],
                pieces=[(w.tokens, w.kl_nats, w.same_top, w.worse_nats) for w in one.windows],
                ended=str(found.ended),
            )
        )
    return results


def of_repository(found: OwnCode, models: Sequence[ModelSpec], folder: Path) -> list[QualityResult]:
    """Of every model that has read something."""
    results = []
    for one, model in zip(found.models, models, strict=True):
        if not one.answers:
            continue
        measures = [
            Measure(str(quantity), figure, one.files if quantity is Quantity.BITS_PER_BYTE else one.lines)
            for quantity, figure in one.figures.items()
            if figure is not None
        ]
        results.append(
            _result(
                Way.REPOSITORY,
                model,
                material=Material(
                    _name(folder),
                    found.chosen.commit,
                    one.text_bytes,
                    settings={"seed": found.seed, "files": len(found.chosen.files)},
                ),
                measures=measures,
                pieces=map(_excerpt, one.answers),
                ended=str(found.ended),
            )
        )
    return results


def of_tasks(run: TaskRun, model: ModelSpec | None, folder: Path | None) -> QualityResult:
    """Of one model; `model` None for a server's, `folder` None for weigh's own tasks."""
    from weigh.quality.tasks.passing import by_difficulty, by_need, rate

    outcomes = run.outcomes()
    measures = []
    for k in sorted({1, run.asked.samples}):
        rates = {"": rate(outcomes, k), **by_need(outcomes, k)}
        rates |= {f"difficulty {level}": found for level, found in by_difficulty(outcomes, k).items()}
        measures += [
            Measure(f"pass@{k}", found.figure, found.tasks, of) for of, found in rates.items() if found
        ]
    versions = {task.id: task.version for task in run.tasks}
    whole = "\n".join(f"{task} {version}" for task, version in sorted(versions.items()))
    sampling = run.asked.sampling
    return _result(
        Way.TASKS,
        model or MeasuredModel(run.model),
        material=Material(
            _name(folder) if folder else "weigh",
            hashlib.sha256(whole.encode()).hexdigest()[:32],
            needs=tuple(sorted({one.need for one in outcomes})),
            settings={
                "style": str(run.style),
                "samples": run.asked.samples,
                "temperature": sampling.temperature,
                "max_tokens": sampling.most_tokens,
                "seed": sampling.seed,
            },
        ),
        measures=measures,
        pieces=[_outcome(one, versions[one.task]) for one in outcomes],
        ended=str(run.ended),
        server=run.engine,
    )


def measured_model(spec: ModelSpec) -> MeasuredModel:
    """A model's own file, as results name it."""
    from weigh.model.catalog import entry_of
    from weigh.model.fingerprint import fingerprint

    entry = entry_of(spec)
    return MeasuredModel(
        name=spec.name,
        quantization=spec.quantization,
        catalog_id=entry.id if entry else "",
        fingerprint=fingerprint(spec),
        parameters=spec.parameters,
        weights_bytes=spec.tensor_bytes,
    )


def _result(
    way: Way,
    model: ModelSpec | Server | MeasuredModel,
    *,
    reference: ModelSpec | None = None,
    material: Material,
    measures: Sequence[Measure],
    pieces: Iterable[Piece],
    ended: str,
    server: str = "",
) -> QualityResult:
    engine, version = _engine(model, server)
    return QualityResult(
        way=way,
        when_unix_s=time.time(),
        model=_measured(model),
        reference=None if reference is None else measured_model(reference),
        material=material,
        measures=tuple(one for one in measures if abs(one.figure.value) <= LARGEST_METRIC),
        engine=engine,
        engine_version=version,
        ended=ended,
        pieces=tuple(tuple(map(_known, piece)) for piece in pieces),
    )


def _known(value: Scalar) -> Scalar:
    """What the store takes: a model may give a token no probability at all."""
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return None
    return printable(value) if isinstance(value, str) else value


def _measured(model: ModelSpec | Server | MeasuredModel) -> MeasuredModel:
    from weigh.quality.text_models import Server

    if isinstance(model, MeasuredModel):
        return model
    if isinstance(model, Server):
        return MeasuredModel(model.model or urlsplit(model.url).hostname or "a server")
    return measured_model(model)


def _engine(model: ModelSpec | Server | MeasuredModel, server: str) -> tuple[str, str]:
    """Name and version of what ran it; of a server what it says of itself."""
    from weigh.engines import default_engine
    from weigh.engines.transformers import Transformers
    from weigh.model.spec import ModelSpec

    if not isinstance(model, ModelSpec):
        return "server", server
    try:
        engine = default_engine() if model.format == "gguf" else Transformers()
        return engine.name, engine.version()
    except WeighError:  # removed since
        return server or model.format, ""


def _units(scores: Sequence[TextScore]) -> int:
    """What is independent: files, or pieces where those are few."""
    pieces = [piece for score in scores for piece in score.pieces]
    files = {piece.file for piece in pieces}
    return len(files) if len(files) >= LEAST_FILES else len(pieces)


def _excerpt(answer: Answer) -> Piece:
    asked = answer.excerpt.position
    told = (answer.excerpt.text, asked.before if asked else "", asked.line if asked else "")
    return (
        hashlib.sha256("\0".join(told).encode("utf-8", "surrogatepass")).hexdigest()[:16],
        answer.file,
        answer.bits,
        answer.text_bytes,
        *_written(answer.next_line),
        *_written(answer.middle),
    )


def _written(found: Written | None) -> Piece:
    return (None, None) if found is None else (found.exact, found.similarity)


def _outcome(one: Outcome, version: str) -> Piece:
    return one.task, version, one.need, one.difficulty, one.samples, one.passed


def _name(place: Path) -> str:
    """Without the folders it lies in, whose names are nobody's business."""
    return place.resolve().name or "/"


def _without_interval(value: float, unit: str) -> Figure:
    return Figure(value, -math.inf, math.inf, unit, Basis.MEASURED)
