"""The JSON form of advice; the keys are stable and described in docs/json.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from weigh.cli.estimates_document import memory_document, setup_document, speed_document, split_document
from weigh.cli.inventory_document import Document, exact, site_document

if TYPE_CHECKING:
    from weigh.advise.buy import Purchases
    from weigh.advise.needs import Need
    from weigh.advise.search import Answer, Recommendation
    from weigh.advise.table import SizeTable
    from weigh.estimate.quality import Quality
    from weigh.estimate.site import Site


def answer_document(site: Site, answer: Answer) -> Document:
    return {
        "machine": site_document(site),
        "need": need_document(answer.need),
        "considered": answer.considered,
        "met": answer.met,
        "recommendations": [recommendation_document(one) for one in answer.ranked],
        "nearest_misses": [recommendation_document(one) for one in answer.misses],
        "why": answer.why,
        "binding": list(answer.binding),
        "trades": list(answer.trades),
    }


def need_document(need: Need) -> Document:
    return {
        "task": need.task.name,
        "context_tokens": need.context_tokens,
        "prompt_tokens": need.prompt_tokens,
        "output_tokens": need.output_tokens,
        "users": need.users,
        "min_decode_tokens_per_s": need.min_decode_tokens_per_s,
        "max_ttft_s": need.max_ttft_s,
        "reserve_bytes": need.reserve_bytes,
    }


def recommendation_document(one: Recommendation) -> Document:
    setup = one.setup
    return {
        "model": one.entry.id,
        "quantization": one.quantization,
        "name": one.name,
        "parameters": {
            "total": exact(setup.parameters, "parameters"),
            "active": exact(setup.active_parameters, "parameters"),
        },
        "fits": one.fits,
        "meets_need": one.meets,
        "memory": memory_document(setup.memory, one.available_bytes),
        "split": split_document(setup.placement, setup.devices, setup.why),
        "speed": speed_document(setup.speed),
        "task_prompt_ttft_s": setup.first_token_s.to_json() if setup.first_token_s else None,
        "quality": quality_document(one.quality),
        "reasons": list(one.reasons),
        "measured_here": list(one.measured_here),
        "moved_by_measurement": one.moved,
    }


def quality_document(judged: Quality) -> Document:
    return {
        "score": judged.score.to_json(),
        "headline": judged.headline,
        "source": judged.source,
        "quantization_loss": judged.loss.to_json(),
        "basis": str(judged.basis),
    }


def purchases_document(found: Purchases) -> Document:
    return {
        "model": found.spec.name,
        "quantization": found.spec.quantization,
        "min_decode_tokens_per_s": found.min_decode_tokens_per_s,
        "max_ttft_s": found.max_ttft_s,
        "considered": found.considered,
        "met": found.met,
        "options": [{"kind": o.kind} | setup_document(o.setup, None) for o in found.options],
        "nearest": setup_document(found.nearest.setup, None) if found.nearest else None,
    }


def table_document(found: SizeTable) -> Document:
    return {
        "context_tokens": found.context_tokens,
        "on": found.site.target.name,
        "classes": [asdict(one) for one in found.classes],
        "groups": [asdict(group) for group in found.groups],
        "rules": [asdict(rule) for rule in found.rules],
        "misleading": list(found.misleading),
    }
