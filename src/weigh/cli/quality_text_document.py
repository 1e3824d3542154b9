"""The JSON form of models measured on a text; the keys are stable and described in docs/json.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.quality.clustered import Ratio
    from weigh.quality.text_models import Diverged, DivergenceRun, PerplexityRun
    from weigh.quality.text_run import Candidate, Pair, TextRun

Document = dict[str, Any]


def text_document(found: TextRun) -> Document:
    return {
        "text": {
            "files": found.texts.files,
            "text_bytes": found.texts.bytes,
            "skipped": found.texts.skipped,
        },
        "models": [_candidate(one) for one in found.candidates],
        "pairs": [_pair(pair, found) for pair in found.pairs],
        "ended": str(found.ended),
    }


def _candidate(one: Candidate) -> Document:
    made = one.quality
    known = made and {
        "bits_per_byte": _figure(made.bits_per_byte),
        "perplexity": _figure(made.perplexity),
        "likeliest_share": made.top_share,
        "tokens": made.tokens,
        "text_bytes": made.text_bytes,
        "files": made.files,
        "altered_files": made.altered_files,
        "interval_of": "files" if made.by_file else "pieces of files",
    }
    each = [
        {"path": score.name, "bits": score.bits, "text_bytes": score.text_bytes, "tokens": score.tokens}
        for score in one.scores
    ]
    return {"model": one.name, **(known or {}), "texts": each}


def _pair(pair: Pair, found: TextRun) -> Document:
    names = [found.candidates[pair.first].name, found.candidates[pair.second].name]
    better = pair.difference.better
    return {
        "models": names,
        "bits_per_byte_difference": _ratio(pair.difference.shown),
        "sure_at_95": _ratio(pair.difference.stated),
        "holds_at_any_time": pair.difference.any_time,
        "better": None if better is None else names[better],
        "text_bytes": pair.difference.text_bytes,
    }


def perplexity_document(found: PerplexityRun) -> Document:
    return {
        "text_bytes": found.text_bytes,
        "models": [
            {
                "model": one.name,
                "perplexity": _figure(one.perplexity),
                "windows": one.windows,
                "windows_planned": one.planned,
            }
            for one in found.perplexed
        ],
        "ended": str(found.ended),
    }


def divergence_document(found: DivergenceRun) -> Document:
    return {
        "reference": found.reference,
        "text_bytes": found.text_bytes,
        "models": [diverged_document(one) for one in found.diverged],
        "ended": str(found.ended),
    }


def diverged_document(one: Diverged) -> Document:
    made = one.found
    return {
        "model": one.name,
        "kl": _figure(made.kl),
        "kl_quantiles": {f"{share:g}": nats for share, nats in made.kl_quantiles},
        "same_top": _figure(made.same_top),
        "delta_p_mean": _figure(made.delta_p_mean),
        "delta_p_rms": _figure(made.delta_p_rms),
        "delta_p_quantiles": {f"{share:g}": moved for share, moved in made.delta_p_quantiles},
        "log_perplexity_ratio": _figure(made.log_perplexity_ratio),
        "reference_perplexity": made.reference_perplexity,
        "perplexity": made.perplexity,
        "tokens": made.tokens,
        "windows": made.windows,
        "windows_planned": one.planned,
    }


def _figure(figure: Figure) -> Document:
    """JSON has no infinity: an end that is not known is null."""
    return {key: None if value in (math.inf, -math.inf) else value for key, value in figure.to_json().items()}


def _ratio(found: Ratio) -> Document:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {
        **{key: end if math.isfinite(end) else None for key, end in ends.items()},
        "clusters": found.clusters,
    }
