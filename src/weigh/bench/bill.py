"""What a run on a hosted model cost."""

from __future__ import annotations

from dataclasses import dataclass

from weigh.engines.openai_api import OpenAiModel
from weigh.engines.served import ServedModel
from weigh.estimate.api_prices import HostedPrice, hosted_price


@dataclass(frozen=True, slots=True)
class Bill:
    """Tokens as the server counted them, and the money they come to at `price`."""

    price: HostedPrice
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def money(self) -> float:
        return self.price.bill(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
        )

    @property
    def words(self) -> str:
        api = self.price.api
        currency = f" {api.currency}" if api.currency else ""
        read = self.prompt_tokens + self.cached_tokens
        seen = ", ".join(filter(None, (self.price.notes, api.source, api.date)))
        return (
            f"{api.input_per_million:g}{currency} per million tokens read, {api.output_per_million:g} written;"
            f" this run read {read:,} and wrote {self.output_tokens:,}: {self.money:.2g}{currency}"
            + (f" ({seen})" if seen else "")
        )


def bill(served: ServedModel) -> Bill | None:
    """For all that was asked of it so far; None where no price is known of it.

    Raises:
        BadFile: the user's list of prices is none.
    """
    if not isinstance(served, OpenAiModel):
        return None
    price = hosted_price(served.endpoint.host, served.model)
    if price is None:
        return None
    spent = served.spent
    return Bill(price, spent.prompt_tokens, spent.cached_tokens, spent.output_tokens)
