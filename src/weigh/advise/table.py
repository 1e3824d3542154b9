"""The field's rules of thumb beside what is computed for every catalog model of a size class.

A rule gives one number for "a 7B"; the class holds models of one name and several shapes, so what is computed
is a range, and its ends name the models. All sizes here are GB (10**9), because the rules are.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from weigh.engines.engine import Settings
from weigh.estimate.quality import quality
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.figure import Basis, Figure
from weigh.model.breakdown import kv_bytes_per_token
from weigh.model.catalog import CatalogEntry, catalog
from weigh.model.gguf_size import file_bytes
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.units import GB

FORMATS = {"FP16": "F16", "INT8": "Q8_0", "INT4": "Q4_K_M"}
LONG_TOKENS = 32768


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of thumb as people say it; `size_b` is the size of model it is said of, 1 when per billion."""

    name: str
    quantity: str
    size_b: float
    low: float
    high: float
    unit: str
    said: str
    source: str


@dataclass(frozen=True, slots=True)
class Range:
    """Least and most among the models of a class, and which those are."""

    low: float
    high: float
    low_model: str
    high_model: str


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Models of about one size.

    Attributes:
        name: ``7B``; `group` is small, medium, large or extra-large.
        parameters_b: billions of parameters of the models in it.
        weights_gb: by `FP16`, `INT8` and `INT4` (llama.cpp's F16, Q8_0 and Q4_K_M), without context.
        total_gb: the same with the context asked for, everything a process takes.
        long_total_gb: INT4 with 32,768 tokens of context.
        load_s: INT4, file in the page cache; None where no speed of the site is known.
        kv_kib_per_token: keys and values of one token in F16.
    """

    name: str
    group: str
    nominal_b: float
    models: int
    parameters_b: Range
    weights_gb: dict[str, Range]
    total_gb: dict[str, Range]
    long_total_gb: Range
    load_s: Range | None
    load_basis: Basis | None
    kv_kib_per_token: Range
    best: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Small, medium, large, extra-large: what people mean, and what they are good for."""

    name: str
    sizes: str
    good_for: str


@dataclass(frozen=True, slots=True)
class SizeTable:
    """`misleading` are sentences with computed figures, one for each way in which a rule goes wrong."""

    context_tokens: int
    site: Site
    classes: tuple[SizeClass, ...]
    groups: tuple[Group, ...]
    rules: tuple[Rule, ...]
    misleading: tuple[str, ...]


# Name, size the rule is taken at, and billions of parameters that people call by that name.
_CLASSES = (
    ("1B", 1, 0.75, 1.4),
    ("3B", 3, 2.4, 4.1),
    ("7B", 7, 6.5, 9.3),
    ("13B", 13, 11.5, 15.5),
    ("30B", 30, 26, 36),
    ("70B", 70, 64, 80),
)
# What each is commonly used for: experience, not measurement, and shown as a rule of thumb.
GROUPS = (
    Group("small", "to 4B", "completing lines and blocks, sorting texts, short rewrites; on boards and old laptops"),
    Group("medium", "5B to 15B", "chat, single functions, explaining, translating; on a laptop or an 8 to 16 GB card"),
    Group("large", "16B to 40B", "edits over several files, debugging, review; on a 24 to 32 GB card"),
    Group("extra-large", "over 40B", "architecture, long multi-step work; on several cards, a server or a large Mac"),
)  # fmt: skip


@cache
def rules() -> tuple[Rule, ...]:
    with files("weigh.data").joinpath("rules_of_thumb.csv").open(encoding="utf-8") as lines:
        return tuple(
            Rule(
                name=row["rule"],
                quantity=row["quantity"],
                size_b=float(row["size_B"]),
                low=float(row["low"]),
                high=float(row["high"]),
                unit=row["unit"],
                said=row["said"],
                source=row["source"],
            )
            for row in csv.DictReader(lines)
        )


def size_table(site: Site, *, context_tokens: int) -> SizeTable:
    """Every class computed from all its catalog models, on the memory model of llama.cpp at `site`'s host."""
    weighed = {name: list(_weighed(low, high, site, context_tokens)) for name, _, low, high in _CLASSES}
    classes = tuple(_class(name, nominal, weighed[name]) for name, nominal, _, _ in _CLASSES)
    everything = [one for members in weighed.values() for one in members]
    return SizeTable(
        context_tokens, site, classes, GROUPS, rules(), tuple(_misleading(everything, context_tokens))
    )


@dataclass(frozen=True)
class _Member:
    """One model of a class, weighed in the three formats."""

    entry: CatalogEntry
    spec: ModelSpec
    weights_bytes: dict[str, int]
    setups: dict[str, SetupEstimate]
    long: SetupEstimate

    @property
    def name(self) -> str:
        return self.entry.id.rpartition("/")[2]


def _weighed(low_b: float, high_b: float, site: Site, context_tokens: int) -> Iterator[_Member]:
    host = Site(replace(site.target, gpus=()), site.calibration)
    for entry in catalog():
        if entry.unsupported or not low_b * 1e9 <= (entry.stated_total or 0) <= high_b * 1e9:
            continue
        spec = entry.spec()
        stored = {name: quantize(spec, recipe) for name, recipe in FORMATS.items()}
        yield _Member(
            entry,
            spec,
            {name: file_bytes(one) for name, one in stored.items()},
            {name: weigh(one, host, Settings(context_tokens)) for name, one in stored.items()},
            weigh(stored["INT4"], host, Settings(LONG_TOKENS)),
        )


def _class(name: str, nominal_b: float, members: Sequence[_Member]) -> SizeClass:
    def spread(value: Callable[[_Member], float]) -> Range:
        least, most = min(members, key=value), max(members, key=value)
        return Range(value(least), value(most), least.name, most.name)

    timed = [m for m in members if m.setups["INT4"].speed is not None]
    return SizeClass(
        name=name,
        group=_group(nominal_b),
        nominal_b=nominal_b,
        models=len(members),
        parameters_b=spread(lambda m: m.spec.parameters / 1e9),
        weights_gb={form: spread(_weights_gb(form)) for form in FORMATS},
        total_gb={form: spread(_total_gb(form)) for form in FORMATS},
        long_total_gb=spread(lambda m: m.long.memory.total_bytes / GB),
        load_s=spread(_load_s) if len(timed) == len(members) else None,
        load_basis=_load(members[0]).basis if timed else None,
        kv_kib_per_token=spread(lambda m: kv_bytes_per_token(m.spec) / 1024),
        best=tuple(_best_published(members)),
    )


def _weights_gb(form: str) -> Callable[[_Member], float]:
    return lambda member: member.weights_bytes[form] / GB


def _total_gb(form: str) -> Callable[[_Member], float]:
    return lambda member: member.setups[form].memory.total_bytes / GB


def _group(nominal_b: float) -> str:
    return GROUPS[sum(nominal_b > most for most in (4, 15, 40))].name


def _load(member: _Member) -> Figure:
    speed = member.setups["INT4"].speed
    assert speed is not None  # asked only where all members have one
    return speed.load_s


def _load_s(member: _Member) -> float:
    return _load(member).value


def _best_published(members: Sequence[_Member], most: int = 2) -> Iterator[str]:
    """Those of the class with the best published code scores, as the ranking counts them."""
    judged = [
        (quality(m.entry.id, m.spec.parameters, "Q4_K_M", {"code": 0.85, "general": 0.15}), m)
        for m in members
    ]
    known = sorted(((q, m) for q, m in judged if q.source), key=lambda pair: -pair[0].score.low)
    for judgement, member in known[:most]:
        yield f"{member.name} ({judgement.headline})"


# --- where the rules mislead --------------------------------------------------------------------------------


def _misleading(members: Sequence[_Member], context_tokens: int) -> Iterator[str]:
    yield _about_names(members)
    yield _about_int4(members)
    yield from _about_saving(members)
    yield _about_overhead(members)
    yield _about_cache(members)
    yield from _about_ram(members, context_tokens)
    yield from _about_experts(members)


def _about_names(members: Sequence[_Member]) -> str:
    called_7b = [m for m in members if "7b" in m.entry.id.lower().replace("-", " ").split("/")[-1].split()]
    least = min(called_7b, key=lambda m: m.spec.parameters)
    most = max(called_7b, key=lambda m: m.spec.parameters)
    return (
        f"A name is not a size: of models called 7B, {least.name} has {least.spec.parameters / 1e9:.2f}B"
        f" parameters and {most.name} {most.spec.parameters / 1e9:.2f}B;"
        f" at FP16 {least.weights_bytes['FP16'] / GB:.1f} and {most.weights_bytes['FP16'] / GB:.1f} GB, not 14."
    )


def _gb_per_b(member: _Member) -> float:
    return member.weights_bytes["INT4"] / member.spec.parameters


def _about_int4(members: Sequence[_Member]) -> str:
    by_rate = sorted(members, key=_gb_per_b)
    middle = by_rate[len(by_rate) // 2]
    return (
        f"INT4 is not half a byte: Q4_K_M takes {_gb_per_b(by_rate[0]):.2f} GB per billion"
        f" ({by_rate[0].name}) to {_gb_per_b(by_rate[-1]):.2f} ({by_rate[-1].name}), the middle of"
        f" {len(members)} models being {_gb_per_b(middle):.2f}: some matrices keep six bits, and every block"
        " its scales."
    )


def _saved(member: _Member, held: Callable[[_Member, str], float]) -> float:
    return 1 - held(member, "INT4") / held(member, "FP16")


def _about_saving(members: Sequence[_Member]) -> Iterator[str]:
    llama = next((m for m in members if m.entry.id == "meta-llama/Meta-Llama-3-8B-Instruct"), None)
    if llama is None:
        return
    weights = _saved(llama, lambda m, form: m.weights_bytes[form])
    running = _saved(llama, lambda m, form: m.setups[form].memory.total_bytes)
    context = llama.setups["INT4"].settings.context_tokens
    yield (
        f"4 bits do not take 75 % off Llama 3 8B: Q4_K_M takes {weights * 100:.0f} % off its file, and"
        f" {running * 100:.0f} % off"
        f" what it needs to run with {context:,} tokens of context, which the weights are only a part of."
    )


def _overhead(member: _Member) -> float:
    return member.long.memory.total_bytes / member.long.memory.weights_bytes


def _about_overhead(members: Sequence[_Member]) -> str:
    least, most = min(members, key=_overhead), max(members, key=_overhead)
    return (
        f"20 % on top is no rule: with {LONG_TOKENS:,} tokens of context everything beside the weights (at"
        f" INT4) makes {least.name} x{_overhead(least):.2f} and {most.name} x{_overhead(most):.2f}."
    )


def _about_cache(members: Sequence[_Member]) -> str:
    of_7b = [m for m in members if 6.5e9 <= m.spec.parameters <= 9.3e9]
    least, most = min(of_7b, key=_cache_gb), max(of_7b, key=_cache_gb)
    return (
        f"Context does not cost by size: {LONG_TOKENS:,} tokens take {_cache_gb(least):.2f} GB in {least.name}"
        f" and {_cache_gb(most):.1f} GB in {most.name}, both called 7B to 9B."
    )


def _cache_gb(member: _Member) -> float:
    return member.long.memory.kv_cache_bytes / GB


def _about_ram(members: Sequence[_Member], context_tokens: int) -> Iterator[str]:
    llama = next((m for m in members if m.entry.id == "meta-llama/Llama-3.1-8B-Instruct"), None)
    if llama is None:
        return
    full, small = (llama.setups[form].memory.total_bytes / GB for form in ("FP16", "INT4"))
    yield (
        f'"14 to 16 GB of RAM for a 7B" is right for FP16 only: Llama 3.1 8B runs {context_tokens:,} tokens in'
        f" {full:.1f} GB at FP16 and {small:.1f} GB at Q4_K_M."
    )


def _about_experts(members: Sequence[_Member]) -> Iterator[str]:
    mixture = next((m for m in members if m.entry.id == "Qwen/Qwen3-30B-A3B"), None)
    if mixture is None:
        return
    total, active = mixture.spec.parameters / 1e9, mixture.spec.active_parameters / 1e9
    yield (
        f"Size says memory, not speed, in a mixture of experts: {mixture.name} holds {total:.1f}B parameters and"
        f" reads {active:.1f}B of them for a token."
    )
