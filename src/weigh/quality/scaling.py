"""How loss falls with size and data: L(N, D) = E + A / N^alpha + B / D^beta, fitted with its uncertainty.

The form and its meaning are those of Hoffmann et al. 2022 (arXiv:2203.15556, equation 2): E is what no model of the
kind can do without, A / N^alpha what too few parameters cost, B / D^beta what too little data costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from weigh.errors import BadInput
from weigh.figure import Basis, Figure
from weigh.quality.clustered import student_t

DRAWS = 200  # of the residuals, for the intervals
SIZE_EXPONENTS = np.linspace(0.02, 1.2, 60)
DATA_EXPONENTS = np.linspace(0.02, 1.2, 60)
LEAST_SIZES = 4  # three unknowns belong to size
LEAST_AMOUNTS = 3  # of data, to tell its term from the constant
_LOW, _HIGH = 0.1, 0.9  # an 80 % interval

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Run:
    """A trained model: its parameters, the tokens it saw, its loss on text it did not (any one unit)."""

    parameters: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class LossCurve:
    """A fitted L(N, D).

    Attributes:
        irreducible: E, in the unit of the losses; with `data_coefficient` 0 it holds the data's share too.
        size_coefficient, size_exponent: A and alpha.
        data_coefficient, data_exponent: B and beta; 0 where the runs saw too few amounts of data to tell.
        unit: of the losses.
        residuals: ln(loss / fitted) by run, in the runs' order.
        spread: within so much of the curve, as a share of the loss, a single run lies in 8 of 10 cases: Student's t
            for the freedom that the fit leaves its runs.
        draws: curves fitted to the runs with their residuals drawn anew.
        smallest, largest: parameters of the runs; beyond them the curve is an extrapolation.
    """

    irreducible: float
    size_coefficient: float
    size_exponent: float
    data_coefficient: float
    data_exponent: float
    unit: str
    residuals: tuple[float, ...] = ()
    spread: float = 0.0
    draws: tuple[LossCurve, ...] = field(default=(), repr=False)
    smallest: int = 0
    largest: int = 0

    def loss(self, parameters: float, tokens: float) -> float:
        size: float = self.size_coefficient * parameters**-self.size_exponent
        data: float = self.data_coefficient * tokens**-self.data_exponent if self.data_coefficient else 0.0
        return self.irreducible + size + data

    def at(self, parameters: int, tokens: int) -> Figure:
        """The loss of a model of that size, with the 80 % interval of the fit and of a single run about it."""
        return self._figure(lambda curve: curve.loss(parameters, tokens), self.spread)

    def gain_per_doubling(self, parameters: int, tokens: int) -> Figure:
        """How much the loss falls when the parameters double and the data stays as it is."""
        return self._figure(lambda curve: curve.loss(parameters, tokens) - curve.loss(2 * parameters, tokens))

    def exponent(self) -> Figure:
        """alpha."""
        return self._figure(lambda curve: curve.size_exponent, unit="")

    def _figure(
        self, of: Callable[[LossCurve], float], spread: float = 0.0, unit: str | None = None
    ) -> Figure:
        value = of(self)
        drawn = [of(curve) for curve in self.draws] or [value]
        low, high = float(np.quantile(drawn, _LOW)), float(np.quantile(drawn, _HIGH))
        low, high = min(low, value), max(high, value)
        return Figure(
            value,
            value - float(np.hypot(value - low, spread * value)),
            value + float(np.hypot(high - value, spread * value)),
            self.unit if unit is None else unit,
            Basis.MEASURED,
            "fitted on trained models",
        )


def fit_loss_curve(runs: Sequence[Run], unit: str, *, draws: int = DRAWS, seed: int = 1) -> LossCurve:
    """The least squares of ln(loss); the exponents by a grid, the rest (none negative) exactly for each of its points.

    Args:
        draws: how many times the residuals are drawn anew for the intervals.

    Raises:
        BadInput: fewer than four sizes, or a loss that is not positive.
    """
    if len({run.parameters for run in runs}) < LEAST_SIZES:
        raise BadInput(
            f"a curve over size needs models of {LEAST_SIZES} sizes at least", hint="train or name more"
        )
    if not all(run.loss > 0 and run.parameters > 0 and run.tokens > 0 for run in runs):
        raise BadInput("sizes, tokens and losses of a curve must be positive", hint="leave the others out")
    sizes = np.array([run.parameters for run in runs], dtype=float)
    tokens = np.array([run.tokens for run in runs], dtype=float)
    losses = np.array([run.loss for run in runs])
    with_data = len({run.tokens for run in runs}) >= LEAST_AMOUNTS
    first = _least_squares(sizes, tokens, losses, with_data)
    fitted = _losses(first, sizes, tokens)
    residuals = np.log(losses / fitted)
    unknowns = 5 if with_data else 3
    freedom = max(1, len(runs) - unknowns)
    # a fit follows its own runs: their residuals are too small
    widened = residuals * np.sqrt(len(runs) / freedom)
    random = np.random.default_rng(seed)
    drawn = [
        _least_squares(sizes, tokens, fitted * np.exp(random.choice(widened, len(runs))), with_data)
        for _ in range(draws)
    ]
    return LossCurve(
        *first,
        unit=unit,
        residuals=tuple(map(float, residuals)),
        spread=student_t(_HIGH - _LOW, freedom) * float(np.sqrt(np.mean(widened**2))),
        draws=tuple(LossCurve(*one, unit=unit) for one in drawn),
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
    )


Unknowns = tuple[float, float, float, float, float]  # E, A, alpha, B, beta


def _losses(unknowns: Unknowns, sizes: Array, tokens: Array) -> Array:
    constant, size, alpha, data, beta = unknowns
    return np.asarray(constant + size * sizes**-alpha + (data * tokens**-beta if data else 0.0))


def _least_squares(sizes: Array, tokens: Array, losses: Array, with_data: bool) -> Unknowns:
    """For every pair of exponents the best E, A, B >= 0; terms are scaled by the smallest size and amount."""
    scale_n, scale_d = sizes.min(), tokens.min()
    betas = DATA_EXPONENTS if with_data else DATA_EXPONENTS[:1]
    alpha, beta = (grid.ravel() for grid in np.meshgrid(SIZE_EXPONENTS, betas, indexing="ij"))
    columns = np.stack(
        [
            np.ones((len(alpha), len(sizes))),
            (sizes[None] / scale_n) ** -alpha[:, None],
            (tokens[None] / scale_d) ** -beta[:, None],
        ],
        axis=-1,
    )
    columns /= losses[
        None, :, None
    ]  # relative errors: the residual is 1 - fitted / loss, to first order ln's
    usable = (0, 1, 2) if with_data else (0, 1)
    best: tuple[float, Unknowns] | None = None
    for chosen in (some for count in (3, 2, 1) for some in combinations(usable, count)):
        part = columns[:, :, chosen]
        gram = np.einsum("gri,grj->gij", part, part) + 1e-12 * np.eye(len(chosen))
        right = part.sum(axis=1)
        solved = np.linalg.solve(gram, right[..., None])[..., 0]
        errors = ((1 - np.einsum("gri,gi->gr", part, solved)) ** 2).sum(axis=1)
        least = errors.min()
        errors[(solved < 0).any(axis=1)] = np.inf
        at = int(np.argmin(errors))
        if best is None or errors[at] < best[0]:
            found = dict(zip(chosen, map(float, solved[at]), strict=True))
            best = (
                float(errors[at]),
                (
                    found.get(0, 0.0),
                    found.get(1, 0.0) * float(scale_n) ** float(alpha[at]),
                    float(alpha[at]),
                    found.get(2, 0.0) * float(scale_d) ** float(beta[at]),
                    float(beta[at]),
                ),
            )
        if chosen == usable and errors[at] == least:
            break  # no term wants to be negative, and with fewer terms no error is smaller
    assert best is not None
    return best[1]
