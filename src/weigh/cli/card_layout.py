"""What a card says, in tables that a screen, Markdown and HTML show alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING

from weigh import units
from weigh.advise.verdict import Grade, Verdict, by_grade
from weigh.cli.render import UNLIMITED, Grid, interval
from weigh.cli.screens.facts import held, unknown_speed
from weigh.cli.screens.machine import site_facts
from weigh.cli.screens.quantities import at, in_words, said
from weigh.figure import Basis, Figure
from weigh.model.gguf import printable
from weigh.store.quality_result import Way

if TYPE_CHECKING:
    from weigh.advise.card import Card
    from weigh.estimate.quality import Score
    from weigh.store.quality_result import QualityResult

MOST_SCORES = 8  # of those published; all are in the JSON form
MOST_RESULTS = 8  # of those measured
MOST_BENCHMARKS = 3
LEAST_LOSS = 0.001  # nats, below which a rule of thumb tells no figures
MOST_EXCEPTED = 4  # needs, of thirteen
_WIDE = 100  # columns of a screen from which the evidence has one of its own
_SPEEDS = ("decode_tokens_per_s", "prefill_tokens_per_s", "ttft_s", "peak_memory_bytes")
_BASES = {
    Basis.MEASURED: "measured",
    Basis.PUBLISHED: "published scores",
    Basis.RULE_OF_THUMB: "rule of thumb",
    Basis.COMPUTED: "its files",
    None: "none",
}
# Columns of the sizes, each with the width of screen below which it is left out.
_SIZE_COLUMNS = {
    "": 0,
    "type": 0,
    "bits": 100,
    "file": 0,
    "memory": 0,
    "fits": 0,
    "prefill tok/s": 125,
    "decode tok/s": 0,
    "first token": 110,
    "loss, nats": 0,
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page; without a title it belongs to what stands above it."""

    title: str
    grid: Grid


def headline(card: Card) -> str:
    name = printable(card.name)
    return f"{name} at {card.quantization}" if card.quantization else name


def parts(card: Card, width: int = UNLIMITED) -> Iterator[Part]:
    """The whole card, the answer first."""
    yield Part("", _summary(card))
    yield Part("What it is", _facts(_identity(card)))
    if card.sizes:
        assert card.site is not None
        yield Part("Sizes and speeds", _sizes(card, width))
        yield Part("", _facts(site_facts(card.site)))
    if card.benchmarks:
        yield Part("Speed measured here", _benchmarks(card))
    yield Part("Quality", _axes(card))
    if card.scores:
        yield from _scores(card)
    if card.results or card.spec is None or card.spec.generates:
        yield Part("Quality measured by weigh", _results(card))
    yield Part("Need by need", _needs(card, width))


def _facts(rows: list[tuple[str, str]]) -> Grid:
    grid = Grid(("", "said"), prose=("said",), head=False)
    for row in rows:
        grid.add(*row)
    return grid


def _summary(card: Card) -> Grid:
    """Needs by verdict; those that are bad for the machine's sake alone stand apart."""
    rows = []
    held_back = [one for one in card.verdicts if one.grade is Grade.BAD and one.held_back_here]
    for grade, alike in by_grade(card.verdicts):
        if left := [one for one in alike if one not in held_back]:
            rows.append(
                ("Not known" if grade is Grade.UNKNOWN else f"{grade.capitalize()} for", _told(left, card))
            )
    large = [one for one in held_back if any(missed.what == "memory" for missed in one.shortfalls)]
    slow = [one for one in held_back if one not in large]
    for word, hindered in (("large", large), ("slow", slow)):
        if hindered:
            rows.append((f"Too {word} {_place(card)}", _names(hindered, card)))
    return _facts(rows)


def _place(card: Card) -> str:
    return "here" if card.site is None or card.site.target.probed else "there"


def _told(alike: Sequence[Verdict], card: Card) -> str:
    """What is measured or published, then what is not."""
    sure = [one for one in alike if one.basis is not Basis.RULE_OF_THUMB]
    rough = [one for one in alike if one.basis is Basis.RULE_OF_THUMB]
    told = [_names(sure, card)] if sure else []
    return "; ".join([*told, f"by rule of thumb: {_names(rough, card)}"] if rough else told)


def _names(verdicts: Sequence[Verdict], card: Card) -> str:
    """Of needs; where they are most of them, `all but` the rest."""
    rest = [one.need.task.name for one in card.verdicts if one not in verdicts]
    if len(rest) < MOST_EXCEPTED and len(verdicts) > 1:
        return f"all but {', '.join(rest)}" if rest else "all"
    return ", ".join(one.need.task.name for one in verdicts)


# --- what it is --------------------------------------------------------------------------------------


def _identity(card: Card) -> list[tuple[str, str]]:
    rows = [("Catalog", _catalog(card))]
    if spec := card.spec:
        active = (
            f", {units.count(spec.active_parameters)} active for a token" if spec.experts else ", all active"
        )
        rows += [
            ("Parameters", f"{units.count(spec.parameters)}{active}"),
            ("Architecture", f"{spec.architecture}, {spec.layers} layers"),
            ("Context", _trained(spec.context_train)),
        ]
        if spec.file is not None:
            rows.append(("File", f"{printable(spec.file.name)}, {units.gib(spec.file_bytes or 0)}"))
    if served := card.served:
        of = f"{served.engine} {served.version}".strip()
        tokens = f"{served.context_tokens:,} tokens" if served.context_tokens else "not said by the server"
        rows += [("Server", f"{served.url}, {printable(of)}"), ("Context", tokens)]
    rows.append(("Kind", _kind(card)))
    if entry := card.entry:
        rows += [
            ("Licence", entry.license or "unknown"),
            ("Released", str(entry.release_date) if entry.release_date else "unknown"),
        ]
    else:
        rows.append(("Licence", "unknown: weigh reads none from files"))
    return [*rows, *(("Contradiction", said) for said in (card.spec.contradictions if card.spec else ()))]


def _catalog(card: Card) -> str:
    if card.entry is None:
        return "not a model of weigh's catalog: nothing is published of it that weigh knows"
    family = f"{card.entry.id} (family {card.entry.family})"
    if card.by_name_only:
        return f"{family}, if the server's name for it is true; its quantization is not told"
    if card.spec is not None and card.spec.file is not None:
        return f"{family}, by the file's name and shapes; a further trained copy would look the same"
    return family


def _trained(tokens: int) -> str:
    return f"trained for {tokens:,} tokens" if tokens else "what it was trained for is not said"


def _kind(card: Card) -> str:
    if card.spec is not None and not card.spec.generates:
        return "embedding model: gives vectors for texts, writes none"
    if known := card.traits:
        words = {
            "instruct": "follows instructions",
            "reasoning": "follows instructions, always thinks first",
            "base": "base model: continues text",
        }[known.kind]
        thinks = ", can think first" if known.kind == "instruct" and known.thinking == "optional" else ""
        return words + thinks + (", fills in the middle" if known.fim else "")
    if habits := card.habits:
        chats = "a chat template" if habits.chats else "no chat template (a base model)"
        holes = "fill-in-the-middle tokens" if habits.fills_middle else "no fill-in-the-middle tokens"
        return f"its files have {chats} and {holes}"
    return "unknown"


# --- sizes and speeds --------------------------------------------------------------------------------


def _sizes(card: Card, width: int) -> Grid:
    wide = width >= _WIDE
    columns = tuple(name for name, least in _SIZE_COLUMNS.items() if width >= least)
    grid = Grid(
        columns,
        right=tuple(name for name in columns if name not in ("", "type", "fits")),
        strong=tuple(number for number, size in enumerate(card.sizes) if size.chosen),
        note=_sizes_note(card),
    )
    for size in card.sizes:
        setup, speed = size.setup, size.setup.speed
        cells = {
            "": "▶" if size.chosen else "",
            "type": size.quantization,
            "bits": f"{setup.spec.bits_per_weight:.2f}",
            "file": units.gib(size.file_bytes),
            "memory": held(setup.devices, of_room=False) if wide else units.gib(setup.memory.total_bytes),
            "fits": "yes" if setup.fits else "no",
            "prefill tok/s": interval(speed.prefill_tokens_per_s) if speed else "unknown",
            "decode tok/s": interval(speed.decode_tokens_per_s) if speed else "unknown",
            "first token": units.seconds(speed.ttft_s.value) if speed else "unknown",
            "loss, nats": _loss(size.loss),
        }
        grid.add(*(cells[column] for column in columns))
    return grid


def _loss(loss: Figure | None) -> str:
    if loss is None:
        return "unknown"
    if loss.value == 0:
        return "none"
    if loss.value < LEAST_LOSS and loss.basis is Basis.RULE_OF_THUMB:
        return f"under {LEAST_LOSS}"
    star = "*" if loss.basis is Basis.MEASURED else "†" if loss.basis is Basis.PUBLISHED else ""
    ends = f" ({loss.low:.2g}–{loss.high:.2g})" if loss.low != loss.high else ""
    return f"{loss.value:.2g}{ends}{star}"


def _sizes_note(card: Card) -> str:
    size = card.sizes[0]
    setup = size.setup
    context, work = setup.settings.context_tokens, setup.workload
    speed = setup.speed.decode_tokens_per_s.basis if setup.speed else None
    told = (
        f"speeds {speed}, for a prompt of {work.prompt_tokens:,} tokens and {work.output_tokens:,} of output"
    )
    if speed is None:
        told = f"speeds {unknown_speed(setup)}"
    bases = {one.loss.basis for one in card.sizes if one.loss and one.loss.value}
    loss = "divergence from the unquantized model, by rule of thumb"
    loss += " but for * measured here" if Basis.MEASURED in bases else ""
    loss += " and † published" if Basis.PUBLISHED in bases else ""
    room = units.gib(setup.available_bytes)
    trained = setup.spec.context_train
    beyond = f" (it was trained for {trained:,})" if trained and context > trained else ""
    return (
        f"▶ the one the verdicts are of; memory with {context:,} tokens of context{beyond}, of {room} that may be used;"
        f" {told}{f'; loss: {loss}' if bases else ''}; ranges hold 80 %"
    )


def _benchmarks(card: Card) -> Grid:
    columns = ("when (UTC)", "type", "engine", *(said(name) for name in _SPEEDS))
    grid = Grid(columns, right=columns[3:], note="medians with their 80 % intervals, by `weigh bench`")
    for one in card.benchmarks[:MOST_BENCHMARKS]:
        figures = [one.first(name) for name in _SPEEDS]
        cells = [in_words(found.figure) if found else "" for found in figures]
        grid.add(_day(one.when_unix_s), one.quantization, one.engine, *cells)
        if one.problems:
            grid.note += f"; {_day(one.when_unix_s)} is not to be trusted: {', '.join(one.problems)}"
    first = card.benchmarks[0].first("decode_tokens_per_s")
    where = at(first.conditions) if first else ""
    grid.note += f"; decode with {where}" if where else ""
    return grid


# --- quality -----------------------------------------------------------------------------------------


def _axes(card: Card) -> Grid:
    if not card.axes:
        return _facts([("Index", "unknown: no score of it is published that weigh knows")])
    grid = Grid(
        ("axis", "index", "basis", "others of its size"),
        right=("index",),
        prose=("others of its size",),
        note="points of the unquantized model: 10 are one logit, Llama 3.1 8B Instruct stands at 50"
        " (docs/quality.md); its size: half to twice the parameters",
    )
    for one in card.axes:
        index = f"{one.index.value:.0f} ({one.index.low:.0f}–{one.index.high:.0f})"
        basis = "published scores" if one.index.basis is Basis.PUBLISHED else "rule of thumb"
        best = f"; best {one.best[0].rpartition('/')[2]} {one.best[1].value:.0f}" if one.best else ""
        grid.add(one.axis, index, basis, f"above {one.below} of {one.peers}{best}")
    return grid


def _scores(card: Card) -> Iterator[Part]:
    """The newest of each benchmark, those first that most models have; their sources below, each once."""
    shown = list(itertools.islice(card.scores_by_use, MOST_SCORES))
    sources = list(dict.fromkeys(score.source for score in shown))
    left = len(card.scores) - len(shown)
    grid = Grid(
        ("benchmark", "score", "how", "date", "source"),
        right=("score", "source"),
        note=f"as printed; {left} more in --json" if left else "as printed",
    )
    for score in shown:
        source = f"[{sources.index(score.source) + 1}]"
        grid.add(_benchmark(score), f"{score.value:g}", score.mode, score.date, source)
    yield Part("Published scores", grid)
    yield Part("", _facts([(f"[{number}]", source) for number, source in enumerate(sources, start=1)]))


def _benchmark(score: Score) -> str:
    """`MMLU (CoT)` of benchmark `MMLU` and variant `MMLU (CoT)`."""
    variant = score.variant.removeprefix(score.benchmark).strip()
    if variant.startswith("(") and variant.endswith(")"):
        variant = variant[1:-1]
    return f"{score.benchmark} ({variant})" if variant else score.benchmark


def _results(card: Card) -> Grid:
    if not card.results:
        return _facts([("None yet", _how_to_measure(card))])
    grid = Grid(
        ("when (UTC)", "type", "on", "found"),
        prose=("on", "found"),
        note="with the interval that holds it in 8 of 10 cases",
    )
    for one in _newest(card.results)[:MOST_RESULTS]:
        grid.add(_day(one.when_unix_s), one.model.quantization or "unknown", _on(one), _found(one))
    return grid


def _how_to_measure(card: Card) -> str:
    if card.spec is not None and card.spec.file is None:
        return "it takes the model's own file: weigh quality FILE --tasks, --repo FOLDER or --text FILE"
    also = " or --repo FOLDER" if card.spec else ""
    return f"weigh quality {quote(printable(card.asked))} --tasks, --text FILE{also}"


def _newest(results: tuple[QualityResult, ...]) -> list[QualityResult]:
    """Of each type, way and material."""
    found: dict[tuple[str, ...], QualityResult] = {}
    for one in results:
        reference = one.reference.label if one.reference else ""
        key = (one.model.quantization, one.way, one.material.name, one.material.digest, reference)
        found.setdefault(key, one)
    return list(found.values())


def _on(one: QualityResult) -> str:
    match one.way:
        case Way.TASKS:
            return f"tasks of {one.material.name}"
        case Way.REPOSITORY:
            return f"repository {one.material.name}"
        case Way.DIVERGENCE:
            return f"{one.material.name}, against {one.reference.label if one.reference else 'unknown'}"
    return one.material.name


_MEASURES = {
    "bits_per_byte": ("bits per byte", 1.0),
    "perplexity": ("perplexity", 1.0),
    "kl_nats": ("nats of divergence", 1.0),
    "same_top": ("% same likeliest token", 100.0),
    "next_line_exact": ("% of next lines exact", 100.0),
    "next_line_similarity": ("% similar", 100.0),
    "middle_exact": ("% of middles exact", 100.0),
    "middle_similarity": ("% similar middles", 100.0),
    "pass@1": ("% pass@1", 100.0),
}


def _found(one: QualityResult) -> str:
    told = []
    for measure in one.measures:
        if measure.name not in _MEASURES or (measure.of and measure.of not in one.material.needs):
            continue
        words, factor = _MEASURES[measure.name]
        figure = measure.figure
        ends = (figure.low * factor, figure.high * factor)
        known = all(abs(end) != float("inf") for end in ends)
        value = f"{figure.value * factor:.3g}" + (f" ({ends[0]:.3g}–{ends[1]:.3g})" if known else "")
        if measure.of:
            told.append(f"{measure.of.replace('_', ' ')} {value} of {measure.count}")
        else:
            count = f" of {measure.count}" if one.way is Way.TASKS else ""
            told.append(f"{value} {words}{count}")
    return "; ".join(told)


# --- needs -------------------------------------------------------------------------------------------


def _needs(card: Card, width: int) -> Grid:
    timed = any(verdict.request_s for verdict in card.verdicts)
    wide = width >= _WIDE
    columns = ("need", "verdict", *(("takes",) if timed else ()), *(("basis",) if wide else ()), "why")
    grid = Grid(columns, right=("takes",), prose=("need", "why"), note=_needs_note(card, timed=timed))
    for alike in _grouped(card.verdicts):
        verdict = alike[0]
        request = verdict.request_s if len(alike) == 1 else None
        catalogued = verdict.unfit and verdict.basis is Basis.PUBLISHED
        basis = "catalog" if catalogued else _BASES.get(verdict.basis, str(verdict.basis))
        why = _why(verdict, _place(card)) if len(alike) == 1 else verdict.reason
        cells = {
            "need": _names(alike, card),
            "verdict": str(verdict.grade),
            "takes": units.seconds(request.value) if request else "" if len(alike) > 1 else "unknown",
            "basis": basis,
            "why": why if wide or verdict.basis is None else f"{basis}: {why}",
        }
        grid.add(*(cells[column] for column in columns))
    return grid


def _grouped(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """Those that one reason rules out go together; the rest one by one."""
    found: dict[object, list[Verdict]] = {}
    for one in verdicts:
        found.setdefault(one.reason if one.unfit else one.need.task.name, []).append(one)
    return list(found.values())


def _why(verdict: Verdict, place: str) -> str:
    """What a verdict rests on, and what stands in its way."""
    told = [verdict.reason]
    if verdict.may_be is not None:
        told[0] += f" (may be {verdict.may_be})"
    for one in verdict.shortfalls:
        told.append(one.text if one.what == "context" else f"{place}: {one.text}")
    return "; ".join(told)


def _needs_note(card: Card, *, timed: bool) -> str:
    told = ["the bars between bad, fair and good are weigh's judgement (docs/card.md)"]
    if card.axes:
        told.append("index: points for the need's mix of code and general, less the quantization's loss")
    if timed:
        told.append("takes: a typical request of the need to its last token, from an empty cache")
    if card.served:
        told.append("memory and speed are the server's and not judged")
    return "; ".join(told)


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")
