"""The JSON form of models measured on a repository; the keys are stable and described in docs/json.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.quality.code_answers import ModelOnCode, Pair
    from weigh.quality.own_code import OwnCode
    from weigh.quality.repository import HeldOut

Document = dict[str, Any]


def repo_document(found: OwnCode) -> Document:
    return {
        "repository": _chosen(found.chosen),
        "models": [_model(model) for model in found.models],
        "ranking": [found.models[number].name for number in found.ranking],
        "pairs": [_pair(pair, found) for pair in found.pairs],
        "seed": found.seed,
        "took_s": found.took_s,
        "ended": str(found.ended),
    }


def _chosen(chosen: HeldOut) -> Document:
    return {
        "commit": chosen.commit or None,
        "without_git": chosen.because or None,
        "languages": chosen.languages,
        "left_out": {str(why): count for why, count in chosen.left_out.items()},
        "files": [{"path": file.path, "written_unix_s": file.written_unix_s} for file in chosen.files],
    }


def _model(model: ModelOnCode) -> Document:
    return {
        "model": model.name,
        **{str(quantity): _figure(figure) for quantity, figure in model.figures.items()},
        "files": model.files,
        "lines": model.lines,
        "text_bytes": model.text_bytes,
        "answers": [
            {
                "path": answer.excerpt.path,
                "line": answer.excerpt.position and answer.excerpt.position.number,
                "bits": answer.bits,
                "text_bytes": answer.text_bytes,
                "next_line_exact": answer.next_line and answer.next_line.exact,
                "next_line_similarity": answer.next_line and answer.next_line.similarity,
                "middle_exact": answer.middle and answer.middle.exact,
                "middle_similarity": answer.middle and answer.middle.similarity,
            }
            for answer in model.answers
        ],
    }


def _pair(pair: Pair, found: OwnCode) -> Document:
    return {
        "models": [found.models[pair.first].name, found.models[pair.second].name],
        "quantity": str(pair.quantity),
        "difference": _figure(pair.difference),
        "better": None if pair.better is None else found.models[pair.better].name,
        "files": pair.files,
    }


def _figure(figure: Figure | None) -> Document | None:
    """JSON has no infinity: an end that is not known is null."""
    if figure is None:
        return None
    said = figure.to_json()
    return {key: None if value in (math.inf, -math.inf) else value for key, value in said.items()}
