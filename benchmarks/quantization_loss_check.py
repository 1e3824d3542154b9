"""How well the loss of quantization is foretold for models that the fit has not seen.

    python benchmarks/quantization_loss_check.py [--models FOLDER] [--out docs/quantization_loss.md]

Each published model is left out with all its rows, the fit of `quantization_loss_fit.py` made again without it, and
its rows predicted by the function that weigh ships: without anything known of the model, with one of its types known,
with two. Of the ladder each rung is left out with all its branches. Beside it stands the constant that each type has
in the other models, on the same rows. Errors are |ln(predicted / true)|. With `--models`, what is trained of the
ladder and not measured yet is measured first (`ladder_loss.py`). `--out` writes the page's tables again.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from statistics import fmean

import ladder_loss
import numpy as np
from loss_mixed import Exponent, fit_table
from loss_rows import WITH_MATRIX, Loss, Made, published_losses, rows
from quantization_loss_fit import prior_exponent, size_exponent

from weigh.estimate.quantization_loss import Z80, Anchor, Factor, Table, expected, factor_of

FAR = 1.0  # ln(nats) that two anchors lie apart at least: about two bits
LADDER_EXPONENT = Exponent(0.0, 1.0)  # nothing is known of it beforehand
OLD = {"LLaMA 1", "Llama 2", "Chinese LLaMA 2"}  # before Llama 3


@dataclass(frozen=True)
class Guess:
    """One prediction, and the constant of the type for the same row.

    Attributes:
        weight: each row counts once, whatever it was predicted from.
        sd: of ln(predicted); None where the method gives no interval.
    """

    loss: Loss
    ln_nats: float
    constant: float
    weight: float
    sd: float | None = None

    @property
    def error(self) -> float:
        return abs(self.ln_nats - math.log(self.loss.nats))

    @property
    def constant_error(self) -> float:
        return abs(self.constant - math.log(self.loss.nats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, help="checkpoints of the ladder")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="the page whose tables are written again")
    given = parser.parse_args()
    if given.models:
        ladder_loss.measure(given.models, given.threads)
    errors = "\n".join(_errors())
    measured = ladder_loss.read()
    by_size = "\n".join(_by_size(measured)) if measured else ""
    print(errors, by_size, sep="\n\n")
    if given.out:
        text = given.out.read_text(encoding="utf-8")
        for mark, said in (("errors", errors), ("ladder", by_size)):
            text = _between(text, mark, said)
        given.out.write_text(text, encoding="utf-8")


def _between(text: str, mark: str, said: str) -> str:
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{said}\n{end}{after}"


# --- leaving models out --------------------------------------------------------------------------------


def _errors() -> Iterator[str]:
    published = published_losses(rows())
    prior = prior_exponent(rows())
    yield "| | rows | mean | median | constant: mean | median | ratio: means | medians | inside 80 % |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    yield _line("published: Llama 3 8B's curve shifted (as before)", _one_curve(published))
    yield from _anchored("published", "size and family", published, _model, prior)
    yield _line("published: constants shifted by one type known", _shifted(published))
    ladder = [_ladder_loss(row) for row in ladder_loss.read()]
    if len({loss.family for loss in ladder}) > 2:
        yield _line("ladder: size and tokens", _regressed(ladder, _size, _tokens))
        yield _line("ladder: spread of the logits, from the weights", _regressed(ladder, _spread))
        yield _line("ladder: that and size", _regressed(ladder, _spread, _size))
        yield from _anchored("ladder", "size", ladder, _family, LADDER_EXPONENT)
        table = fit_table(published, prior)
        yield _line("ladder by the published types: one type known", _by_others(ladder, table))


def _anchored(
    whose: str, by: str, losses: Sequence[Loss], key: Callable[[Loss], str], exponent: Exponent
) -> Iterator[str]:
    """A line for nothing, one and two types of a model known, each group of models left out in turn."""
    left_out = []
    for name in dict.fromkeys(map(key, losses)):
        left = [loss for loss in losses if key(loss) == name]
        rest = [loss for loss in losses if key(loss) != name]
        left_out.append((left, fit_table(rest, exponent, all_types=True)))
    for count, known in enumerate((by, "one type of the model known", "two types, far apart")):
        guesses = (guess for left, table in left_out for guess in _guesses(left, table, count, losses))
        yield _line(f"{whose}: {known}", guesses)


_model, _family = attrgetter("model"), attrgetter("family")


def _constants(losses: Sequence[Loss], left: Sequence[Loss]) -> dict[str, float]:
    """The mean of ln(loss) of each type in the models that are not left out."""
    found: dict[str, list[float]] = defaultdict(list)
    out = {(loss.model, loss.type) for loss in left}
    for loss in losses:
        if (loss.model, loss.type) not in out:
            found[loss.type].append(math.log(loss.nats))
    return {type: fmean(values) for type, values in found.items()}


def _guesses(left: Sequence[Loss], table: Table, count: int, losses: Sequence[Loss]) -> Iterator[Guess]:
    """Each row of a model that was left out, from each choice of `count` other rows of that model."""
    constants = _constants(losses, left)
    for model in dict.fromkeys(loss.model for loss in left):
        own = [loss for loss in left if loss.model == model and loss.type in table["nats"]]
        factor = factor_of(table, own[0].parameters_b, family=own[0].family) if own else Factor(0, 1)
        for loss in own:
            others = [one for one in own if one.type != loss.type]
            choices = [c for c in combinations(others, count) if _apart(c)]
            for chosen in choices:
                anchors = [Anchor(one.type, one.nats) for one in chosen]
                ln_nats, sd = expected(table, loss.type, factor, anchors=anchors)
                yield Guess(loss, ln_nats, constants[loss.type], 1 / len(choices), sd)


def _apart(chosen: Sequence[Loss]) -> bool:
    return all(abs(math.log(a.nats / b.nats)) > FAR for a, b in combinations(chosen, 2))


def _shifted(losses: Sequence[Loss]) -> Iterator[Guess]:
    """The constants of the types, all shifted by what one known type of the model is off its own."""
    for model in dict.fromkeys(map(_model, losses)):
        left = [loss for loss in losses if loss.model == model]
        constants = _constants(losses, left)
        own = [loss for loss in left if loss.type in constants]
        for loss, anchor in ((a, b) for a in own for b in own if a.type != b.type):
            off = math.log(anchor.nats) - constants[anchor.type]
            yield Guess(loss, constants[loss.type] + off, constants[loss.type], 1 / (len(own) - 1))


def _one_curve(losses: Sequence[Loss]) -> Iterator[Guess]:
    """What was done before: one model's curve, shifted by size and by relatives, else by generation."""
    curve = {loss.type: math.log(loss.nats) for loss in losses if loss.model == "Llama-3-8B"}
    slope = size_exponent(rows())[0] / math.log(10)

    def off(loss: Loss) -> float:
        return math.log(loss.nats) - curve[loss.type] - slope * math.log(loss.parameters_b / 8.03)

    known = [loss for loss in losses if loss.type in curve]
    for loss in known:
        if loss.model != "Llama-3-8B":
            rest = [one for one in known if one.model != loss.model]
            constants = _constants(losses, [one for one in losses if one.model == loss.model])
            kin = [one for one in rest if one.family == loss.family]
            peers = kin or [one for one in rest if (one.family in OLD) == (loss.family in OLD)]
            if loss.type in constants:
                shift = fmean(map(off, peers))
                size = slope * math.log(loss.parameters_b / 8.03)
                yield Guess(loss, curve[loss.type] + shift + size, constants[loss.type], 1.0)


# --- the ladder ----------------------------------------------------------------------------------------


def _ladder_loss(row: ladder_loss.Row) -> Loss:
    """IQ files of the ladder are made without a matrix, and count as the usual ones all the same."""
    made: Made = "matrix" if row.recipe in WITH_MATRIX else "plain"
    return Loss(row.model, row.rung, row.parameters / 1e9, row.recipe, made, row.nats)


def _by_others(ladder: Sequence[Loss], table: Table) -> Iterator[Guess]:
    """The ladder by the table of published models, each model from one type of its own.

    Nothing published speaks of models so small and trained so little, so their factor is left open.
    """
    for model in dict.fromkeys(loss.model for loss in ladder):
        own = [loss for loss in ladder if loss.model == model and loss.type in table["nats"]]
        constants = _constants(ladder, [loss for loss in ladder if loss.family == own[0].family])
        for loss, anchor in ((a, b) for a in own for b in own if a.type != b.type):
            if loss.type in constants:
                known = [Anchor(anchor.type, anchor.nats)]
                ln_nats, sd = expected(table, loss.type, Factor(0.0, 10.0), anchors=known)
                yield Guess(loss, ln_nats, constants[loss.type], 1 / (len(own) - 1), sd)


Feature = Callable[[ladder_loss.Row], float]


def _size(row: ladder_loss.Row) -> float:
    return math.log(row.parameters)


def _tokens(row: ladder_loss.Row) -> float:
    return math.log(row.tokens)


def _spread(row: ladder_loss.Row) -> float:
    return math.log(row.logit_variance)


@dataclass(frozen=True)
class Powers:
    """ln(loss) = type + exponents x ln(features), by least squares; errors count models as independent, not rows."""

    types: dict[str, float]
    exponents: list[float]
    errors: list[float]

    @classmethod
    def fitted(cls, losses: Sequence[Loss], features: Sequence[Feature]) -> Powers:
        by_model = {row.model: row for row in ladder_loss.read()}
        types = list(dict.fromkeys(loss.type for loss in losses))
        x = np.array(
            [
                [*(float(loss.type == type) for type in types), *(f(by_model[loss.model]) for f in features)]
                for loss in losses
            ]
        )
        y = np.array([math.log(loss.nats) for loss in losses])
        inverse = np.linalg.inv(x.T @ x)
        found = inverse @ x.T @ y
        rest = y - x @ found
        models = np.array([loss.model for loss in losses])
        scores = np.array([x[models == name].T @ rest[models == name] for name in dict.fromkeys(models)])
        errors = np.sqrt(np.diag(inverse @ scores.T @ scores @ inverse))
        count = len(types)
        return cls(
            dict(zip(types, map(float, found[:count]), strict=True)),
            [float(value) for value in found[count:]],
            [float(value) for value in errors[count:]],
        )


def _regressed(ladder: Sequence[Loss], *features: Feature) -> Iterator[Guess]:
    """Each rung by the types and exponents of the others."""
    by_model = {row.model: row for row in ladder_loss.read()}
    for rung in dict.fromkeys(map(_family, ladder)):
        left = [loss for loss in ladder if loss.family == rung]
        fitted = Powers.fitted([loss for loss in ladder if loss.family != rung], features)
        constants = _constants(ladder, left)
        for loss in left:
            if loss.type in constants:
                row = by_model[loss.model]
                off = sum(e * f(row) for e, f in zip(fitted.exponents, features, strict=True))
                yield Guess(loss, fitted.types[loss.type] + off, constants[loss.type], 1.0)


def _by_size(measured: Sequence[ladder_loss.Row]) -> Iterator[str]:
    """The ladder's losses by size and type at each length of training, and Q4_0 by tokens."""
    rungs = {row.rung: row.parameters for row in sorted(measured, key=lambda row: row.parameters)}
    recipes = [
        r for r in (*ladder_loss.ANY_ROWS, *ladder_loss.WIDE_ROWS) if any(row.recipe == r for row in measured)
    ]
    at = {(row.rung, row.tokens, row.recipe): row for row in measured}
    lengths = sorted({row.tokens for row in measured})
    for tokens in reversed(lengths):
        yield f"At {tokens:,} tokens, thousandths of a nat:"
        yield ""
        yield f"| | parameters | {' | '.join(recipes)} |"
        yield f"| --- | ---: |{' ---: |' * len(recipes)}"
        for rung, parameters in rungs.items():
            found = [at.get((rung, tokens, recipe)) for recipe in recipes]
            if any(found):
                said = " | ".join(f"{1e3 * row.nats:.2f}" if row else "–" for row in found)
                yield f"| {rung} | {parameters:,} | {said} |"
        yield ""
    yield "Q4_0 by tokens, thousandths of a nat (80 % interval over windows of text):"
    yield ""
    yield f"| | {' | '.join(f'{length:,}' for length in lengths)} |"
    yield f"| --- |{' ---: |' * len(lengths)}"
    for rung in rungs:
        cells = (at.get((rung, length, "Q4_0")) for length in lengths)
        yield f"| {rung} | {' | '.join(_cell(c) for c in cells)} |"
    ladder = [_ladder_loss(row) for row in measured]
    of, spread = (Powers.fitted(ladder, f) for f in ((_size, _tokens), (_spread,)))
    yield ""
    yield (
        f"Least squares over all {len(measured)} rows, one standard error: loss goes with "
        f"parameters^{_power(of, 0)} and tokens^{_power(of, 1)}; or with (variance of the logits)^{_power(spread, 0)}."
    )


def _power(fitted: Powers, at: int) -> str:
    return f"({fitted.exponents[at]:.2f} ± {fitted.errors[at]:.2f})"


def _cell(row: ladder_loss.Row | None) -> str:
    return f"{1e3 * row.nats:.2f} ({1e3 * row.low:.2f}–{1e3 * row.high:.2f})" if row else "–"


# --- the table -----------------------------------------------------------------------------------------


def _line(what: str, made: Iterable[Guess]) -> str:
    guesses = list(made)
    weights = [guess.weight for guess in guesses]
    errors = [guess.error for guess in guesses]
    constants = [guess.constant_error for guess in guesses]
    mean, constant_mean = (float(np.average(each, weights=weights)) for each in (errors, constants))
    median, constant_median = (_median(list(zip(each, weights, strict=True))) for each in (errors, constants))
    inside = [(float(g.error < Z80 * g.sd), g.weight) for g in guesses if g.sd is not None]
    share = f"{100 * sum(i * w for i, w in inside) / sum(w for _, w in inside):.0f} %" if inside else "–"
    count = len({(guess.loss.model, guess.loss.type) for guess in guesses})
    return (
        f"| {what} | {count} | {mean:.3f} | {median:.3f} | {constant_mean:.3f} | {constant_median:.3f} "
        f"| {mean / constant_mean:.2f} | {median / constant_median:.2f} | {share} |"
    )


def _median(weighted: Sequence[tuple[float, float]]) -> float:
    ordered = sorted(weighted)
    half, so_far = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        so_far += weight
        if so_far >= half:
            return value
    raise ValueError("nothing to take the median of")


if __name__ == "__main__":
    main()
