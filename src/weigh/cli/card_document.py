"""The JSON form of cards; the keys are stable and described in docs/json.md."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from weigh.cli import runs_document
from weigh.cli.advice_document import need_document, quality_document
from weigh.cli.estimates_document import setup_document
from weigh.cli.inventory_document import Document, exact, site_document
from weigh.cli.runs_document import measurement_document, run_document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from weigh.advise.card import Card, Size
    from weigh.advise.verdict import Verdict
    from weigh.figure import Figure


def cards_document(cards: Sequence[Card], file: Path | None) -> Document:
    return {"cards": [card_document(card) for card in cards], "file": str(file) if file else None}


def card_document(card: Card) -> Document:
    return {
        "model": card.name,
        "quantization": card.quantization or None,
        "identity": _identity(card),
        "machine": site_document(card.site) if card.site else None,
        "sizes": [_size(size) for size in card.sizes],
        "benchmarks": [measurement_document(one) for one in card.benchmarks],
        "trials": [run_document(one) for one in card.trials],
        "quality": {
            "index": {
                one.axis: {
                    "index": one.index.to_json(),
                    "above": one.below,
                    "of_peers": one.peers,
                    "best_peer": one.best and {"model": one.best[0], "index": one.best[1].to_json()},
                }
                for one in card.axes
            },
            "published": [asdict(score) for score in card.scores],
            "measured": [runs_document.quality_document(one) for one in card.results],
        },
        "needs": [_verdict(one) for one in card.verdicts],
    }


def _identity(card: Card) -> Document:
    spec, entry, habits = card.spec, card.entry, card.habits
    return {
        "catalog_id": entry.id if entry else None,
        "by_name_only": card.by_name_only,
        "family": entry.family if entry else None,
        "licence": entry.license or None if entry else None,
        "released": str(entry.release_date) if entry and entry.release_date else None,
        "kind": card.traits.kind if card.traits else None,
        "thinking": card.traits.thinking if card.traits else None,
        "trained_to_fill_middle": card.traits.fim if card.traits else None,
        "has_chat_template": habits.chats if habits else None,
        "has_fill_middle_tokens": habits.fills_middle if habits else None,
        "architecture": spec.architecture if spec else None,
        "parameters": {
            "total": exact(spec.parameters, "parameters"),
            "active": exact(spec.active_parameters, "parameters"),
        }
        if spec
        else None,
        "context_tokens": spec.context_train if spec else None,
        "contradictions": list(spec.contradictions) if spec else [],
        "served": asdict(card.served) if card.served else None,
    }


def _size(size: Size) -> Document:
    return setup_document(size.setup, None) | {
        "chosen": size.chosen,
        "bits_per_weight": exact(size.setup.spec.bits_per_weight, "bits"),
        "file_bytes": exact(size.file_bytes, "bytes"),
        "quantization_loss": size.loss.to_json() if size.loss else None,
    }


def _verdict(one: Verdict) -> Document:
    return {
        "need": need_document(one.need),
        "verdict": str(one.grade),
        "answers": str(one.answers),
        "may_be": str(one.may_be) if one.may_be else None,
        "reason": one.reason,
        "basis": str(one.basis) if one.basis else None,
        "index": quality_document(one.quality) if one.quality else None,
        "bars": {"fair": one.bars.fair, "good": one.bars.good},
        "passed": [
            {"tasks_of": passed.group, "tasks": passed.tasks, "pass@1": _known(passed.share)}
            for passed in one.passed
        ],
        "in_its_way": [asdict(missed) for missed in one.shortfalls],
        "held_back_here": one.held_back_here,
        "request_s": one.request_s.to_json() if one.request_s else None,
    }


def _known(figure: Figure) -> Document:
    """An end of an interval that is not known is null."""
    document: Document = {**figure.to_json()}
    for end in ("low", "high"):
        if not math.isfinite(document[end]):
            document[end] = None
    return document
