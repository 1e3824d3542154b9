"""Below a setup: drafts, a cached prompt, formats of the KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, interval, show
from weigh.cli.screens.facts import facts, held

if TYPE_CHECKING:
    from weigh.estimate.extras import Extras
    from weigh.estimate.kv_types import KvChoice
    from weigh.estimate.prompt_cache import PromptCache
    from weigh.estimate.speculative import SpeculativeEstimate


def show_extras(found: Extras) -> None:
    if found.kv is not None:
        show()
        facts([("KV quantization", _saving(found.kv))])
    if found.prompt is not None:
        show()
        facts(_prompt_facts(found.prompt))
    if found.compared:
        show()
        _show_compared(found.compared)
    if found.drafts is not None:
        show()
        _show_drafts(found.drafts)


def _saving(one: KvChoice) -> str:
    said = f"{one.kv_type.name} saves {units.gib(one.saved_bytes)} of cache against F16"
    gained = f", and {one.gained_tokens:,} tokens more fit" if one.gained_tokens > 0 else ""
    return said + gained


def _prompt_facts(found: PromptCache) -> list[tuple[str, str]]:
    cached = f"{found.cached_tokens:,} of {found.prompt_tokens:,} tokens"
    before = f", {interval(found.uncached_ttft_s)} with nothing cached" if found.uncached_ttft_s else ""
    each = f"{units.gib(found.kept_bytes)} of RAM for each such prompt"
    return [
        ("Cached prompt", f"{cached}: first token after {interval(found.ttft_s)}{before}"),
        ("Kept prompts", f"{each}; llama-server's 8 GiB (--cache-ram) hold {found.kept_prompts:,}"),
    ]


def _show_compared(found: tuple[KvChoice, ...]) -> None:
    from weigh.estimate.kv_types import told_apart

    depth = found[0].depth_tokens
    columns = ("KV cache", "bytes", "saved", "largest context", "decode tok/s", "first token")
    table = Grid(columns, right=columns[1:], note=f"speeds behind {depth:,} tokens")
    for one in found:
        context = one.setup.max_context_tokens
        table.add(
            one.kv_type.name,
            units.gib(one.setup.memory.kv_cache_bytes),
            units.gib(one.saved_bytes) if one.saved_bytes else "",
            f"{context:,}" if context else "none",
            interval(one.decode_tokens_per_s) if one.setup.fits else "does not fit",
            interval(one.ttft_s) if one.setup.fits else "",
        )
    show(table)
    if any(one.decode_tokens_per_s for one in found) and not told_apart(found):
        facts(
            [("Note", "this machine was calibrated with an F16 cache: speeds of others are taken as equal")]
        )


def _show_drafts(found: SpeculativeEstimate) -> None:
    drafter = {
        "draft-mtp": "by its own further-token layer",
        "ngram-simple": "by looking up n-grams",
    }.get(str(found.method))
    if drafter is None and found.draft is not None:
        drafter = f"by {found.draft.spec.name} at {found.draft.spec.quantization}"
    verdict = "fits" if found.fits else "does not fit"
    show(
        Bold(f"Drafted {drafter}"),
        f": {verdict}, {held(found.devices)}; the draft adds {units.gib(found.draft_bytes)}",
    )
    if found.fits and found.rounds:
        columns = ("accepted", "drafts", "tokens a round", "drafting", "checking", "decode tok/s", "speedup")
        table = Grid(columns, right=columns[:-1])
        for one in found.rounds:
            table.add(
                f"{one.acceptance:.0%}",
                str(one.draft_tokens),
                f"{one.tokens.value:.2f}",
                _short(one.draft_s.value),
                _short(one.verify_s.value),
                interval(one.decode_tokens_per_s),
                f"{one.speedup.value:.2f} ({one.speedup.low:.2f}–{one.speedup.high:.2f})",
            )
        show(table)
        if len(found.rounds) > 1:
            show("acceptance depends on text and models: measure it, then say --acceptance")
    facts([("Arguments", " ".join(found.arguments)), *(("Note", note) for note in found.notes)])


def _short(value_s: float) -> str:
    """Steps take a few ms, of which tenths matter."""
    return f"{1000 * value_s:.1f} ms" if value_s < 1 else units.seconds(value_s)
