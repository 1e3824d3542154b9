"""What else can be asked of one setup: drafts, a prompt found in the cache, other formats of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from weigh.estimate.kv_types import KvChoice, kv_choice, kv_choices
from weigh.estimate.prompt_cache import PromptCache, prompt_cache
from weigh.estimate.setup import SetupEstimate
from weigh.estimate.speculative import Method, SpeculativeEstimate, speculative
from weigh.model.ggml_types import GgmlType

NGRAM, MTP = "ngram", "mtp"  # who drafts, when it is no other model


@dataclass(frozen=True, slots=True)
class Extras:
    """Answers to what was asked; None and () for what was not.

    Attributes:
        kv: the setup's own format against F16; None for F16.
        compared: formats side by side.
    """

    drafts: SpeculativeEstimate | None = None
    prompt: PromptCache | None = None
    kv: KvChoice | None = None
    compared: tuple[KvChoice, ...] = ()


def extras(
    setup: SetupEstimate,
    *,
    drafter: str | None = None,
    acceptance: float | None = None,
    draft_tokens: int | None = None,
    cached_prompt: int | None = None,
    compare_kv: bool = False,
    reserve_bytes: int | None = None,
) -> Extras:
    """All of it, for the setup's own model, site, settings and workload.

    Args:
        drafter: a model as people name it, `ngram` or `mtp`.
        cached_prompt: tokens of the workload's prompt that are found in the cache.

    Raises:
        BadInput: as `speculative` and `prompt_cache` do, or the draft model is not known.
    """
    spec, site, settings, load = setup.spec, setup.site, setup.settings, setup.workload
    drafts = None
    if drafter is not None:
        method = {NGRAM: Method.NGRAM, MTP: Method.MTP}.get(drafter.lower(), Method.MODEL)
        draft = None
        if method is Method.MODEL:
            from weigh.model.resolve import resolve

            draft = resolve(drafter)
        drafts = speculative(
            spec,
            site,
            settings,
            load,
            method,
            draft=draft,
            acceptance=acceptance,
            draft_tokens=draft_tokens,
            reserve_bytes=reserve_bytes,
        )
    quantized = settings.kv_type_k is not GgmlType.F16
    return Extras(
        drafts=drafts,
        prompt=prompt_cache(setup, cached_prompt) if cached_prompt is not None else None,
        kv=kv_choice(setup, reserve_bytes) if quantized else None,
        compared=kv_choices(spec, site, settings, load, reserve_bytes=reserve_bytes) if compare_kv else (),
    )
