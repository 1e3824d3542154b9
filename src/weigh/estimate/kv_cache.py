"""What llama.cpp keeps per token and per sequence, in bytes.

Layers differ: a full-attention layer holds every token, a sliding one holds about its window, a latent one
(MLA) holds one compressed vector instead of keys and values, a recurrent one holds a state of fixed size.
"""

from __future__ import annotations

from typing import NamedTuple

from weigh.engines.engine import Settings
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import Mixer, MixerKind

CELL_STEP = 256  # llama-context.cpp pads n_ctx_seq, llama-kv-cache-iswa.cpp the sliding cache, to this


class Cells(NamedTuple):
    """Tokens one sequence has room for in a layer of each kind."""

    full: int
    sliding: int


def cells(settings: Settings, window: int) -> Cells:
    """Room per sequence after the engine's padding.

    Each sequence has a cache of its own (`kv_unified` off). A sliding layer needs its window and the
    micro-batch being added, never more than the context.

    Source: llama-context.cpp, constructor (n_ctx_seq); llama-kv-cache-iswa.cpp, constructor (size_swa).
    """
    full = full_cells(settings)
    return Cells(full, _padded(min(full, window + ubatch_tokens(settings))))


def full_cells(settings: Settings) -> int:
    """Of these, the room in a layer that looks back at everything."""
    return _padded(settings.context_tokens)


def ubatch_tokens(settings: Settings) -> int:
    """Tokens of one micro-batch: no more than the batch, and no more than all contexts together hold.

    Source: llama-context.cpp, constructor (n_batch, n_ubatch).
    """
    return min(settings.ubatch_tokens, settings.batch_tokens, settings.context_tokens * settings.parallel)


def kv_cache_bytes(mixers: tuple[Mixer, ...], settings: Settings) -> int:
    """Bytes of keys, values, latents and states of all sequences, as allocated from the start.

    Per attention layer and cell: kv_heads x key_dim values of one type and kv_heads x value_dim of the
    other. Latent layers cache the key alone, which contains the value. States are F32, one per sequence.

    An indexer's keys (DeepSeek V3.2, GLM 5) are in the latent layers' `key_dim`. DeepSeek V4's layers hold
    keys alone, of a window, and pooled ones of all tokens.

    Source: llama-kv-cache.cpp, llama-kv-cache-dsa.cpp, llama-kv-cache-dsv4.cpp and
    llama-memory-recurrent.cpp, constructors. Ignored: the rounding of each tensor to 32 bytes (at most
    64 bytes a layer).
    """
    return sum(mixer_bytes(mixer, settings) for mixer in mixers)


def mixer_bytes(mixer: Mixer, settings: Settings) -> int:
    """Bytes of the cache or the states of the layers of `mixer`, all sequences together."""
    states = 4 * mixer.state_elements
    held = 0
    if mixer.kind is not MixerKind.RECURRENT:
        full = full_cells(settings)
        held = cell_bytes(mixer, settings.kv_type_k, settings.kv_type_v)
        held *= cells(settings, mixer.window).sliding if mixer.kind is MixerKind.SLIDING else full
        held += _pooled_bytes(mixer, settings.kv_type_k, full)
    return (held + states) * len(mixer.layers) * settings.parallel


def cell_bytes(mixer: Mixer, type_k: GgmlType, type_v: GgmlType) -> int:
    """Bytes one token takes in one layer."""
    key = type_k.row_bytes(mixer.kv_heads * mixer.key_dim)
    if mixer.kind is MixerKind.LATENT:
        return key
    return key + type_v.row_bytes(mixer.kv_heads * mixer.value_dim)


def _pooled_bytes(mixer: Mixer, type_k: GgmlType, tokens: int) -> int:
    """Bytes of the pooled keys of one layer and sequence."""
    if not mixer.pooled_every:
        return 0
    return _padded(-(-tokens // mixer.pooled_every)) * type_k.row_bytes(mixer.pooled_dim)


def _padded(tokens: int) -> int:
    return -(-tokens // CELL_STEP) * CELL_STEP
