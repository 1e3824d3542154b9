"""What hosted models ask per million tokens, and what a run on one of them came to.

The table `weigh/data/prices.csv` is short: only what a provider's own page said, with the date. The user's own
`prices.toml` (see `cost.prices_file`) comes before it; an entry there is called as the model is at the server.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from weigh.estimate.cost import MILLION, ApiPrice, user_price

# gpt-4-0613 and gpt-5-mini-2025-08-07 are priced as gpt-4 and gpt-5-mini
_DATED = re.compile(r"-(\d{4}|\d{8}|\d{4}-\d{2}-\d{2})$")


@dataclass(frozen=True, slots=True)
class HostedPrice:
    """An API's price at the host that asks it.

    Attributes:
        host: "" for one that the user keeps, which holds wherever the model is called so.
        cached_input_per_million: of prompt tokens found in its cache; None: as any others.
    """

    api: ApiPrice
    host: str = ""
    cached_input_per_million: float | None = None
    notes: str = ""

    def bill(self, *, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """Money for these: `prompt_tokens` computed, `cached_tokens` found, output with hidden reasoning."""
        cached = self.cached_input_per_million
        return (
            prompt_tokens * self.api.input_per_million
            + cached_tokens * (self.api.input_per_million if cached is None else cached)
            + output_tokens * self.api.output_per_million
        ) / MILLION


def hosted_price(host: str, model: str) -> HostedPrice | None:
    """What `model` costs at `host`; None where nobody has said so.

    Raises:
        BadFile: the user's file, or the entry in it, is not a list of prices.
    """
    kept = user_price(model)
    if kept is not None:
        return HostedPrice(kept)
    rows = {(one.host, one.api.name): one for one in shipped_prices()}
    return rows.get((host, model)) or rows.get((host, _DATED.sub("", model)))


@lru_cache(maxsize=1)
def shipped_prices() -> tuple[HostedPrice, ...]:
    with files("weigh.data").joinpath("prices.csv").open(encoding="utf-8") as lines:
        return tuple(map(_price, csv.DictReader(lines)))


def _price(row: dict[str, str]) -> HostedPrice:
    api = ApiPrice(
        row["model"],
        float(row["input_per_million"]),
        float(row["output_per_million"]),
        row["currency"],
        row["source"],
        row["date"],
    )
    cached = row["cached_input_per_million"]
    return HostedPrice(api, row["host"], float(cached) if cached else None, row["notes"])
