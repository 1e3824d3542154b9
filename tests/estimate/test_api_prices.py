from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from weigh.errors import BadFile, UnknownName
from weigh.estimate.api_prices import hosted_price, shipped_prices
from weigh.estimate.cost import api_price


@pytest.fixture(autouse=True)
def own_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "prices.toml"
    monkeypatch.setenv("WEIGH_PRICES", str(path))
    return path


def test_every_shipped_price_says_where_and_when_it_was_read() -> None:
    found = shipped_prices()
    assert len({(one.host, one.api.name) for one in found}) == len(found) > 0
    for one in found:
        assert one.api.source.startswith("https://")
        date.fromisoformat(one.api.date)
        assert 0 < one.api.input_per_million <= one.api.output_per_million
        assert (
            one.cached_input_per_million is None or one.cached_input_per_million < one.api.input_per_million
        )


def test_a_price_holds_at_its_host_and_for_dated_versions() -> None:
    price = hosted_price("api.openai.com", "gpt-4-0613")
    assert price is not None
    assert (price.api.name, price.api.input_per_million, price.api.output_per_million) == ("gpt-4", 30, 60)
    assert hosted_price("api.openai.com", "gpt-5-mini-2025-08-07") is not None
    assert hosted_price("127.0.0.1", "gpt-4") is None  # called so, and somebody's own
    assert hosted_price("api.openai.com", "gpt-4-turbo") is None


def test_tokens_in_the_cache_cost_what_the_provider_asks_for_them() -> None:
    price = hosted_price("api.openai.com", "gpt-5-mini")
    assert price is not None
    # 10^6 x (0.25 + 0.025) + 10^5 x 2, per million
    spent = price.bill(prompt_tokens=10**6, cached_tokens=10**6, output_tokens=10**5)
    assert spent == pytest.approx(0.25 + 0.025 + 0.2)
    plain = hosted_price("api.openai.com", "gpt-4")
    assert plain is not None
    assert plain.bill(prompt_tokens=0, cached_tokens=10**6, output_tokens=0) == pytest.approx(30)


def test_the_users_own_price_comes_first_wherever_the_model_is(own_prices: Path) -> None:
    own_prices.write_text(
        '["gpt-4"]\ninput = 1\noutput = 2\ncurrency = "EUR"\n[mine]\ninput = 3\noutput = 4\n'
    )
    price = hosted_price("api.openai.com", "gpt-4")
    assert price is not None
    assert (price.api.input_per_million, price.api.currency) == (1, "EUR")
    local = hosted_price("127.0.0.1", "mine")
    assert local is not None
    assert local.api.output_per_million == 4
    own_prices.write_text("input = ")
    with pytest.raises(BadFile, match="no list of prices"):
        hosted_price("api.openai.com", "gpt-4")


def test_weigh_cost_knows_the_same_prices_by_name() -> None:
    assert api_price("gpt-4").output_per_million == 60
    with pytest.raises(UnknownName, match="did you mean `gpt-4`"):
        api_price("gpt4")
