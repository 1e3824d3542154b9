"""What `weigh quality` measured here of the catalog's models, as evidence for advice.

A divergence from the unquantized model takes the place of the predicted one. Passes at tasks move the index of
models that were measured on the same (`weigh.advise.shift`). What was read of the user's own code is said, and moves
nothing: it tells of that code, and of no index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from weigh.advise.needs import EVIDENCE, Task
from weigh.advise.shift import LEAST_TASKS, Shift, shifts
from weigh.errors import UnknownName
from weigh.estimate.quality import Quality, quality
from weigh.model.catalog import catalog
from weigh.store.quality_result import MeasuredModel, QualityResult, Way, quality_results

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.quality.tasks.passing import Outcome
    from weigh.store.store import Store

UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
MOST_READ = 100  # newest results of each way
LEAST_NATS, MOST_NATS = 1e-9, 100.0  # beyond which no divergence of a language model lies
Losses = Mapping[str, "Figure"]  # nats by recipe


@dataclass(frozen=True, slots=True)
class Evidence:
    """One's own results of the catalog's models.

    Attributes:
        losses: divergences from the unquantized model, by catalog id.
        passes: of weigh's tasks, newest first.
        code: newest on a repository, by catalog id.
    """

    losses: Mapping[str, Losses] = field(default_factory=dict)
    passes: tuple[QualityResult, ...] = ()
    code: Mapping[str, QualityResult] = field(default_factory=dict)

    def of(self, task: Task) -> ForTask:
        """As far as it tells of a task."""
        passes = _of_task(self.passes, task)
        priors = {model: _prior(one.model, task, self.losses.get(model, {})) for model, one in passes.items()}
        known = {model: prior for model, prior in priors.items() if prior is not None}
        return ForTask(task, self, passes, shifts(known, {model: passes[model].shares for model in known}))


@dataclass(frozen=True, slots=True)
class Passes:
    """What one model did of the tasks of a need, by task and version."""

    model: MeasuredModel
    outcomes: Mapping[str, Outcome]

    @property
    def shares(self) -> dict[str, float]:
        return {task: one.passed / one.samples for task, one in self.outcomes.items()}


@dataclass(frozen=True, slots=True)
class ForTask:
    """Evidence on one task: what each model passed, and how that moves its index; both by catalog id."""

    task: Task
    evidence: Evidence
    passes: Mapping[str, Passes]
    shifts: Mapping[str, Shift]

    def quality(
        self, model_id: str, parameters: int, recipe: str, *, bits_per_weight: float | None = None
    ) -> Quality:
        """As `weigh.estimate.quality.quality`, with what was measured of the model counted in.

        The interval narrows for the recipe that was measured alone: another one's loss is as unsure as before.
        """
        losses = self.evidence.losses.get(model_id, {})
        found = quality(
            model_id,
            parameters,
            recipe,
            self.task.axis,
            bits_per_weight=bits_per_weight,
            measured=losses,
        )
        shift = self.shifts.get(model_id)
        if shift is None:
            return found
        score = found.score
        width = shift.width if self.passes[model_id].model.quantization == recipe else 1.0
        value = score.value + shift.points
        moved = replace(
            score,
            value=value,
            low=value - (score.value - score.low) * width,
            high=value + (score.high - score.value) * width,
            source=f"{score.source}, and passes at {shift.tasks} tasks measured here",
        )
        return replace(found, score=moved)

    def said(self, model_id: str, recipe: str) -> tuple[str, ...]:
        """What was measured here of the model, in sentences with their figures."""
        return tuple(
            filter(None, (self._of_tasks(model_id), self._of_loss(model_id, recipe), self._of_code(model_id)))
        )

    def moves(self, model_id: str) -> bool:
        return model_id in self.shifts

    def _of_tasks(self, model_id: str) -> str:
        from weigh.quality.tasks.passing import rate

        passes, shift = self.passes.get(model_id), self.shifts.get(model_id)
        found = rate(list(passes.outcomes.values())) if passes else None
        if passes is None or found is None:
            return ""
        share = found.figure
        passed = (
            f"measured here: {passes.model.quantization} passes {100 * share.value:.0f} %"
            f" ({100 * share.low:.0f}–{100 * share.high:.0f}) of {found.tasks:,} tasks of this need"
        )
        if shift is None:
            return f"{passed}; no other model was measured on {LEAST_TASKS} of them, so they do not move its place"
        beside = _short(shift.beside[0]) if len(shift.beside) == 1 else f"{len(shift.beside)} other models"
        return f"{passed}; beside {beside} that moves its index by {shift.points:+.1f} points"

    def _of_loss(self, model_id: str, recipe: str) -> str:
        loss = self.evidence.losses.get(model_id, {}).get(recipe)
        if loss is None:
            return ""
        return (
            f"measured here: {recipe} lies {loss.value:.3g} nats ({loss.low:.3g}–{loss.high:.3g}) from the"
            " unquantized model"
        )

    def _of_code(self, model_id: str) -> str:
        from weigh.advise.paired_results import gap

        result = self.evidence.code.get(model_id)
        bits = result.measure("bits_per_byte") if result else None
        if result is None or bits is None:
            return ""
        said = f"measured on your code ({result.material.name}): {bits.figure.value:.2f} bits per byte"
        compared = [
            (other, found)
            for other_id, other in self.evidence.code.items()
            if other_id != model_id and (found := gap(result, other)) is not None
        ]
        if not compared:
            return said
        other, found = max(compared, key=lambda pair: pair[1].count)
        name, less = _short(other.model.catalog_id), found.difference
        if found.better is None:
            return f"{said}, not told apart from {name}"
        word = "better" if found.better == 0 else "worse"
        ends = sorted((abs(less.low), abs(less.high)))
        return f"{said}, {word} than {name} by {abs(less.value):.2f} ({ends[0]:.2f}–{ends[1]:.2f})"


def evidence(store: Store) -> Evidence:
    """All there is in the store."""
    return evidence_of(
        one
        for way in (Way.DIVERGENCE, Way.TASKS, Way.REPOSITORY)
        for one in quality_results(
            store, way=way, of_catalog=True, limit=MOST_READ, pieces=way is not Way.DIVERGENCE
        )
    )


def evidence_of(results: Iterable[QualityResult]) -> Evidence:
    """Of one's own results, newest first of each way, with their pieces."""
    of: dict[Way, list[QualityResult]] = {}
    for one in results:
        if one.model.catalog_id in catalog().by_id:
            of.setdefault(one.way, []).append(one)
    diverged: dict[str, list[QualityResult]] = {}
    for one in of.get(Way.DIVERGENCE, ()):
        diverged.setdefault(one.model.catalog_id, []).append(one)
    newest: dict[str, QualityResult] = {}
    for one in of.get(Way.REPOSITORY, ()):
        newest.setdefault(one.model.catalog_id, one)
    losses = {model: measured_losses(found) for model, found in diverged.items()}
    return Evidence(losses, tuple(of.get(Way.TASKS, ())), newest)


def measured_losses(results: Iterable[QualityResult]) -> dict[str, Figure]:
    """Nats by recipe, of results of one model: each from the same model unquantized; of several the longest."""
    longest: dict[str, QualityResult] = {}
    for one in results:
        found = one.measure("kl_nats")
        if found is None or not _is_loss(found.figure) or not _is_quantization(one):
            continue
        before = longest.get(one.model.quantization)
        if before is None or _windows(before) < _windows(one):
            longest[one.model.quantization] = one
    return {
        recipe: replace(measure.figure, source="measured here by `weigh quality --against`")
        for recipe, one in longest.items()
        if (measure := one.measure("kl_nats")) is not None
    }


def _is_loss(nats: Figure) -> bool:
    """Whether it is a divergence with an interval, which one window has not."""
    return nats.low >= 0 and nats.high <= MOST_NATS and (nats.value == 0 or nats.value >= LEAST_NATS)


def _is_quantization(one: QualityResult) -> bool:
    """Whether the reference is the same model with all its bits, and nothing but quantization lies between them."""
    model, reference = one.model, one.reference
    if reference is None or reference.quantization not in UNQUANTIZED:
        return False
    same = model.catalog_id == reference.catalog_id if model.catalog_id else model.name == reference.name
    return same and model.parameters == reference.parameters


def _windows(one: QualityResult) -> int:
    measure = one.measure("kl_nats")
    return measure.count if measure else 0


# --- tasks -------------------------------------------------------------------------------------------


def _of_task(passes: Sequence[QualityResult], task: Task) -> dict[str, Passes]:
    """By catalog id the result with most tasks of this need; asked in one and the same way, that of most models."""
    from weigh.advise.paired_results import outcomes

    groups = EVIDENCE.get(task.name, ())
    ways: dict[tuple[object, ...], dict[str, Passes]] = {}
    for one in passes:
        asked = one.material.settings
        if (asked.get("style") == "completion") != task.fim:
            continue
        found = {name: outcome for name, outcome in outcomes(one).items() if outcome.need in groups}
        way = ways.setdefault((asked.get("temperature"), asked.get("max_tokens")), {})
        before = way.get(one.model.catalog_id)
        if found and (before is None or len(before.outcomes) < len(found)):
            way[one.model.catalog_id] = Passes(one.model, found)
    return max(ways.values(), key=len, default={})


def _prior(model: MeasuredModel, task: Task, losses: Losses) -> Figure | None:
    """The index of what was measured before it was; None for a recipe of which no loss is known."""
    if model.parameters is None:
        return None
    try:
        found = quality(model.catalog_id, model.parameters, model.quantization, task.axis, measured=losses)
    except UnknownName:
        return None
    return found.score


def _short(model_id: str) -> str:
    return model_id.rpartition("/")[2]
