"""The models people run, with their public shapes: read once, and worked out one by one as they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from pathlib import Path

from weigh.errors import BadInput
from weigh.model.spec import ModelSpec


@dataclass(frozen=True)
class CatalogEntry:
    """One published model.

    Attributes:
        id: its hub id.
        stated_total, stated_active: parameters as published, None where nobody says.
        config: the fields of its config.json that are known.
        source: where the facts come from.
        notes: doubts and corrections.
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

    @cached_property
    def _outcome(self) -> ModelSpec | BadInput:
        from weigh.model.config import spec_from_config  # and with it every architecture

        try:
            return spec_from_config(self.id, self.config)
        except BadInput as error:
            return error


@dataclass(frozen=True)
class Catalog:
    """All entries, in the order of the file, and by id."""

    entries: tuple[CatalogEntry, ...]
    by_id: Mapping[str, CatalogEntry]

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@cache
def catalog() -> Catalog:
    """The catalog that comes with weigh."""
    records = json.loads((Path(__file__).parents[1] / "data" / "models.json").read_bytes())
    entries = tuple(_entry(record) for record in records)
    return Catalog(entries, {entry.id: entry for entry in entries})


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
    )


def _date(value: object) -> date | None:
    """A day; a month or a year alone stands for its first day."""
    if not isinstance(value, str) or not value:
        return None
    return date.fromisoformat(value + "-01" * (2 - value.count("-")))


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None
