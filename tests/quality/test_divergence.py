"""How far one model lies from another, as llama-perplexity has it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.quality.scoring import ENGLISH, opened, synthetic, texts
from weigh.model.ggml_types import GgmlType
from weigh.quality.divergence import compared, divergence
from weigh.quality.scorer import Comparison
from weigh.quality.text import llama_windows


def window(reference: list[float], candidate: list[float], kl: list[float], same: list[bool]) -> Comparison:
    """Of probabilities of the right token."""
    return Comparison(np.log(reference), np.log(candidate), np.array(kl), np.array(same))


def test_figures_are_those_of_all_tokens() -> None:
    found = divergence(
        [
            window([0.5, 0.5], [0.4, 0.6], [0.1, 0.2], [True, False]),
            window([0.8, 0.2], [0.7, 0.2], [0.3, 0.0], [True, True]),
        ]
    )
    assert found.kl.value == pytest.approx(0.15)
    assert dict(found.kl_quantiles)[0.5] == pytest.approx(0.15)
    assert dict(found.kl_quantiles)[1.0] == pytest.approx(0.3)
    assert found.same_top.value == 0.75
    assert found.delta_p_mean.value == pytest.approx((-0.1 + 0.1 - 0.1) / 4)
    assert found.delta_p_rms.value == pytest.approx(math.sqrt(0.03 / 4))
    assert found.reference_perplexity == pytest.approx((0.5 * 0.5 * 0.8 * 0.2) ** -0.25)
    assert found.perplexity == pytest.approx((0.4 * 0.6 * 0.7 * 0.2) ** -0.25)
    assert found.log_perplexity_ratio.value == pytest.approx(
        math.log(found.perplexity / found.reference_perplexity)
    )
    assert (found.tokens, found.windows) == (4, 2)
    # windows of mean 0.15 both: they agree, so the interval is narrow, whatever their tokens do
    assert (found.kl.low, found.kl.high) == pytest.approx((0.15, 0.15))
    # tops: 1 and 2 of 2; mean 0.75, standard error 0.25, t of one degree of freedom 3.078, cut at one
    assert (found.same_top.low, found.same_top.high) == (0.0, 1.0)


def test_one_window_says_nothing_of_its_spread() -> None:
    found = divergence([window([0.5], [0.5], [0.0], [True])])
    assert (found.kl.low, found.kl.high) == (0, math.inf)


def test_a_real_pair_diverges_as_llama_perplexity_says(tmp_path: Path) -> None:
    """`llama-perplexity --kl-divergence` of build 11669 (Debian), run on these very files and this text."""
    reference, candidate = synthetic(tmp_path / "f16.gguf"), synthetic(tmp_path / "q8.gguf", GgmlType.Q8_0)
    with opened(candidate, reference) as scorer:
        found = divergence([compared(scorer, window) for window in llama_windows(scorer, texts(ENGLISH))])
    assert found.reference_perplexity == pytest.approx(1194.980920, rel=5e-3)
    assert found.perplexity == pytest.approx(1109.908327, rel=5e-3)
    assert found.kl.value == pytest.approx(0.127157, rel=5e-3)
    assert dict(found.kl_quantiles)[0.5] == pytest.approx(0.127057, rel=5e-3)
    assert dict(found.kl_quantiles)[0.99] == pytest.approx(0.134627, rel=5e-3)
    assert found.same_top.value == pytest.approx(0.10261, rel=5e-3)
    assert found.delta_p_rms.value == pytest.approx(0.00049, abs=1e-5)
    assert found.log_perplexity_ratio.value == pytest.approx(-0.073853, rel=5e-3)
    assert (found.windows, found.tokens) == (6, 6 * 255)
