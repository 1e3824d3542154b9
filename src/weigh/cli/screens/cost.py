"""Money and energy per token, beside an API's price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, interval, show
from weigh.cli.screens.facts import disturbed, facts, unknown_speed

if TYPE_CHECKING:
    from weigh.estimate.cost import ApiComparison, CostEstimate, PerMillion
    from weigh.estimate.energy import EnergyEstimate
    from weigh.estimate.setup import SetupEstimate
    from weigh.figure import Figure


def show_cost(found: CostEstimate | None, setup: SetupEstimate) -> None:
    if found is None:
        show(Bold(f"{setup.spec.name} at {setup.spec.quantization}"), _unpriced(setup))
        return
    costs, load = found.costs, setup.workload
    users = f", {setup.settings.parallel} users at once" if setup.settings.parallel > 1 else ""
    show(
        Bold(f"{setup.spec.name} at {setup.spec.quantization}"),
        f" on {setup.site.target.name}{users}: ",
        Bold(f"{_money(found.output.total.value)} {costs.currency} per million tokens written"),
        f", {_money(found.input.total.value)} per million read\n",
    )
    columns = (f"{costs.currency} per million tokens", "hardware", "electricity", "total")
    table = Grid(columns, right=columns[1:])
    for name, part in (("written", found.output), ("read", found.input)):
        table.add(name, *_cells(part))
    mixed = f"{load.prompt_tokens:,} read, {load.output_tokens:,} written"
    table.add(f"mixed: {mixed}", "", "", _money_range(found.mix))
    show(table)
    show()
    apis = (_beside(one, found) for one in found.compared)
    facts([*_assumed(found), *_energy_facts(found.energy), *apis, *disturbed(setup.site)])


def _unpriced(setup: SetupEstimate) -> str:
    if not setup.fits:
        return f" does not fit: it needs {units.gib(setup.memory.total_bytes)}"
    return f": speed {unknown_speed(setup)}, and so is what a token costs"


def _cells(part: PerMillion) -> tuple[str, str, str]:
    electricity = _money_range(part.electricity) if part.electricity else "unknown"
    return _money_range(part.hardware), electricity, _money_range(part.total)


def _assumed(found: CostEstimate) -> list[tuple[str, str]]:
    costs = found.costs
    bought = f"{costs.price:,.2f} {costs.currency} over {costs.lifetime_years:g} years"
    rows = [
        ("Hardware", bought if costs.price else "not counted: its price was not said"),
        (
            "Full use",
            f"{costs.hours_per_day:g} h a day: {found.tokens_per_day.value:,.0f} tokens a day at most",
        ),
    ]
    if costs.electricity_per_kwh is None:
        rows.append(("Electricity", "not counted: its price was not said"))
    else:
        idle = f", {costs.idle_watts:g} W at rest" if costs.idle_watts else ""
        rows.append(("Electricity", f"{costs.electricity_per_kwh:g} {costs.currency} per kWh{idle}"))
    return rows


def _energy_facts(used: EnergyEstimate) -> list[tuple[str, str]]:
    if used.decode_joules_per_token is None:
        return [("Energy", f"unknown: no power is known of {used.missing}; measure it and say --watts")]
    watts, decode, prefill = used.decode_watts, used.decode_joules_per_token, used.prefill_joules_per_token
    return [
        ("Energy", f"{interval(decode)} J per token written, {interval(prefill)} J per token read"),
        ("Power", f"{interval(watts)} W while decoding ({decode.basis}): {used.counted}"),
    ]


def _beside(one: ApiComparison, found: CostEstimate) -> tuple[str, str]:
    api, currency = one.api, found.costs.currency
    said = (
        f"{_money(api.output_per_million)} written, {_money(api.input_per_million)} read,"
        f" {_money(one.per_million_of_mix)} mixed {currency} per million"
    )
    if one.break_even_tokens_per_day is None:
        end = "; never dearer than the electricity alone here"
    else:
        end = f"; one's own pays from {one.break_even_tokens_per_day:,.0f} tokens a day on"
        end += "" if one.reachable else ", more than this machine computes"
    seen = " ".join(filter(None, (api.source, api.date)))
    return api.name, said + end + (f" ({seen})" if seen else "")


def _money_range(figure: Figure) -> str:
    if figure.low == figure.high:
        return _money(figure.value)
    return f"{_money(figure.value)} ({_money(figure.low)}–{_money(figure.high)})"


def _money(value: float) -> str:
    """Cents where there are some, else three digits."""
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.3g}"
