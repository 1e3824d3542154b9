"""What is gained by finding a prompt's beginning in the cache, and what keeping prompts costs in RAM."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.estimate.kv_cache import cell_bytes, cells
from weigh.estimate.setup import SetupEstimate
from weigh.figure import Figure
from weigh.model.spec import MixerKind, ModelSpec
from weigh.units import MIB

CACHE_RAM_BYTES = 8192 * MIB  # llama-server's --cache-ram, in its own words 8192 MiB


@dataclass(frozen=True, slots=True)
class PromptCache:
    """A prompt of which the first `cached_tokens` are found in the cache.

    Attributes:
        ttft_s: until the first token: the rest is prefilled behind the cached ones; None where no speed is known.
        uncached_ttft_s: of the same prompt with nothing cached.
        kept_bytes: RAM that llama-server's prompt cache takes for one such prompt, beside the context's own.
        kept_prompts: of that length that its limit (`--cache-ram`, 8 GiB) holds.
    """

    prompt_tokens: int
    cached_tokens: int
    ttft_s: Figure | None
    uncached_ttft_s: Figure | None
    kept_bytes: int
    kept_prompts: int


def prompt_cache(setup: SetupEstimate, cached_tokens: int) -> PromptCache:
    """The workload's prompt with so many of its tokens cached.

    The engine computes at least the last token of a prompt again (llama.cpp, server-context.cpp). Models with
    recurrent layers, or a sliding window that has moved on, go back to their last checkpoint, so that more may
    be computed again than is said here.

    Raises:
        BadInput: the prompt is not longer than what is cached of it.
    """
    load = setup.workload
    if cached_tokens >= load.prompt_tokens:
        raise BadInput(
            f"{cached_tokens:,} cached tokens leave nothing of a prompt of {load.prompt_tokens:,}",
            hint="the last token of a prompt is always computed: name a longer prompt",
        )
    rest = replace(
        load,
        prompt_tokens=load.prompt_tokens - cached_tokens,
        depth_tokens=load.depth_tokens + cached_tokens,
    )
    found = setup.at(rest)
    size = kept_bytes(setup.spec, setup.settings, load.depth_tokens + load.prompt_tokens)
    return PromptCache(
        prompt_tokens=load.prompt_tokens,
        cached_tokens=cached_tokens,
        ttft_s=found.ttft_s if found else None,
        uncached_ttft_s=setup.speed.ttft_s if setup.speed else None,
        kept_bytes=size,
        kept_prompts=CACHE_RAM_BYTES // size if size else 0,
    )


def kept_bytes(spec: ModelSpec, settings: Settings, tokens: int) -> int:
    """Bytes of the state of one sequence of so many tokens: keys and values of what it holds, and states.

    Source: llama-kv-cache.cpp `state_write_data`, row by row of the cells in use; a sliding layer has no more
    cells than its cache.
    """
    total = 0
    for mixer in spec.mixers:
        held = tokens
        if mixer.kind is MixerKind.SLIDING:
            held = min(tokens, cells(settings, mixer.window).sliding)
        per_layer = 4 * mixer.state_elements
        if mixer.kind is not MixerKind.RECURRENT:
            per_layer += held * cell_bytes(mixer, settings.kv_type_k, settings.kv_type_v)
        if mixer.pooled_every:
            per_layer += tokens // mixer.pooled_every * settings.kv_type_k.row_bytes(mixer.pooled_dim)
        total += per_layer * len(mixer.layers)
    return total
