"""What a model is good and bad for: each need graded by the best evidence there is, and by nothing else.

First the share of this need's tasks it was measured to solve; else whether it is of a kind that does it at all;
else its quality index; and where nobody has published a score of it, its size alone, which can rule a model out
but never in. What then keeps it from the need here (memory, context, speed, wait) is what
`weigh.advise.search` says of any setup. The bars are judgements, with their reasons in docs/card.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from weigh.advise.measured import Evidence
from weigh.advise.needs import EVIDENCE, TASKS, Need, Task, need
from weigh.advise.search import Shortfall, shortfalls
from weigh.advise.weighed import Weighed, weighed
from weigh.errors import UnknownName
from weigh.estimate.quality import Quality, quality, traits
from weigh.figure import Basis, Figure

if TYPE_CHECKING:
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.site import Site
    from weigh.model.spec import ModelSpec
    from weigh.quality.file_habits import FileHabits

# Points of the index from which a need is done fairly, for a need that quality means nothing and everything to.
LEAST_FAIR_POINTS, MOST_FAIR_POINTS = 22.0, 52.0
GOOD_ABOVE_FAIR_POINTS = 10.0  # one logit: the odds of a right answer times 2.7
FAIR_SHARE, GOOD_SHARE = 1 / 3, 2 / 3  # of a need's tasks passed at the first try
LEAST_TASKS = 5  # below which a share says nothing
ENOUGH_TOKENS = 512  # of an answer; with fewer, models that could have passed are cut
FAR_OFF = 1.5  # a limit missed by more than this spoils a need


class Grade(StrEnum):
    """Best first."""

    GOOD = "good"
    FAIR = "fair"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Bars:
    """Where a need begins to be done fairly, and well: points of the index."""

    fair: float
    good: float


@dataclass(frozen=True, slots=True)
class Passed:
    """Share of a group of tasks solved at the first try.

    Attributes:
        tasks: how many that rests on.
        most_tokens: an answer could have; None where unknown.
    """

    group: str
    share: Figure
    tasks: int
    most_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is graded.

    Attributes:
        catalog_id: None for a model outside the catalog, or of which it knows no quality.
        parameters: None where unknown, as of a server's model.
        quantization: its recipe; "" where unknown.
        bits_per_weight: of the file; None where unknown.
        habits: what its files say; None without files.
        passed: of weigh's tasks, by group and whether the model was asked to go on from a text and not as a chat.
        losses: divergence from the unquantized model measured here, by recipe, of a model outside the catalog.
        evidence: what was measured here of the catalog's models.
        writes: False for an embedding model.
    """

    catalog_id: str | None
    parameters: int | None
    quantization: str = ""
    bits_per_weight: float | None = None
    habits: FileHabits | None = None
    passed: Mapping[tuple[str, bool], Passed] = field(default_factory=dict)
    losses: Mapping[str, Figure] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    writes: bool = True

    def quality_for(self, task: Task) -> Quality | None:
        """Index for a need's weights; None where not even the size is known, or the quantization's loss."""
        if self.parameters is None:
            return None
        recipe, bits = self.quantization or "F16", self.bits_per_weight
        try:
            if self.catalog_id is not None:
                known = self.evidence.of(task)
                return known.quality(self.catalog_id, self.parameters, recipe, bits_per_weight=bits)
            return quality(
                None, self.parameters, recipe, task.axis, bits_per_weight=bits, measured=self.losses
            )
        except UnknownName:
            return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How well a model does one need.

    Attributes:
        grade: of all together.
        answers: of what it writes alone, whatever the machine.
        may_be: another grade that the evidence leaves open; None when it is clear.
        reason: what `answers` rests on, in plain words with its figures.
        basis: of that evidence; None where there is none.
        unfit: its kind rules it out, whatever else is known.
        quality: the index behind it, also where something better decided.
        shortfalls: what is in its way here; () where nothing is, or nothing of the machine is known.
        request_s: a typical request from sending to its last token; None where no speed is known.
    """

    need: Need
    bars: Bars
    grade: Grade
    answers: Grade
    may_be: Grade | None
    reason: str
    basis: Basis | None
    unfit: bool
    quality: Quality | None
    passed: tuple[Passed, ...]
    shortfalls: tuple[Shortfall, ...]
    request_s: Figure | None

    @property
    def held_back_here(self) -> bool:
        """Whether what it writes would earn a better grade on another machine."""
        of_model = tuple(one for one in self.shortfalls if one.what == "context")
        return self.grade is not _together(self.answers, of_model)


def bars(task: Task) -> Bars:
    """The more a need hangs on quality, the higher."""
    fair = LEAST_FAIR_POINTS + (MOST_FAIR_POINTS - LEAST_FAIR_POINTS) * task.quality_weight
    return Bars(fair, fair + GOOD_ABOVE_FAIR_POINTS)


def verdicts(
    subject: Subject, spec: ModelSpec | None = None, site: Site | None = None
) -> tuple[Verdict, ...]:
    """Every need, in the order of `needs.TASKS`; without a spec or a site nothing is said of the machine."""
    setups: dict[int, SetupEstimate] = {}
    found = []
    for name in TASKS:
        wanted = need(name)
        setup = None
        if spec is not None and site is not None:
            setup = setups.get(wanted.context_tokens) or _setup(spec, site, wanted)
            setups[wanted.context_tokens] = setup
        found.append(_verdict(subject, wanted, setup))
    return tuple(found)


def _setup(spec: ModelSpec, site: Site, wanted: Need) -> SetupEstimate:
    from weigh.engines.engine import Settings
    from weigh.estimate.setup import weigh

    return weigh(spec, site, Settings(context_tokens=wanted.context_tokens))


def _verdict(subject: Subject, wanted: Need, setup: SetupEstimate | None) -> Verdict:
    task = wanted.task
    judged = subject.quality_for(task)
    asked = ((group, task.fim) for group in EVIDENCE.get(task.name, ()))
    passed = tuple(subject.passed[one] for one in asked if one in subject.passed)
    shown = _by_tasks(passed)
    unfit = None if shown else _unfit(subject, task)
    answers, may_be, reason, basis = shown or unfit or _by_index(subject, task, judged)
    missed: tuple[Shortfall, ...] = ()
    request_s = None
    if setup is not None:
        here = weighed(setup, wanted.prompt_tokens)
        missed = tuple(shortfalls(wanted, here, setup.available_bytes, setup.fits))
        request_s = _request_s(subject, wanted, here)
    return Verdict(
        need=wanted,
        bars=bars(task),
        grade=_together(answers, missed),
        answers=answers,
        may_be=may_be,
        reason=reason,
        basis=basis,
        unfit=unfit is not None,
        quality=judged,
        passed=passed,
        shortfalls=missed,
        request_s=request_s,
    )


# Grade of what it writes, what else that may be, why, and on which evidence.
_Answers = tuple[Grade, Grade | None, str, Basis | None]


def _unfit(subject: Subject, task: Task) -> _Answers | None:
    """Why a model of this kind does not do a need at all; None where it may."""
    if not subject.writes:
        return Grade.BAD, None, "an embedding model: it writes no text", Basis.COMPUTED
    known = traits(subject.catalog_id) if subject.catalog_id else None
    if known is not None:
        if known.kind not in task.kinds:
            why = {
                "base": "a base model: it continues text and follows no instructions",
                "reasoning": "it always thinks before it answers",
                "instruct": "not of the kind that does this",
            }[known.kind]
            return Grade.BAD, None, why, Basis.PUBLISHED
        if task.fim and not known.fim:
            return Grade.BAD, None, "not known to be trained to fill in the middle", Basis.PUBLISHED
        return None
    habits = subject.habits
    if habits is None:
        return None
    if task.fim and not habits.fills_middle:
        return Grade.BAD, None, "no tokens to fill in the middle in its vocabulary", Basis.COMPUTED
    if "base" not in task.kinds and not habits.chats:
        return Grade.BAD, None, "no chat template: a base model, it continues text", Basis.COMPUTED
    return None


def _by_tasks(passed: Sequence[Passed]) -> _Answers | None:
    """The group passed least decides: a need is done when all of its work is. None where too few were put to it."""
    passed = [one for one in passed if one.tasks >= LEAST_TASKS]
    if not passed:
        return None
    least = min(passed, key=lambda one: one.share.value)
    said = ", ".join(
        f"passes {100 * one.share.value:.0f} % ({100 * one.share.low:.0f}–{100 * one.share.high:.0f})"
        f" of {one.tasks} {one.group.replace('_', ' ')} tasks"
        for one in passed
    )
    if least.most_tokens is not None and least.most_tokens < ENOUGH_TOKENS:
        said += f", with answers of at most {least.most_tokens} tokens"
    return *_banded(least.share, FAIR_SHARE, GOOD_SHARE), said, Basis.MEASURED


def _by_index(subject: Subject, task: Task, judged: Quality | None) -> _Answers:
    if judged is None:
        return Grade.UNKNOWN, None, "neither its size nor a score is known", None
    limits, score = bars(task), judged.score
    said = f"index {_points(score)}; fair from {limits.fair:g}, good from {limits.good:g}"
    if subject.catalog_id is not None:
        if subject.evidence.of(task).moves(subject.catalog_id):
            said += " (moved by tasks measured here)"
        return *_banded(score, limits.fair, limits.good), said, judged.basis
    if score.high < limits.fair:
        size = f"by its size alone an index of at most {score.high:.0f}; fair from {limits.fair:g}"
        return Grade.BAD, None, size, Basis.RULE_OF_THUMB
    return Grade.UNKNOWN, None, "no score of it is known, and its size alone does not tell", None


def _banded(figure: Figure, fair: float, good: float) -> tuple[Grade, Grade | None]:
    """The grade of a figure, and the one that its interval leaves open; unknown where it leaves all three."""

    def grade(value: float) -> Grade:
        return Grade.GOOD if value >= good else Grade.FAIR if value >= fair else Grade.BAD

    middle, ends = grade(figure.value), (grade(figure.low), grade(figure.high))
    if set(ends) == {Grade.BAD, Grade.GOOD}:
        return Grade.UNKNOWN, None
    return middle, next((end for end in ends if end is not middle), None)


def _points(score: Figure) -> str:
    return f"{score.value:.0f} ({score.low:.0f}–{score.high:.0f})"


def _together(answers: Grade, missed: Sequence[Shortfall]) -> Grade:
    """What stands in its way counts against what it writes; unknown answers stay so unless something rules it out."""
    if answers is Grade.BAD or any(one.what == "memory" or one.ratio > FAR_OFF for one in missed):
        return Grade.BAD
    return Grade.FAIR if missed and answers is Grade.GOOD else answers


def _request_s(subject: Subject, wanted: Need, here: Weighed) -> Figure | None:
    """A typical request of the need, all of its output with what a model that always thinks first spends on that."""
    if here.speed is None or here.first_token_s is None:
        return None
    first, decode = here.first_token_s, here.speed.decode_tokens_per_s
    known = traits(subject.catalog_id) if subject.catalog_id else None
    thinks = known is not None and known.thinking == "always"
    tokens = wanted.output_tokens + (wanted.task.thinking_tokens if thinks else 0) - 1
    return Figure(
        first.value + tokens / decode.value,
        first.low + tokens / decode.high,
        first.high + tokens / decode.low,
        "s",
        decode.basis,
    )


def by_grade(found: Sequence[Verdict]) -> Iterator[tuple[Grade, tuple[Verdict, ...]]]:
    """Those of each grade that there is, best first."""
    for grade in Grade:
        if alike := tuple(one for one in found if one.grade is grade):
            yield grade, alike
