"""What a million tokens cost on one's own hardware, beside what an API asks for them.

Cost of a second at work     price / seconds of use in its lifetime + power x electricity's price
Cost of a million tokens     that x seconds per token x 10**6, prefill and decode apart
Idle power                   of the hours of a day in which nothing is computed, spread over those that are

Prices of hardware and electricity are the user's own; those of a few APIs are known (`api_prices.py`), and the
user's own copy comes before them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from weigh.errors import BadFile, BadInput, UnknownName
from weigh.estimate.energy import EnergyEstimate, energy
from weigh.estimate.setup import SetupEstimate
from weigh.figure import Basis, Figure

DAYS_PER_YEAR = 365.25
JOULES_PER_KWH = 3.6e6
MILLION = 1_000_000
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Costs:
    """What the user pays, in one currency.

    Attributes:
        price: of the hardware.
        lifetime_years: after which it is worth nothing.
        hours_per_day: at work, the mean over its lifetime.
        electricity_per_kwh: None leaves electricity out, and says so.
        watts: drawn while computing, measured by the user; None to go by data sheets.
        idle_watts: drawn while nothing is computed; 0 for a machine switched off or busy with other things.
    """

    price: float
    lifetime_years: float
    hours_per_day: float = 24.0
    electricity_per_kwh: float | None = None
    watts: float | None = None
    idle_watts: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        if self.price < 0 or self.idle_watts < 0 or (self.electricity_per_kwh or 0) < 0:
            raise BadInput("a price and a power cannot be below zero")
        if self.lifetime_years <= 0:
            raise BadInput(f"a lifetime of {self.lifetime_years:g} years leaves no time to work")
        if not 0 < self.hours_per_day <= 24:
            raise BadInput(f"{self.hours_per_day:g} hours a day cannot be", hint="more than 0, at most 24")

    @property
    def hardware_per_day(self) -> float:
        return self.price / (self.lifetime_years * DAYS_PER_YEAR)

    @property
    def idle_per_day(self) -> float:
        """Electricity of the hours at rest; 0 where its price is not known."""
        kwh = self.idle_watts / 1000 * (24 - self.hours_per_day)
        return kwh * (self.electricity_per_kwh or 0.0)

    @property
    def fixed_per_day(self) -> float:
        """Due whether or not a token is computed."""
        return self.hardware_per_day + self.idle_per_day


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """What an API asks per million tokens read and written.

    Attributes:
        source, date: where and when the price was seen; "" when not said.
    """

    name: str
    input_per_million: float
    output_per_million: float
    currency: str = ""
    source: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class PerMillion:
    """Money for a million tokens; `electricity` is None where power or its price is not known."""

    hardware: Figure
    electricity: Figure | None

    @property
    def total(self) -> Figure:
        """Without electricity where that is not known."""
        if self.electricity is None:
            return self.hardware
        a, b = self.hardware, self.electricity
        basis = max(a.basis, b.basis, key=list(Basis).index)
        return Figure(a.value + b.value, a.low + b.low, a.high + b.high, a.unit, basis)


@dataclass(frozen=True, slots=True)
class ApiComparison:
    """An API's price beside one's own.

    Attributes:
        per_million_of_mix: of the workload's mix of prompt and output, at the API.
        break_even_tokens_per_day: of that mix, from which on one's own hardware costs less; None when never,
            because electricity alone costs more.
        reachable: whether the machine computes that many in its hours a day.
    """

    api: ApiPrice
    per_million_of_mix: float
    break_even_tokens_per_day: float | None
    reachable: bool


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Cost of one setup at full use of its hours.

    Attributes:
        output, input: per million tokens written by decode, read by prefill.
        mix: of the workload's prompt and output together, per million tokens.
        tokens_per_day: of the mix, at most.
    """

    setup: SetupEstimate
    costs: Costs
    energy: EnergyEstimate
    output: PerMillion
    input: PerMillion
    mix: Figure
    tokens_per_day: Figure
    compared: tuple[ApiComparison, ...]


def cost(setup: SetupEstimate, costs: Costs, apis: tuple[ApiPrice, ...] = ()) -> CostEstimate | None:
    """What tokens of `setup` cost when it works all its hours; None where it does not fit or no speed is known.

    Raises:
        BadInput: an API's price is in another currency.
    """
    if setup.speed is None or not setup.fits:
        return None
    used = energy(setup, watts=costs.watts)
    speed, sequences, load = setup.speed, setup.settings.parallel, setup.workload
    written, read = _times(speed.decode_tokens_per_s, sequences), speed.prefill_tokens_per_s
    per_second = costs.fixed_per_day / (costs.hours_per_day * 3600)
    unit = f"{costs.currency} per million tokens"
    output = PerMillion(
        _spread(per_second, written, unit), _electricity(used.decode_joules_per_token, costs, unit)
    )
    input_ = PerMillion(
        _spread(per_second, read, unit), _electricity(used.prefill_joules_per_token, costs, unit)
    )
    mix = _mixed(input_.total, output.total, load.prompt_tokens, load.output_tokens)
    request_s = _mixed(_inverse(read), _inverse(written), load.prompt_tokens, load.output_tokens)
    most = _times(_inverse(request_s), costs.hours_per_day * 3600, "tokens/day")
    marginal = [
        part.electricity.value if part.electricity else 0.0 for part in (input_, output)
    ]  # what a further million costs once the machine stands there
    compared = tuple(
        _compared(api, costs, marginal, load.prompt_tokens, load.output_tokens, most) for api in apis
    )
    return CostEstimate(setup, costs, used, output, input_, mix, most, compared)


def _compared(
    api: ApiPrice, costs: Costs, marginal: list[float], prompt: int, output: int, most: Figure
) -> ApiComparison:
    if api.currency and api.currency.upper() != costs.currency.upper():
        raise BadInput(
            f"the price of `{api.name}` is in {api.currency}, the others in {costs.currency}",
            hint=f"say what it is in {costs.currency}: `{api.name}=IN/OUT`",
        )
    theirs = (prompt * api.input_per_million + output * api.output_per_million) / (prompt + output)
    ours = (prompt * marginal[0] + output * marginal[1]) / (prompt + output)
    saved = theirs - ours
    tokens = costs.fixed_per_day / saved * MILLION if saved > 0 else None
    return ApiComparison(api, theirs, tokens, tokens is not None and tokens <= most.value)


def _spread(per_second: float, tokens_per_s: Figure, unit: str) -> Figure:
    return _times(_inverse(tokens_per_s), per_second * MILLION, unit)


def _electricity(joules: Figure | None, costs: Costs, unit: str) -> Figure | None:
    if joules is None or costs.electricity_per_kwh is None:
        return None
    return _times(joules, MILLION / JOULES_PER_KWH * costs.electricity_per_kwh, unit)


def _times(figure: Figure, factor: float, unit: str | None = None) -> Figure:
    value, low, high = figure.value * factor, figure.low * factor, figure.high * factor
    return Figure(value, low, high, unit or figure.unit, figure.basis, figure.source)


def _inverse(figure: Figure) -> Figure:
    return Figure(1 / figure.value, 1 / figure.high, 1 / figure.low, f"1/({figure.unit})", figure.basis)


def _mixed(read: Figure, written: Figure, prompt: int, output: int) -> Figure:
    """Mean over a request's tokens."""
    of_prompt = prompt / (prompt + output)

    def mean(one: float, other: float) -> float:
        return of_prompt * one + (1 - of_prompt) * other

    return Figure(
        mean(read.value, written.value),
        mean(read.low, written.low),
        mean(read.high, written.high),
        written.unit,
        max(read.basis, written.basis, key=list(Basis).index),
    )


# --- prices the user keeps ----------------------------------------------------------------------------------


def prices_file() -> Path:
    """Where prices of APIs are kept, whether or not the file exists; $WEIGH_PRICES names another."""
    named = os.environ.get("WEIGH_PRICES")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("weigh")) / "prices.toml"


def api_price(text: str, path: Path | None = None) -> ApiPrice:
    """`NAME=IN/OUT`, money per million tokens read and written, or a name: of an entry in the user's file, else
    of a model whose price is known (`api_prices.py`).

    Raises:
        BadInput: it is neither; BadFile: the file or the entry is not as shown.
    """
    name, said, prices = text.partition("=")
    if said:
        first, slash, second = prices.partition("/")
        try:
            read, written = float(first), float(second)
        except ValueError:
            read = written = -1.0
        if not (slash and name and 0 <= read < 1e9 and 0 <= written < 1e9):
            raise BadInput(
                f"`{text}` is not the price of an API", hint="write it as NAME=IN/OUT, e.g. my-api=2.50/10"
            )
        return ApiPrice(name, read, written)
    path = path or prices_file()
    kept = user_price(name, path)
    if kept is not None:
        return kept
    from weigh.estimate.api_prices import shipped_prices

    shipped = {one.api.name: one.api for one in shipped_prices()}
    if name not in shipped:
        known = (*_entries(path), *shipped)
        hint = f"write NAME=IN/OUT, or give it an entry in {path}"
        raise UnknownName("API", name, close=get_close_matches(name, known, 3, 0.5), hint=hint)
    return shipped[name]


def user_price(name: str, path: Path | None = None) -> ApiPrice | None:
    """The entry `name` of the user's file; None when there is none.

        [my-api]
        input = 2.50
        output = 10
        currency = "USD"        # these three may be left out
        source = "the price list on its site"
        date = "2026-11-01"

    Raises:
        BadFile: the file or the entry is not as shown.
    """
    path = path or prices_file()
    entries = _entries(path)
    return _entry(path, name, entries[name]) if name in entries else None


def _entries(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            return tomllib.loads(file.read(_MOST_BYTES).decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadFile(path, f"is no list of prices: {error}") from error


def _entry(path: Path, name: str, entry: Any) -> ApiPrice:
    if not isinstance(entry, dict):
        raise BadFile(path, f"`{name}` is no table of prices")
    prices = [entry.get(key) for key in ("input", "output")]
    if not all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p < 1e9 for p in prices):
        raise BadFile(path, f"`{name}` needs `input` and `output`, money per million tokens")
    words = {key: str(entry.get(key, "")) for key in ("currency", "source", "date")}
    return ApiPrice(name, float(prices[0]), float(prices[1]), **words)  # type: ignore[arg-type]
