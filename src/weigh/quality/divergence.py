"""How far a model lies from its reference: their next-token distributions compared on a text, streamed.

As `llama-perplexity --kl-divergence` defines it: windows of 512 tokens, the second half of each judged; for each
judged token KL(reference || candidate) in nats, whether both hold the same token for the likeliest, and the
difference of the probabilities of the token that stands there. That tool keeps the reference's logits in a file,
rounded to 16 bits; here both models read each window together and nothing is kept but four numbers a token.
Intervals are of the windows, since tokens of one window are alike; the tool's own take tokens for independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from weigh.figure import Basis, Figure
from weigh.quality.clustered import Ratio, ratio
from weigh.quality.text import figure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from weigh.quality.scorer import ChildScorer, Comparison

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of a candidate from its reference.

    Attributes:
        kl: mean over tokens, nats.
        kl_quantiles: share of tokens and the nats they stay within.
        same_top: share of tokens where both hold the same token for the likeliest.
        delta_p_mean: mean of the candidate's probability of the right token less the reference's; below nought when
            the candidate does worse.
        delta_p_rms: root of the mean square of the same: how much probabilities move, for better or worse.
        delta_p_quantiles: as `kl_quantiles`.
        log_perplexity_ratio: ln(PPL(candidate) / PPL(reference)).
        reference_perplexity, perplexity: of both, per token, on the same windows.
    """

    kl: Figure
    kl_quantiles: tuple[tuple[float, float], ...]
    same_top: Figure
    delta_p_mean: Figure
    delta_p_rms: Figure
    delta_p_quantiles: tuple[tuple[float, float], ...]
    log_perplexity_ratio: Figure
    reference_perplexity: float
    perplexity: float
    tokens: int
    windows: int


@dataclass(frozen=True, slots=True)
class DivergedWindow:
    """Sums over the judged tokens of one window.

    Attributes:
        worse_nats: by how much the candidate's log-probabilities of the tokens themselves are lower.
    """

    tokens: int
    kl_nats: float
    same_top: int
    worse_nats: float

    @classmethod
    def of(cls, found: Comparison) -> Self:
        return cls(
            len(found.kl_nats),
            float(found.kl_nats.sum()),
            int(found.same_top.sum()),
            float((found.reference_log_probs - found.log_probs).sum()),
        )


def compared(scorer: ChildScorer, window: Sequence[int]) -> Comparison:
    """The second half of a window (`text.llama_windows`) by the scorer's two models."""
    return scorer.compare(window, len(window) // 2 + 1)


def divergence(found: Sequence[Comparison]) -> Divergence:
    """The figures over all tokens of all windows, with 80 % intervals of the windows.

    Raises:
        ValueError: there are no windows.
    """
    import numpy as np

    counts = [len(one.kl_nats) for one in found]
    kl = [one.kl_nats for one in found]
    before = [one.reference_log_probs for one in found]
    after = [one.log_probs for one in found]
    moved = [np.exp(b) - np.exp(a) for a, b in zip(before, after, strict=True)]
    squares = ratio([float(one @ one) for one in moved], counts)
    worse = [float((a - b).sum()) for a, b in zip(before, after, strict=True)]
    same = ratio([int(one.same_top.sum()) for one in found], counts)
    return Divergence(
        kl=figure(ratio([float(one.sum()) for one in kl], counts), "nats"),
        kl_quantiles=_quantiles(kl),
        same_top=Figure(same.value, max(0.0, same.low), min(1.0, same.high), "share", Basis.MEASURED),
        delta_p_mean=_signed(ratio([float(one.sum()) for one in moved], counts), "probability"),
        delta_p_rms=Figure(
            math.sqrt(squares.value),
            math.sqrt(max(0.0, squares.low)),
            math.sqrt(squares.high),
            "probability",
            Basis.MEASURED,
        ),
        delta_p_quantiles=_quantiles(moved),
        log_perplexity_ratio=_signed(ratio(worse, counts), "nats"),
        reference_perplexity=math.exp(-float(np.concatenate(before).mean())),
        perplexity=math.exp(-float(np.concatenate(after).mean())),
        tokens=sum(counts),
        windows=len(found),
    )


def _signed(found: Ratio, unit: str) -> Figure:
    return Figure(found.value, found.low, found.high, unit, Basis.MEASURED)


def _quantiles(values: Sequence[NDArray[np.float64]]) -> tuple[tuple[float, float], ...]:
    """Between two values the line between them, as the tool has it."""
    import numpy as np

    found = np.quantile(np.concatenate(list(values)), QUANTILES)
    return tuple(zip(QUANTILES, map(float, found), strict=True))
