"""Which setups meet a need on a machine, best first, and why.

Every catalog model is weighed at every recipe. A setup is recommended only when it fits in memory and
meets the need's speed; among those the order is by quality, moved by speed as much as the task says.
One setup a model is shown: the one that ranks best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

from weigh import units
from weigh.advise.measured import Evidence, ForTask
from weigh.advise.needs import Need
from weigh.advise.weighed import Weighed, Weighings
from weigh.engines.engine import Settings
from weigh.estimate.quality import Quality, traits
from weigh.estimate.returns import RECIPES, same_bytes
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.figure import Basis, Figure
from weigh.model.catalog import CatalogEntry, catalog
from weigh.model.ggml_types import GgmlType

# Weighed first; whether more or fewer bits are worth weighing follows from how it does.
MIDDLE_RECIPE = "Q4_K_M"
MORE_BITS = ("Q8_0", "Q6_K", "Q5_K_M")
FEWER_BITS = ("Q4_0", "Q3_K_M", "Q2_K")
# What the middle recipe misses by more than this, no recipe makes good: Q2_K takes 0.65 of its bytes.
REACH = 2.0

# Decode speed stops mattering at this multiple of the need's minimum: nobody reads faster.
SATURATION = 4.0
# Quality points that saturated speed is worth to a task that cares for speed alone. Two sizes of one
# family are about 8 points apart: speed may move a chat by less than one size, a completion by more.
SPEED_POINTS = 20.0
# Points of quality a model loses per year of age among equals: newest good models first.
AGE_POINTS_PER_YEAR = 0.5
# Points a model loses when nobody has published a score of it: what is known goes first.
UNKNOWN_POINTS = 4.0


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One thing a setup fails at. `ratio` is wanted over given, above 1; by how much it misses."""

    what: str
    text: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A setup with its estimates, and whether it meets the need.

    Attributes:
        measured_here: what `weigh quality` measured of the model here, in sentences; some of it moved its quality.
        moved: whether passes at tasks moved its index.
    """

    entry: CatalogEntry
    setup: Weighed
    available_bytes: int
    fits: bool
    quality: Quality
    rank_points: float
    shortfalls: tuple[Shortfall, ...]
    measured_here: tuple[str, ...] = ()
    moved: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it stands where it does, in plain words: memory, speed, quality, what quantization costs."""
        found, judged = self.setup, self.quality
        spare = self.available_bytes - found.memory.total_bytes
        room = f"leaves {units.gib(spare)}" if spare >= 0 else f"lacks {units.gib(-spare)}"
        said = [f"takes {units.gib(found.memory.total_bytes)} and {room}"]
        if found.speed is not None:
            said.append(f"decodes {units.rate(found.speed.decode_tokens_per_s.value)} tokens/s")
        known = judged.headline if judged.source else "no published score: ranked by size, age and kind"
        said.append(known)
        if judged.loss.value > 0:
            said.append(f"{self.quantization} costs about {judged.loss_points.value:.1f} points of quality")
        return (*said, *self.measured_here)

    @property
    def meets(self) -> bool:
        return not self.shortfalls

    @property
    def miss(self) -> float:
        """By how much it misses the need: all its shortfalls multiplied; 1 when it meets it."""
        return math.prod(shortfall.ratio for shortfall in self.shortfalls)

    @property
    def quantization(self) -> str:
        return self.setup.quantization

    @property
    def name(self) -> str:
        return f"{self.entry.id.rsplit('/', 1)[-1].lower()}:{self.quantization}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for a need.

    Attributes:
        ranked: setups that meet it, best first, one per model.
        misses: when none does, those that come nearest.
        considered, met: setups weighed, and those of them that meet the need.
        why, binding, trades: sentences for the first one; empty when there is none.
    """

    need: Need
    available_bytes: int
    considered: int
    met: int
    ranked: tuple[Recommendation, ...]
    misses: tuple[Recommendation, ...]
    why: str
    binding: tuple[str, ...]
    trades: tuple[str, ...]


def recommend(
    need: Need,
    site: Site,
    *,
    workload: Workload = Workload(),  # noqa: B008 - frozen
    kv_type: GgmlType = GgmlType.F16,
    limit: int = 8,
    evidence: Evidence = Evidence(),  # noqa: B008 - frozen
) -> Answer:
    """Rank the catalog for `need`; speeds are those of `workload`, as for any other command.

    Quality is what is published, and `evidence` of what was measured here.

    Without a calibration speeds are unknown: nothing is called too slow, and the order is by quality.
    """
    if need.reserve_bytes is None:
        need = replace(need, reserve_bytes=site.default_reserve_bytes)
    rooms = site.available_bytes(need.reserve_bytes)
    available = site.together_bytes(rooms)
    settings = Settings(
        context_tokens=need.context_tokens, parallel=need.users, kv_type_k=kv_type, kv_type_v=kv_type
    )
    weighings = Weighings(site, settings, workload, need.prompt_tokens, need.reserve_bytes)
    measured = evidence.of(need.task)
    weighed = [
        one
        for entry in catalog()
        if need.task.wants(entry.id) and _within_reach(entry, available)
        for one in _setups(weighings, need, entry, measured, site, rooms)
    ]
    weighings.keep()
    meeting = sorted((r for r in weighed if r.meets), key=lambda r: -r.rank_points)
    ranked = [_with_words(one, measured) for one in _best_per_model(meeting)[:limit]]
    misses = () if ranked else [_with_words(one, measured) for one in _nearest_misses(weighed)]
    first = ranked[0] if ranked else None
    return Answer(
        need=need,
        available_bytes=available,
        considered=len(weighed),
        met=len(meeting),
        ranked=tuple(ranked),
        misses=tuple(misses),
        why=_why(first, len(meeting), need, available) if first else "",
        binding=tuple(_binding(first, weighed)) if first else (),
        trades=tuple(_trades(need, first, meeting)) if first else (),
    )


def _within_reach(entry: CatalogEntry, available: int) -> bool:
    """Whether the model at about 4 bits is at most REACH times what may be used, or a GiB."""
    return (entry.stated_total or 0) / 2 <= REACH * max(available, units.GIB)


def _setups(
    weighings: Weighings,
    need: Need,
    entry: CatalogEntry,
    measured: ForTask,
    site: Site,
    rooms: Sequence[int],
) -> Iterator[Recommendation]:
    """The model of `entry` at every recipe worth weighing; none when its shapes are not known."""
    habits = traits(entry.id)
    native = habits.native_format if habits else ""
    first = weighings.of(entry, native or MIDDLE_RECIPE)
    if first is None:
        return
    middle = _judged(need, entry, first, measured, site, rooms)
    yield middle
    if native:
        return
    others = (*MORE_BITS, *FEWER_BITS) if middle.meets else FEWER_BITS if middle.miss <= REACH else ()
    for recipe in others:
        other = weighings.of(entry, recipe)
        if other is not None:
            yield _judged(need, entry, other, measured, site, rooms)


def _judged(
    need: Need,
    entry: CatalogEntry,
    setup: Weighed,
    measured: ForTask,
    site: Site,
    rooms: Sequence[int],
) -> Recommendation:
    """A weighed setup held against the need."""
    fits, available = site.holds(setup.devices, rooms), site.together_bytes(rooms)
    judged = measured.quality(entry.id, setup.parameters, setup.quantization)
    moved = measured.moves(entry.id)
    return Recommendation(
        entry=entry,
        setup=setup,
        available_bytes=available,
        fits=fits,
        quality=judged,
        rank_points=_rank_points(need, entry, setup, judged, moved=moved),
        shortfalls=tuple(shortfalls(need, setup, available, fits)),
        moved=moved,
    )


def shortfalls(need: Need, found: Weighed, available: int, fits: bool) -> Iterator[Shortfall]:
    """What keeps a weighed setup from a need: memory, context, speed, wait. Nothing is said of unknown speeds."""
    needed = found.memory.total_bytes
    if not fits:
        text = f"needs {units.gib(needed)}, {units.gib(available)} may be used"
        yield Shortfall("memory", text, max(needed / max(available, 1), 1.001))
    trained = found.context_train
    if trained and need.context_tokens > trained:
        text = f"trained for {trained:,} tokens of context, {need.context_tokens:,} wanted"
        yield Shortfall("context", text, need.context_tokens / trained)
    if found.speed is None:
        return
    decode = found.speed.decode_tokens_per_s.value
    if decode < need.min_decode_tokens_per_s:
        text = f"decodes {units.rate(decode)} tokens/s, {units.rate(need.min_decode_tokens_per_s)} wanted"
        yield Shortfall("speed", text, need.min_decode_tokens_per_s / decode)
    first_token = found.first_token_s
    if first_token and need.max_ttft_s is not None and first_token.value > need.max_ttft_s:
        text = (
            f"first token after {units.seconds(first_token.value)}, {units.seconds(need.max_ttft_s)} wanted"
        )
        yield Shortfall("first token", text, first_token.value / need.max_ttft_s)


def _rank_points(need: Need, entry: CatalogEntry, found: Weighed, judged: Quality, *, moved: bool) -> float:
    """Quality points weighed against speed.

    Quality counts midway between its value and its low end, so that of equals the better known one wins;
    where nothing is published and nothing was measured, at the low end and less.
    Speed is that of a whole answer, thinking included, and saturates.
    """
    weight = need.task.quality_weight
    age_years = (date.today() - entry.release_date).days / 365 if entry.release_date else 3.0
    score = judged.score
    known = (score.value + score.low) / 2 if judged.source or moved else score.low - UNKNOWN_POINTS
    points = weight * (known - AGE_POINTS_PER_YEAR * age_years)
    if found.speed is not None:
        wanted = max(need.min_decode_tokens_per_s, 0.1)
        ratio = found.speed.decode_tokens_per_s.value * _answer_share(need, entry.id) / wanted
        points += (1 - weight) * SPEED_POINTS * min(1.0, max(0.0, math.log(ratio, SATURATION)))
    return points


def _answer_share(need: Need, model_id: str) -> float:
    """Share of the output tokens that are the answer: a model that always thinks first writes more."""
    habits = traits(model_id)
    if habits is None or habits.thinking != "always":
        return 1.0
    return need.output_tokens / (need.output_tokens + need.task.thinking_tokens)


def _with_words(one: Recommendation, measured: ForTask) -> Recommendation:
    """With what was measured of it, which is worked out for what is shown alone."""
    return replace(one, measured_here=measured.said(one.entry.id, one.quantization))


def _best_per_model(ranked: list[Recommendation]) -> list[Recommendation]:
    first: dict[str, Recommendation] = {}
    for one in ranked:
        first.setdefault(one.entry.id, one)
    return list(first.values())


def _nearest_misses(weighed: list[Recommendation], limit: int = 3) -> list[Recommendation]:
    """Those that fail by least, all their shortfalls multiplied."""
    nearest = sorted(weighed, key=lambda r: r.miss)
    return _best_per_model(nearest)[:limit]


def _why(first: Recommendation, met: int, need: Need, available: int) -> str:
    kind = "the best published quality" if first.quality.source else "the best expected quality"
    kind += ", moved by what was measured here" if first.moved else ""
    speed = (
        f" and answer at {units.rate(need.min_decode_tokens_per_s)} tokens/s or more"
        if first.setup.speed
        else ""
    )
    return (
        f"{kind}, weighed against speed, among the {met} setups that hold {need.context_tokens:,} tokens of"
        f" context in {units.gib(available)}{speed}"
    )


def _binding(first: Recommendation, weighed: list[Recommendation]) -> Iterator[str]:
    """What keeps better models out: the nearest miss, and the best one within reach."""
    better = [
        r
        for r in weighed
        if not r.meets and r.entry.id != first.entry.id and r.quality.score.low > first.quality.score.low
    ]
    within_reach = [r for r in better if r.miss <= REACH * REACH]
    named: set[str] = set()
    for choice in (
        min(better, key=lambda r: r.miss, default=None),
        max(within_reach, key=lambda r: r.rank_points, default=None),
    ):
        if choice is not None and choice.entry.id not in named:
            named.add(choice.entry.id)
            score = f" ({choice.quality.headline})" if choice.quality.source else ""
            yield f"{choice.name}{score} " + "; ".join(s.text for s in choice.shortfalls)


def _trades(need: Need, first: Recommendation, meeting: list[Recommendation]) -> Iterator[str]:
    """The same model at fewer bits; a bigger one at fewer and a smaller one at more, as they rank."""
    same = [r for r in meeting if r.entry.id == first.entry.id and _weight_bits(r) < _weight_bits(first)]
    if same:
        other = max(same, key=_weight_bits)
        freed = first.setup.memory.total_bytes - other.setup.memory.total_bytes
        yield (
            f"{other.name} frees {units.gib(freed)} and costs about {other.quality.loss.value:.3f} nats of"
            f" divergence ({first.quality.loss.value:.3f} as chosen; {_basis(other.quality.loss)})"
        )
    for words, factor in (("bigger at fewer bits", 1), ("smaller at more bits", -1)):
        others = [
            r
            for r in meeting
            if r.quantization != first.quantization  # one recipe comes to other bits in another model
            and factor * (r.setup.parameters - first.setup.parameters) > 0
            and factor * (_weight_bits(r) - _weight_bits(first)) < 0
        ]
        if others:
            other = max(others, key=lambda r: r.rank_points)
            speed = other.setup.speed
            rate = f", {units.rate(speed.decode_tokens_per_s.value)} tokens/s" if speed else ""
            yield (
                f"{words}: {other.name} with quality index {other.quality.score.value:.0f}"
                f" ({other.quality.score.low:.0f}–{other.quality.score.high:.0f}) against"
                f" {first.quality.score.value:.0f}"
                f" ({first.quality.score.low:.0f}–{first.quality.score.high:.0f}){rate}"
                f"{_in_one_family(need, first, other.quantization)}"
            )


def _basis(loss: Figure) -> str:
    return "measured here" if loss.basis is Basis.MEASURED else str(loss.basis)


def _in_one_family(need: Need, first: Recommendation, other: str) -> str:
    """How likely it is that the other recipe is the better way to spend the first one's bytes, as `weigh returns` has
    it; "" where it does not know these recipes, or sizes like these."""
    weights_bytes = first.setup.memory.weights_bytes
    recipes = (first.quantization, other)
    if not set(recipes) <= set(RECIPES) or weights_bytes < units.GIB:
        return ""
    chosen, instead = same_bytes(weights_bytes, need.task.axis, recipes)
    if not (chosen.known and instead.known):
        return ""
    chance = instead.best_chance  # of some hundred draws, which tell no less than a hundredth
    said = "under 1 %" if chance < 0.01 else "over 99 %" if chance > 0.99 else f"of {100 * chance:.0f} %"
    return (
        f"; of one family in {units.gib(weights_bytes)}, {other} is better than {first.quantization} with a chance"
        f" {said}"
    )


def _weight_bits(one: Recommendation) -> float:
    """Bits per weight of a setup."""
    return 8 * one.setup.memory.weights_bytes / one.setup.parameters
