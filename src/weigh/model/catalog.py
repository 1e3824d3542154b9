"""The models people run, with their public shapes: read once, and worked out one by one as they are asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path

from weigh.errors import BadInput
from weigh.model.spec import ModelSpec
from weigh.units import count

_ALIKE = 0.01  # of the parameters, by which files of one model differ: padded vocabularies, tied matrices


@dataclass(frozen=True)
class CatalogEntry:
    """One published model.

    Attributes:
        id: its hub id.
        stated_total, stated_active: parameters as published, None where nobody says.
        config: the fields of its config.json that are known.
        source: where the facts come from.
        notes: doubts and corrections.
        also_stated: what the stated total counts beside tensors that engines load (buffers, copies), in parameters.
    """

    id: str
    family: str
    release_date: date | None
    license: str
    stated_total: int | None
    stated_active: int | None
    source: str
    notes: str
    config: Mapping[str, object]
    also_stated: Mapping[str, int]

    def spec(self) -> ModelSpec:
        """Its shapes, as an F16 GGUF holds them.

        Raises:
            BadInput: the shapes cannot be worked out; `unsupported` is the same reason.
        """
        if isinstance(self._outcome, BadInput):
            raise self._outcome
        return self._outcome

    @property
    def unsupported(self) -> str | None:
        """Why there is no `spec`, or None when there is one."""
        return self._outcome.message if isinstance(self._outcome, BadInput) else None

    @property
    def recomputed(self) -> int | None:
        """Parameters its shapes add up to, of the parts that the stated total counts; None without shapes."""
        return sum(self._counted[0].values()) if self._counted else None

    @property
    def explanation(self) -> str:
        """What `recomputed` counts and what it leaves out, and how far it is from the stated total."""
        if self._counted is None:
            return self.unsupported or ""
        counted, left = self._counted
        said = " + ".join(f"{what} {count(n)}" for what, n in counted.items())
        if left:
            said += f"; without {' and '.join(f'{what} ({count(n)})' for what, n in left.items())}"
        if not self.stated_total:
            return f"{said}; no total is stated"
        deviation = sum(counted.values()) / self.stated_total - 1
        return f"{said}: {'as stated' if abs(deviation) < 1e-4 else f'{deviation:+.2%} of the stated total'}"

    @cached_property
    def _counted(self) -> tuple[dict[str, int], dict[str, int]] | None:
        """Parts that make the stated total, and those it leaves out; the choice that comes nearest."""
        if isinstance(self._outcome, BadInput):
            return None
        spec = self._outcome
        heads = sum(t.total_elements for t in spec.beside if t.name.startswith("mtp."))
        encoders = sum(t.total_elements for t in spec.beside) - heads
        always = {"language model": spec.parameters, **self.also_stated}
        perhaps = {what: n for what, n in (("encoder", encoders), ("prediction layers", heads)) if n}
        stated = self.stated_total or sum(always.values())
        choices = (chosen for k in range(len(perhaps) + 1) for chosen in combinations(perhaps, k))

        def distance(chosen: tuple[str, ...]) -> int:
            return abs(sum(always.values()) + sum(perhaps[what] for what in chosen) - stated)

        chosen = min(choices, key=distance)
        counted = {**always, **{what: perhaps[what] for what in chosen}}
        return counted, {what: n for what, n in perhaps.items() if what not in chosen}

    @cached_property
    def _outcome(self) -> ModelSpec | BadInput:
        from weigh.model.config import spec_from_config  # and with it every architecture

        try:
            return spec_from_config(self.id, self.config)
        except BadInput as error:
            return error


@dataclass(frozen=True)
class Catalog:
    """Models that write text, in the order of the file, which iterating gives; and all of them by id.

    Attributes:
        embedding: models that give vectors for texts and write none: nobody is to be recommended one to talk to.
    """

    entries: tuple[CatalogEntry, ...]
    embedding: tuple[CatalogEntry, ...]
    by_id: Mapping[str, CatalogEntry]

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@cache
def catalog() -> Catalog:
    """The catalog that comes with weigh."""
    entries, embedding = _entries("models.json"), _entries("embedding_models.json")
    return Catalog(entries, embedding, {entry.id: entry for entry in (*entries, *embedding)})


def entry_called(name: str) -> CatalogEntry | None:
    """The model of exactly that name, but for case and punctuation; None where none is, or several are.

    A name's organisation has to agree where it has one (`Qwen/Qwen3-8B`); a `GGUF` at its end says nothing.
    """
    organisation, _, last = name.rpartition("/")
    found = [
        entry
        for entry in _by_plain_name().get(_plain(last), ())
        if not organisation or _plain(entry.id.rpartition("/")[0]) == _plain(organisation)
    ]
    return found[0] if len(found) == 1 else None


def entry_of(spec: ModelSpec) -> CatalogEntry | None:
    """The catalog's model that a file holds, by its name and its shapes; a file may claim any name."""
    entry = entry_called(spec.name)
    if entry is None or entry.unsupported:
        return None
    known = entry.spec()
    alike = (known.architecture, known.layers, known.hidden) == (spec.architecture, spec.layers, spec.hidden)
    return entry if alike and abs(spec.parameters / known.parameters - 1) <= _ALIKE else None


@cache
def _by_plain_name() -> Mapping[str, tuple[CatalogEntry, ...]]:
    found: dict[str, tuple[CatalogEntry, ...]] = {}
    for entry in catalog().by_id.values():
        key = _plain(entry.id.rpartition("/")[2])
        found[key] = (*found.get(key, ()), entry)
    return found


def _plain(name: str) -> str:
    letters = re.sub(r"[\W_]", "", name.casefold())
    return letters.removesuffix("gguf") or letters


def _entries(file: str) -> tuple[CatalogEntry, ...]:
    records = json.loads((Path(__file__).parents[1] / "data" / file).read_bytes())
    return tuple(_entry(record) for record in records)


def _entry(record: Mapping[str, object]) -> CatalogEntry:
    config = record["config"]
    assert isinstance(config, dict)
    return CatalogEntry(
        id=str(record["id"]),
        family=str(record["family"]),
        release_date=_date(record["release_date"]),
        license=str(record["license"] or ""),
        stated_total=_whole(record["params_total"]),
        stated_active=_whole(record["params_active"]),
        source=str(record["source"]),
        notes=str(record["notes"] or ""),
        config=config,
        also_stated=_counts(record.get("params_also")),
    )


def _counts(value: object) -> Mapping[str, int]:
    return {str(what): int(n) for what, n in value.items()} if isinstance(value, dict) else {}


def _date(value: object) -> date | None:
    """A day; a month or a year alone stands for its first day."""
    if not isinstance(value, str) or not value:
        return None
    return date.fromisoformat(value + "-01" * (2 - value.count("-")))


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None
