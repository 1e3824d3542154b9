"""All that is known of one model on one page: what it is, its sizes and speeds, its quality, and what it is good for.

Nothing is worked out anew here: sizes and speeds are those of `weigh.estimate.setup`, quality that of
`weigh.estimate.quality`, measurements those in the store, verdicts those of `weigh.advise.verdict`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weigh.advise.measured import UNQUANTIZED, evidence, measured_losses
from weigh.advise.verdict import Passed, Subject, Verdict, verdicts
from weigh.engines.engine import Settings
from weigh.errors import BadInput, UnknownName
from weigh.estimate.quality import AXES, Axis, Score, Traits, ability, published, traits
from weigh.estimate.quantization_loss import quantization_loss
from weigh.estimate.returns import RECIPES
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.speed import Workload
from weigh.figure import Basis, Figure
from weigh.model.catalog import CatalogEntry, catalog, entry_called, entry_of
from weigh.model.fingerprint import fingerprint
from weigh.model.variants import said_quantization
from weigh.store.ledger import runs
from weigh.store.measurement import Measurement, measurements
from weigh.store.quality_result import QualityResult, Way, quality_results

if TYPE_CHECKING:
    from weigh.bench.here import Here
    from weigh.engines.served import ServedModel
    from weigh.estimate.site import Site
    from weigh.model.spec import ModelSpec
    from weigh.quality.file_habits import FileHabits
    from weigh.store import Store
    from weigh.store.run import Run

_OWN_TASKS = "weigh"  # as results call the set that the verdicts' bars are meant for; not tasks of the user's
PEERS_WITHIN = 2.0  # a peer has between half as many parameters and twice as many


@dataclass(frozen=True, slots=True)
class Size:
    """The model at one quantization.

    Attributes:
        setup: weighed with the card's context.
        file_bytes: exact where a file was read or llama.cpp's mix is computed.
        loss: mean divergence from the unquantized model, in nats; None where nothing is known.
        chosen: the one that was asked for, which the verdicts are of.
    """

    setup: SetupEstimate
    file_bytes: int
    loss: Figure | None
    chosen: bool

    @property
    def quantization(self) -> str:
        return self.setup.spec.quantization


@dataclass(frozen=True, slots=True)
class AxisQuality:
    """The index of the unquantized model on one axis, and where it stands among others of its size and kind.

    Attributes:
        peers: how many of those have published scores on this axis; `below`, how many of these a lower index.
        best: the peer of the highest, and that; None without peers.
    """

    axis: Axis
    index: Figure
    below: int
    peers: int
    best: tuple[str, Figure] | None


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a model.

    Attributes:
        asked: as it was named.
        name: what it is called; `quantization` is "" where unknown.
        entry: of the catalog, where it is a model of it; `by_name_only` where nothing but a server's word says so.
        spec: None for a server's model, whose shapes are not told.
        served: engine, version and largest context of a server; None for files and names.
        sizes: most bits first; () for a server's model.
        axes: () for a model outside the catalog, of which an index says nothing.
        scores: published ones, as printed.
        benchmarks: what `weigh bench` measured of it on this machine, newest first; `trials`, what `weigh try` did.
        results: what `weigh quality` measured of it, newest first.
        verdicts: one for each need.
    """

    asked: str
    name: str
    quantization: str
    entry: CatalogEntry | None
    by_name_only: bool
    traits: Traits | None
    habits: FileHabits | None
    spec: ModelSpec | None
    served: Served | None
    site: Site | None
    sizes: tuple[Size, ...]
    axes: tuple[AxisQuality, ...]
    scores: tuple[Score, ...]
    benchmarks: tuple[Measurement, ...]
    trials: tuple[Run, ...]
    results: tuple[QualityResult, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def scores_by_use(self) -> list[Score]:
        """The newest of each benchmark, asked directly and thinking; those first that most models have."""
        newest = {(one.benchmark, one.mode): one for one in sorted(self.scores, key=lambda one: one.date)}
        models = Counter(benchmark for other in catalog() for benchmark in _benchmarks_of(other.id))
        return sorted(newest.values(), key=lambda one: (-models[one.benchmark], one.benchmark, one.mode))


def _benchmarks_of(model_id: str) -> set[str]:
    return {score.benchmark for score in published(model_id)}


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of its model; `context_tokens` None where it does not."""

    url: str
    engine: str
    version: str
    context_tokens: int | None


def card(
    asked: str,
    spec: ModelSpec,
    site: Site,
    store: Store,
    *,
    context_tokens: int | None = None,
) -> Card:
    """Of a file, a folder or a catalog's model.

    Args:
        context_tokens: that sizes and speeds are for; None for the default of `weigh fit`.
    """
    from weigh.quality.file_habits import file_habits

    entry, habits = entry_of(spec), file_habits(spec)
    own, names = fingerprint(spec), {spec.name, entry.id if entry else spec.name}
    benchmarks = _benchmarks(store, site, names)
    results = [one for one in quality_results(store) if _is_result_of(one, spec, entry, own)]
    known_here = evidence(store)
    losses = known_here.losses.get(entry.id, {}) if entry else measured_losses(results)
    known = traits(entry.id) if entry else None
    subject = Subject(
        catalog_id=entry.id if entry and known else None,
        parameters=spec.parameters,
        quantization=spec.quantization,
        bits_per_weight=spec.bits_per_weight,
        habits=habits,
        passed=_passed(results, spec.quantization),
        losses=losses,
        evidence=known_here,
        writes=spec.generates,
    )
    return Card(
        asked=asked,
        name=spec.name,
        quantization=spec.quantization,
        entry=entry,
        by_name_only=False,
        traits=known,
        habits=habits,
        spec=spec,
        served=None,
        site=site,
        sizes=tuple(_sizes(spec, entry, site, context_tokens, losses)),
        axes=_axes(entry, spec.parameters) if entry and known else (),
        scores=published(entry.id) if entry else (),
        benchmarks=benchmarks,
        trials=_trials(store, site, names, benchmarks),
        results=tuple(results),
        verdicts=verdicts(subject, spec, site),
    )


def served_card(model: ServedModel, url: str, store: Store, here: Here) -> Card:
    """Of what a server has: its name there may be a catalog model's, which is all there is to go by."""
    called, recipe = name_and_recipe(model.model)
    entry = entry_called(called)
    results = [one for one in quality_results(store) if one.model.name == model.model]
    parameters = entry.spec().parameters if entry and not entry.unsupported else None
    known = traits(entry.id) if entry else None
    subject = Subject(
        catalog_id=entry.id if entry and known else None,
        parameters=parameters,
        quantization=recipe,
        passed=_passed(results, recipe),
        evidence=evidence(store),
    )
    return Card(
        asked=url,
        name=model.model,
        quantization=recipe,
        entry=entry,
        by_name_only=entry is not None,
        traits=known,
        habits=None,
        spec=None,
        served=Served(url, model.engine, model.version, model.context_tokens),
        site=None,
        sizes=(),
        axes=_axes(entry, parameters) if entry and known and parameters else (),
        scores=published(entry.id) if entry else (),
        benchmarks=_benchmarks(store, here, {model.model}),
        trials=(),
        results=tuple(results),
        verdicts=verdicts(subject),
    )


def name_and_recipe(said: str) -> tuple[str, str]:
    """`Qwen3-8B` and `Q4_K_M` of `Qwen3-8B-Q4_K_M.gguf`, as servers of files call them; "" where none is said."""
    file = said.endswith(".gguf")  # with its folder, which is no organisation
    stem = said.removesuffix(".gguf").rpartition("/")[2] if file else said
    recipe = said_quantization(stem.rpartition("/")[2])
    if not recipe or not stem.upper().endswith(recipe):
        return stem, ""
    return stem[: -len(recipe)].rstrip("-._/"), recipe


# --- sizes -------------------------------------------------------------------------------------------


def _sizes(
    spec: ModelSpec,
    entry: CatalogEntry | None,
    site: Site,
    context_tokens: int | None,
    losses: Mapping[str, Figure],
) -> Iterator[Size]:
    """The one asked for, and every other that can be made of the same weights; most bits first."""
    settings = Settings(context_tokens) if context_tokens else Settings()
    specs = [spec]
    for other in _others(spec, entry):  # types whose blocks do not fit the shapes come out as one another
        if all(other.tensors != one.tensors for one in specs):
            specs.append(other)
    for one in sorted(specs, key=lambda one: -one.bits_per_weight):
        setup = weigh(one, site, settings, Workload())
        yield Size(setup, _file_bytes(one), _loss(one, entry, losses), chosen=one is spec)


def _others(spec: ModelSpec, entry: CatalogEntry | None) -> Iterator[ModelSpec]:
    """None of a model whose weights are quantized already, or that is published in a format of its own."""
    from weigh.model.quantization import quantize

    whole = entry.spec() if entry is not None and spec.file is None else spec
    own_format = traits(entry.id) if entry else None
    if (own_format and own_format.native_format) or any(tensor.type.quantized for tensor in whole.tensors):
        return
    left_out = {spec.quantization} | (UNQUANTIZED if spec.quantization in UNQUANTIZED else set())
    for recipe in reversed(RECIPES):
        if recipe not in left_out:
            try:
                yield quantize(whole, recipe)
            except BadInput:  # shapes that a type's blocks do not divide
                continue


def _file_bytes(spec: ModelSpec) -> int:
    from weigh.model.gguf_size import file_bytes

    return spec.file_bytes or file_bytes(spec)


def _loss(spec: ModelSpec, entry: CatalogEntry | None, losses: Mapping[str, Figure]) -> Figure | None:
    if not spec.generates:
        return None
    try:
        return quantization_loss(
            spec.parameters,
            spec.quantization,
            bits_per_weight=spec.bits_per_weight,
            model_id=entry.id if entry else None,
            measured=losses,
        )
    except UnknownName:
        return None


# --- quality -----------------------------------------------------------------------------------------


def _axes(entry: CatalogEntry, parameters: int) -> tuple[AxisQuality, ...]:
    return tuple(_axis(entry, parameters, axis) for axis in AXES)


def _axis(entry: CatalogEntry, parameters: int, axis: Axis) -> AxisQuality:
    index = ability(entry.id, parameters, axis)
    others = ((peer.id, ability(peer.id, peer.stated_total or 0, axis)) for peer in _peers(entry))
    peers = [other for other in others if other[1].basis is Basis.PUBLISHED]
    below = sum(other.value < index.value for _, other in peers)
    return AxisQuality(
        axis, index, below, len(peers), max(peers, key=lambda peer: peer[1].value, default=None)
    )


def _peers(entry: CatalogEntry) -> Iterator[CatalogEntry]:
    """Other models of about its size; base models among base models, the rest among the rest."""
    own, size = traits(entry.id), entry.stated_total or 0
    for other in catalog():
        habits = traits(other.id)
        if other.id == entry.id or habits is None or own is None:
            continue
        near = size / PEERS_WITHIN <= (other.stated_total or 0) <= size * PEERS_WITHIN
        if near and (habits.kind == "base") == (own.kind == "base"):
            yield other


# --- what was measured -------------------------------------------------------------------------------


def _benchmarks(store: Store, site: Site, names: set[str]) -> tuple[Measurement, ...]:
    """On this machine alone; a device that is only named was not measured."""
    from weigh.bench.here import Here

    if not isinstance(site, Here):
        return ()
    fingerprint = site.machine.fingerprint
    every = measurements(store, raw=False)
    return tuple(one for one in every if one.model in names and one.fingerprint in ("", fingerprint))


def _trials(store: Store, site: Site, names: set[str], benchmarks: Sequence[Measurement]) -> tuple[Run, ...]:
    """As `_benchmarks`; without those that a benchmark left in the ledger."""
    from weigh.bench.here import Here

    if not isinstance(site, Here):
        return ()
    decodes = [m for one in benchmarks for m in one.measured if m.name == "decode_tokens_per_s"]
    benched = {decode.figure.value for decode in decodes}
    return tuple(
        one
        for one in runs(store)
        if one.model in names
        and one.fingerprint == site.machine.speed_fingerprint
        and one.decode_tokens_per_s.value not in benched
    )


def _is_result_of(result: QualityResult, spec: ModelSpec, entry: CatalogEntry | None, own: str) -> bool:
    """Of the catalog's model, whichever file it was; else of this very file, or where none tells, of its name."""
    if entry is not None and result.model.catalog_id == entry.id:
        return True
    if own and result.model.fingerprint:
        return result.model.fingerprint == own
    return result.model.name == spec.name and result.model.parameters in (None, spec.parameters)


def _passed(results: Sequence[QualityResult], quantization: str) -> dict[tuple[str, bool], Passed]:
    """The newest share of each group of weigh's own tasks that this quantization was measured to pass."""
    found: dict[tuple[str, bool], Passed] = {}
    for result in results:
        material, same = result.material, result.model.quantization in ("", quantization)
        if result.way is not Way.TASKS or material.name != _OWN_TASKS or not same:
            continue
        goes_on = material.settings.get("style") == "completion"
        most = material.settings.get("max_tokens")
        for measure in result.measures:
            if measure.name == "pass@1" and measure.of in material.needs:
                tokens = most if isinstance(most, int) else None
                passed = Passed(measure.of, measure.figure, measure.count, tokens)
                found.setdefault((measure.of, goes_on), passed)
    return found
