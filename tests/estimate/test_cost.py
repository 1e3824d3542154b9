"""Money per million tokens, worked by hand from the setup's own speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from weigh.engines.engine import Settings
from weigh.errors import BadFile, BadInput, UnknownName
from weigh.estimate.cost import ApiPrice, CostEstimate, Costs, api_price, cost
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.machine.devices import target_named
from weigh.model.resolve import resolve

# 3,652.50 over ten years is 1 a day
PLAIN = Costs(price=3652.5, lifetime_years=10, electricity_per_kwh=0.36, watts=300, currency="EUR")


def setup(parallel: int = 1) -> SetupEstimate:
    workload = Workload(prompt_tokens=3000, output_tokens=1000)
    return weigh(
        resolve("llama-3.1-8b:Q4_K_M"), Site(target_named("RTX 3090")), Settings(parallel=parallel), workload
    )


def priced(costs: Costs = PLAIN, *apis: ApiPrice, parallel: int = 1) -> CostEstimate:
    found = cost(setup(parallel), costs, apis)
    assert found is not None
    return found


def decode(found: CostEstimate) -> float:
    assert found.setup.speed is not None
    return found.setup.speed.decode_tokens_per_s.value


def prefill(found: CostEstimate) -> float:
    assert found.setup.speed is not None
    return found.setup.speed.prefill_tokens_per_s.value


def test_a_day_of_hardware_over_the_tokens_of_a_day() -> None:
    found = priced()
    assert found.output.hardware.value == pytest.approx(1 / (decode(found) * 86_400) * 1e6)
    assert found.input.hardware.value == pytest.approx(1 / (prefill(found) * 86_400) * 1e6)
    assert found.output.hardware.unit == "EUR per million tokens"


def test_electricity_is_joules_at_the_price_of_a_kilowatt_hour() -> None:
    found = priced()
    # 300 W at 0.36 a kWh is 0.36 x 300 / 3.6e6 = 30 millionths a second
    assert found.output.electricity is not None
    assert found.output.electricity.value == pytest.approx(30e-6 / decode(found) * 1e6)
    assert found.output.total.value == pytest.approx(
        found.output.hardware.value + found.output.electricity.value
    )


def test_fewer_hours_a_day_make_each_dearer() -> None:
    half = Costs(3652.5, 10, hours_per_day=12, electricity_per_kwh=0.36, watts=300, currency="EUR")
    whole, found = priced(), priced(half)
    assert found.output.hardware.value == pytest.approx(2 * whole.output.hardware.value)
    assert found.tokens_per_day.value == pytest.approx(whole.tokens_per_day.value / 2)
    assert found.output.electricity == whole.output.electricity


def test_idle_hours_are_paid_by_those_at_work() -> None:
    costs = Costs(3652.5, 10, hours_per_day=4, electricity_per_kwh=0.36, watts=300, idle_watts=50)
    # 20 h x 50 W is 1 kWh, so 0.36 a day beside the 1 of the hardware
    assert costs.fixed_per_day == pytest.approx(1.36)
    assert priced(costs).output.hardware.value == pytest.approx(1.36 / (decode(priced()) * 4 * 3600) * 1e6)


def test_users_share_a_step() -> None:
    alone, shared = priced(), priced(parallel=8)
    assert shared.output.hardware.value == pytest.approx(
        alone.output.hardware.value * decode(alone) / (8 * decode(shared))
    )
    assert shared.output.hardware.value < alone.output.hardware.value / 2


def test_break_even_against_an_api() -> None:
    api = ApiPrice("theirs", input_per_million=2.0, output_per_million=10.0)
    found = priced(PLAIN, api)
    (beside,) = found.compared
    assert beside.per_million_of_mix == pytest.approx((3 * 2 + 1 * 10) / 4)  # three read for each written
    ours = (3 * 30e-6 / prefill(found) + 30e-6 / decode(found)) / 4 * 1e6  # electricity of a million
    assert beside.break_even_tokens_per_day == pytest.approx(1 / (4 - ours) * 1e6)
    assert beside.reachable
    request_s = 3000 / prefill(found) + 1000 / decode(found)
    assert found.tokens_per_day.value == pytest.approx(86_400 / request_s * 4000)


def test_an_api_cheaper_than_electricity_never_loses() -> None:
    (beside,) = priced(PLAIN, ApiPrice("cheap", 0.0, 0.0)).compared
    assert beside.break_even_tokens_per_day is None
    assert not beside.reachable


def test_more_than_the_machine_computes_is_out_of_reach() -> None:
    dear = Costs(price=1e6, lifetime_years=1, electricity_per_kwh=0.0, watts=300)
    (beside,) = priced(dear, ApiPrice("theirs", 1, 1)).compared
    assert beside.break_even_tokens_per_day is not None
    assert not beside.reachable


def test_without_a_price_of_electricity_only_the_hardware_counts() -> None:
    found = priced(Costs(3652.5, 10, watts=300))
    assert found.output.electricity is None
    assert found.output.total == found.output.hardware


def test_an_api_in_another_currency_is_refused() -> None:
    with pytest.raises(BadInput, match="in USD, the others in EUR"):
        cost(setup(), PLAIN, (ApiPrice("theirs", 1, 1, currency="USD"),))


@pytest.mark.parametrize(
    "wrong",
    [
        {"price": -1.0, "lifetime_years": 3},
        {"price": 1.0, "lifetime_years": 0},
        {"price": 1.0, "lifetime_years": 3, "hours_per_day": 25},
        {"price": 1.0, "lifetime_years": 3, "hours_per_day": 0},
    ],
)
def test_costs_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Costs(**wrong)


def test_a_price_as_it_is_said() -> None:
    assert api_price("mine=2.5/10") == ApiPrice("mine", 2.5, 10.0)
    for wrong in ("mine=", "mine=1", "mine=a/b", "=1/2", "mine=-1/2", "mine=nan/1"):
        with pytest.raises(BadInput):
            api_price(wrong)


def test_prices_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        '[mine]\ninput = 2\noutput = 8.5\ncurrency = "EUR"\nsource = "its site"\ndate = 2026-11-01\n'
    )
    assert api_price("mine", path) == ApiPrice("mine", 2.0, 8.5, "EUR", "its site", "2026-11-01")
    with pytest.raises(UnknownName, match="did you mean `mine`"):
        api_price("min", path)
    with pytest.raises(UnknownName):
        api_price("mine", tmp_path / "none.toml")
    path.write_text("[mine]\ninput = true\n")
    with pytest.raises(BadFile, match="needs `input` and `output`"):
        api_price("mine", path)
    path.write_text("not toml")
    with pytest.raises(BadFile):
        api_price("mine", path)
