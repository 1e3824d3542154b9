"""How far quantization moves a model's next-token distribution: measured, published, or predicted, in nats.

A prediction is a type's loss in the mean model times a factor of the model: its size, its family, itself. What is
already known of the same model's loss in other types tells that factor, so that it is worth far more than size or
family. Fitted by benchmarks/quantization_loss_fit.py; docs/quantization_loss.md holds it against models left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from weigh.errors import UnknownName
from weigh.figure import Basis, Figure

Z80 = 1.2816  # half-width of an 80 % interval in standard deviations
_LINE = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")  # recipes that share one curve
_UNQUANTIZED = frozenset({"F32", "BF16"})
_LEAST_NATS = 1e-6  # below it a divergence is rounding in the engine
# The fit has seen models from 2 B up. Of those below a tenth of a billion only the ladder's are known, which lose
# e^-4 to e^-5.5 of what it says (docs/quantization_loss.md): nothing is known there but what is measured.
_TINY_PARAMETERS, _LN_SD_TINY = 100_000_000, 4.0
Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Anchor:
    """A loss of the same model that is known, and how surely.

    Attributes:
        ln_sd: standard deviation of ln(nats).
    """

    recipe: str
    nats: float
    ln_sd: float = 0.0


def quantization_loss(
    parameters: int,
    recipe: str | None = None,
    *,
    bits_per_weight: float | None = None,
    model_id: str | None = None,
    measured: Mapping[str, Figure] | None = None,
) -> Figure:
    """Mean divergence of the next-token distribution from the unquantized model's, in nats.

    As it was measured of this very model and recipe, else as it was published. Otherwise predicted, from what is
    measured or published of the same model in other recipes where there is any.

    Args:
        parameters: total.
        bits_per_weight: of the file; used for a recipe of which no divergence is known.
        model_id: catalog id.
        measured: losses of the same model by recipe, in nats.

    Raises:
        UnknownName: no divergence is known for the recipe and no `bits_per_weight` was given.
    """
    table = loss_table()
    if measured and recipe and recipe in measured:
        return measured[recipe]
    if recipe in _UNQUANTIZED or (model_id and recipe and recipe == _native_formats().get(model_id)):
        return Figure.exact(0.0, "nats", Basis.COMPUTED, "the model's own format")
    published = table["published"].get(model_id, {}).get(recipe)
    if published:
        return Figure(
            published["nats"],
            published["low"],
            published["high"],
            "nats",
            Basis.PUBLISHED,
            published["source"],
        )
    known = sorted((measured or {}).items())
    anchors = tuple(_anchor(name, figure) for name, figure in known if math.isfinite(figure.value))
    return _predicted(parameters, recipe, bits_per_weight, model_id, anchors)


def _anchor(recipe: str, figure: Figure) -> Anchor:
    """A measured loss; where its interval is not bounded it counts as known to a factor of two."""
    known = 0 < figure.low <= figure.value <= figure.high < math.inf
    wide = math.log(figure.high / figure.low) / 2 if known else math.log(2)
    return Anchor(recipe, max(figure.value, _LEAST_NATS), wide / Z80)


@lru_cache(maxsize=16384)
def _predicted(
    parameters: int,
    recipe: str | None,
    bits_per_weight: float | None,
    model_id: str | None,
    anchors: tuple[Anchor, ...],
) -> Figure:
    table = loss_table()
    factor = factor_of(table, parameters / 1e9, model=model_id, family=_family(table, model_id))
    if parameters < _TINY_PARAMETERS:
        factor = Factor(factor.ln_factor, math.hypot(factor.ln_sd, _LN_SD_TINY))
    anchors = tuple(one for one in anchors if one.recipe in table["nats"])
    ln_nats, sd = expected(table, recipe, factor, bits_per_weight=bits_per_weight, anchors=anchors)
    known = [f"its own loss at {', '.join(one.recipe for one in anchors)}"] if anchors else []
    known += ["others published of it"] if model_id in table["models"] else []
    known += [
        f"{table['rows']} published losses of {table['models_fitted']} models (docs/quantization_loss.md)"
    ]
    return Figure(
        math.exp(ln_nats),
        math.exp(ln_nats - Z80 * sd),
        math.exp(ln_nats + Z80 * sd),
        "nats",
        Basis.CALIBRATED if anchors else Basis.RULE_OF_THUMB,
        f"fitted on {', '.join(known)}",
    )


@dataclass(frozen=True, slots=True)
class Factor:
    """What a model loses against the mean model of the table's size, in all types alike: ln, and its deviation."""

    ln_factor: float
    ln_sd: float


def factor_of(
    table: Table, parameters_b: float, *, model: str | None = None, family: str | None = None
) -> Factor:
    """By the model itself where the fit has seen it, else by its family and size."""
    if model in table["models"]:
        return Factor(**table["models"][model])
    smaller = min(0.0, math.log(parameters_b / table["base_parameters_B"]))
    known = table["families"].get(family, {"ln_factor": 0.0, "ln_sd": table["ln_sd_family"]})
    sd = math.hypot(
        table["ln_sd_common"], known["ln_sd"], table["ln_sd_model"], table["exponent_sd"] * smaller
    )
    return Factor(known["ln_factor"] + table["exponent"] * smaller, sd)


def expected(
    table: Table,
    recipe: str | None,
    factor: Factor,
    *,
    bits_per_weight: float | None = None,
    anchors: Sequence[Anchor] = (),
) -> tuple[float, float]:
    """ln(nats) expected of a model's loss, and its standard deviation.

    The best linear prediction under the fitted standard deviations: every type of a model shares the model's factor,
    types far from 4 bits a slope too; each type adds what it is known to, each file what is its own.

    Args:
        anchors: of the same model, in recipes that the table has.

    Raises:
        UnknownName: as `quantization_loss`.
    """
    rest: float = table["ln_sd_rest"] ** 2
    asked = _type(table, recipe, bits_per_weight)
    known = [_type(table, anchor.recipe, None) for anchor in anchors]

    def shared(one: _Type, other: _Type) -> float:
        slope: float = table["ln_sd_level"] ** 2 * one.level * other.level
        return factor.ln_sd**2 + slope + (one.sd**2 if one.name == other.name else 0.0)

    among = [[shared(one, other) for other in known] for one in known]
    for at, anchor in enumerate(anchors):
        among[at][at] += rest + anchor.ln_sd**2
    to_asked = [shared(asked, one) for one in known]
    weights = _solved(among, to_asked)
    off = [
        math.log(anchor.nats) - one.ln_nats - factor.ln_factor
        for anchor, one in zip(anchors, known, strict=True)
    ]
    variance = shared(asked, asked) + rest - _dot(weights, to_asked)
    return asked.ln_nats + factor.ln_factor + _dot(weights, off), math.sqrt(variance)


@dataclass(frozen=True, slots=True)
class _Type:
    """A type in the mean model at the pivot's size.

    Attributes:
        sd: of its ln(nats), apart from what all types share.
        level: ln of how far it lies from the pivot at about 4 bits.
    """

    name: str
    ln_nats: float
    sd: float
    level: float


def _type(table: Table, recipe: str | None, bits_per_weight: float | None) -> _Type:
    """Of the recipe, or on the line of the k-quants at `bits_per_weight`."""
    nats: Mapping[str, float] = table["nats"]
    pivot = math.log(table["pivot_nats"])
    if recipe is not None and recipe in nats:
        ln_nats = math.log(nats[recipe])
        return _Type(recipe, ln_nats, table["ln_sd_of_type"][recipe], ln_nats - pivot)
    if bits_per_weight is None:
        raise UnknownName("quantization", str(recipe), close=[r for r in nats if r[:2] == str(recipe)[:2]])
    bits: Mapping[str, float] = table["bits_per_weight"]
    line = sorted((bits[r], math.log(nats[r])) for r in _LINE)
    (x0, y0), (x1, y1) = next(
        (pair for pair in pairwise(line) if bits_per_weight <= pair[1][0]),
        tuple(line[-2:]),
    )
    ln_nats = y0 + (y1 - y0) * (bits_per_weight - x0) / (x1 - x0)
    return _Type(f"{bits_per_weight} bits", ln_nats, table["ln_sd_of_unknown_type"], ln_nats - pivot)


def _family(table: Table, model_id: str | None) -> str | None:
    prefixes: Mapping[str, str] = table["family_of"]
    return next((name for prefix, name in prefixes.items() if model_id and model_id.startswith(prefix)), None)


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of `matrix x = right`, for a small positive definite matrix (Gauss, no pivots needed)."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for at, row in enumerate(rows):
        for below in rows[at + 1 :]:
            share = below[at] / row[at]
            below[at:] = [b - share * a for b, a in zip(below[at:], row[at:], strict=True)]
    found = [0.0] * len(rows)
    for at in reversed(range(len(rows))):
        row = rows[at]
        found[at] = (row[-1] - _dot(row[at + 1 : -1], found[at + 1 :])) / row[at]
    return found


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@cache
def _native_formats() -> dict[str, str]:
    """Catalog id to the format that a model was trained in, where it was."""
    models = _data("quality_index.json")["models"]
    return {name: entry["native_format"] for name, entry in models.items() if entry["native_format"]}


def loss_table() -> Table:
    found: Table = _data("quality_loss.json")
    return found


@cache
def _data(name: str) -> Any:
    return json.loads(files("weigh.data").joinpath(name).read_text(encoding="utf-8"))
