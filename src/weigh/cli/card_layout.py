"""What a card says, in tables that a screen, Markdown and HTML show alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weigh import units
from weigh.advise.verdict import Grade, Verdict, by_grade
from weigh.cli.card_measured import axes_grid, results_grid, scores_grids, speeds_grid
from weigh.cli.render import UNLIMITED, Grid, interval
from weigh.cli.screens.facts import facts_grid, held, unknown_speed
from weigh.cli.screens.machine import site_facts
from weigh.figure import Basis, Figure
from weigh.model.gguf import printable

if TYPE_CHECKING:
    from weigh.advise.card import Card

LEAST_LOSS = 0.001  # nats, below which a rule of thumb tells no figures
MOST_EXCEPTED = 4  # needs, of thirteen
_WIDE = 100  # columns of a screen from which the evidence has one of its own
_BASES = {
    Basis.MEASURED: "measured",
    Basis.PUBLISHED: "published scores",
    Basis.RULE_OF_THUMB: "rule of thumb",
    Basis.COMPUTED: "its files",
    None: "none",
}
_LOSS_MARKS = {Basis.MEASURED: "*", Basis.PUBLISHED: "†", Basis.CALIBRATED: "‡"}
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
    yield Part("What it is", facts_grid(_identity(card)))
    if card.sizes:
        assert card.site is not None
        yield Part("Sizes and speeds", _sizes(card, width))
        yield Part("", facts_grid(site_facts(card.site)))
    if card.benchmarks or card.trials:
        yield Part("Speed measured here", speeds_grid(card, width))
    yield Part("Quality", axes_grid(card))
    if card.scores:
        scores, sources = scores_grids(card)
        yield Part("Published scores", scores)
        yield Part("", sources)
    if card.results or card.spec is None or card.spec.generates:
        yield Part("Quality measured by weigh", results_grid(card))
    yield Part("Need by need", _needs(card, width))


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
    if large:
        fitting = next((size.quantization for size in card.sizes if size.setup.fits), "")
        also = f"; it fits as {fitting}" if fitting and fitting != card.quantization else ""
        rows.append((f"Too large {_place(card)}", _otherwise(large, card) + also))
    if slow:
        rows.append((f"Too slow {_place(card)}", _otherwise(slow, card)))
    if card.spec is not None and card.spec.generates and not any(one.request_s for one in card.verdicts):
        rows.append(("Not judged", f"speed {_place(card)}, which is not known"))
    return facts_grid(rows)


def _otherwise(hindered: Sequence[Verdict], card: Card) -> str:
    """By what they would be on another machine."""
    return "; ".join(
        f"otherwise {grade}: {_names(alike, card)}"
        for grade in Grade
        if (alike := [one for one in hindered if one.answers is grade])
    )


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
        untold = "" if card.quantization else ", and its quantization is not told"
        return f"{family}, if the server's name for it is true{untold}"
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
    star = _LOSS_MARKS.get(loss.basis, "")
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
    elif not all(one.setup.fits for one in card.sizes):
        told += ", where it does not fit as if it did"
    bases = {one.loss.basis for one in card.sizes if one.loss and one.loss.value}
    loss = "divergence from the unquantized model, by rule of thumb"
    told_otherwise = {
        Basis.MEASURED: "measured here",
        Basis.PUBLISHED: "published",
        Basis.CALIBRATED: "told from another type of it that was measured",
    }
    loss += "".join(
        f", {_LOSS_MARKS[basis]} {said}" for basis, said in told_otherwise.items() if basis in bases
    )
    room = units.gib(setup.available_bytes)
    trained = setup.spec.context_train
    beyond = f" (it was trained for {trained:,})" if trained and context > trained else ""
    return (
        f"▶ the one the verdicts are of; memory with {context:,} tokens of context{beyond}, of {room} that may be used;"
        f" {told}{f'; loss: {loss}' if bases else ''}; ranges hold 80 %"
    )


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
    """Those that one reason rules out, or leaves open, go together; the rest one by one."""
    found: dict[object, list[Verdict]] = {}
    for one in verdicts:
        nothing_more = one.basis is None and not one.shortfalls and one.request_s is None
        found.setdefault(one.reason if one.unfit or nothing_more else one.need.task.name, []).append(one)
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
        loss = ", less the quantization's loss" if card.quantization else " of the unquantized model"
        told.append(f"index: points for the need's mix of code and general{loss}")
    if timed:
        told.append(
            "takes: as estimated, a typical request of the need to its last token, from an empty cache"
        )
    if card.served:
        told.append("memory and speed are the server's and not judged")
    return "; ".join(told)
