"""vLLM's KV cache: which layers share a table of blocks, and how many tokens the blocks have room for.

vLLM cuts the memory that is left into blocks. A block holds some tokens of every layer of one *group*; all
groups draw their blocks from one pool, so that blocks of all groups have one size. Models of one kind of
layer have one group. Models that mix kinds (Gemma 3, gpt-oss, Qwen3-Next) are split so that every group has
as many layers as the rarest kind: Gemma 3 with 5 windows for every full layer becomes 6 groups. A request then
takes blocks of every group: all its tokens for full layers, about a window for sliding ones, a state or two for
recurrent ones, whose state is padded to the bytes of an attention block, or that block is made long enough.

Source: vllm 0.32.0, v1/core/kv_cache_utils.py (`get_kv_cache_groups`, `unify_kv_cache_spec_page_size`,
`get_kv_cache_capacity`), v1/kv_cache_interface.py (`max_memory_usage_bytes`), platforms/interface.py
(`_align_hybrid_block_size`), model_executor/layers/mamba/mamba_utils.py (Apache-2.0). Left out: layouts that
pack unequal pages side by side (DeepSeek V4), context parallelism, speculative decoding, Mamba's replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from weigh.estimate.vllm_weights import Ranks
from weigh.model.mixers import largest_count
from weigh.model.spec import Mixer, MixerKind, ModelSpec

MLA_BLOCK_STEP = 128  # hybrid models with MLA: blocks are a multiple of it
INDEXER_TOKEN_BYTES = 132  # DeepSeek sparse attention: 128 FP8 values and a float32 scale a token
# States kept in float32 by these architectures' own configs (`mamba_ssm_dtype` and its like).
_FLOAT32_STATES = frozenset({"nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe", "kimi-linear"})
# With prefix caching a request keeps its state and the one before; Mamba 2 a third, saved amid a prefill.
_MAMBA_2 = frozenset({"granitehybrid", "falcon-h1", "mamba2", "nemotron_h", "nemotron_h_moe"})


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What decides the sizes of blocks and what a request takes of them.

    Attributes:
        block_tokens: `--block-size` of attention layers, before a recurrent state makes it longer.
        element_bytes: of keys and values: 2, or 1 with an FP8 cache.
        model_bytes: of the model's own format, in which convolutions keep their inputs.
        state_bytes: of an SSM's state where the architecture does not say; None: the model's format.
        in_flight_tokens: tokens scheduled but not settled: the batch, twice that with async scheduling.
        prefix_caching: recurrent layers then keep two or three states a request instead of one.
    """

    block_tokens: int = 16
    element_bytes: int = 2
    model_bytes: int = 2
    state_bytes: int | None = None
    in_flight_tokens: int = 2048
    prefix_caching: bool = True


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One layer's part of a block (vLLM's `KVCacheSpec`).

    Attributes:
        shape: what has to be equal for layers to share a group: heads and head sizes.
        page_bytes: of a block, padding included.
        states: blocks a RECURRENT layer takes for a request, however long it is.
    """

    kind: MixerKind
    shape: tuple[int, ...]
    block_tokens: int
    page_bytes: int
    window: int = 0
    states: int = 0

    def blocks(self, max_model_len: int, settings: CacheSettings) -> int:
        """Blocks that one request of `max_model_len` tokens may hold."""
        if self.kind is MixerKind.RECURRENT:
            return self.states
        tokens = max_model_len
        if self.kind is MixerKind.SLIDING:
            # one more, since a window need not begin where a block does
            tokens = min(self.window - 1 + settings.in_flight_tokens, max_model_len)
            return -(-tokens // self.block_tokens) + 1
        return -(-tokens // self.block_tokens)


Layers = Sequence[tuple[int, CacheLayer]]


@dataclass(frozen=True, slots=True)
class Cache:
    """The groups of a model on one rank, and its pipeline stages.

    Attributes:
        groups: per group the layers in it, with their index in the model.
    """

    groups: tuple[Layers, ...]
    stages: tuple[range, ...]
    settings: CacheSettings

    def block_bytes(self, stage: range) -> int:
        """Bytes of one block of the pool on a rank of this stage: those of the largest group."""
        return max(
            (sum(layer.page_bytes for i, layer in group if i in stage) for group in self.groups), default=0
        )

    def blocks(self, available_bytes: Sequence[int]) -> int:
        """Blocks every stage has memory for; 0 when there is nothing to cache or no room."""
        sizes = [self.block_bytes(stage) for stage in self.stages]
        pairs = zip(available_bytes, sizes, strict=True)
        return max(0, min((room // size for room, size in pairs if size), default=0))

    def request_blocks(self, max_model_len: int) -> int:
        """Blocks of all groups that one request of the full context takes."""
        return sum(
            max(layer.blocks(max_model_len, self.settings) for _, layer in group) for group in self.groups
        )

    def request_bytes(self, max_model_len: int) -> int:
        """The same in bytes, on the stage where it is most."""
        largest = max((self.block_bytes(stage) for stage in self.stages), default=0)
        return self.request_blocks(max_model_len) * largest

    def concurrency(self, blocks: int, max_model_len: int) -> float:
        """Requests of the full context at once, as in vLLM's log."""
        return blocks / self.request_blocks(max_model_len) if self.groups else 0.0

    def starts(self, blocks: int, max_model_len: int) -> bool:
        """Whether vLLM starts: one block is held back for good, the rest must take one request."""
        return self.request_blocks(max_model_len) <= blocks - 1

    def max_context_tokens(self, blocks: int, most: int) -> int:
        """Largest `--max-model-len` it starts with, up to `most`; 0 when not even one token fits."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.starts(blocks, middle) else (low, middle - 1)
        return low


def cache(spec: ModelSpec, ranks: Ranks, settings: CacheSettings) -> Cache:
    """The KV cache of `spec` on one rank."""
    settings = replace(settings, block_tokens=_attention_block_tokens(spec, ranks, settings))
    layers = [
        (i, layer)
        for mixer in spec.mixers
        for layer in _layers(spec, mixer, ranks, settings)
        for i in mixer.layers
    ]
    return Cache(_groups(sorted(layers, key=lambda pair: pair[0])), ranks.stages(spec.layers), settings)


# --- layers ------------------------------------------------------------------------------------------


def _layers(spec: ModelSpec, mixer: Mixer, ranks: Ranks, settings: CacheSettings) -> list[CacheLayer]:
    """What each layer of `mixer` caches: nothing, one thing, or attention beside a state (Falcon H1)."""
    found = []
    if mixer.kv_heads:
        found.append(_attention(spec, mixer, ranks, settings))
        if indexer := largest_count(spec.hyper, "attention.indexer.key_length"):
            page = settings.block_tokens * INDEXER_TOKEN_BYTES
            found.append(CacheLayer(MixerKind.FULL, (indexer,), settings.block_tokens, page))
    if mixer.state_elements:
        found.append(_recurrent(spec, ranks, settings))
    return found


def _attention(spec: ModelSpec, mixer: Mixer, ranks: Ranks, settings: CacheSettings) -> CacheLayer:
    kind, window = mixer.kind, mixer.window
    if spec.architecture == "llama4":
        kind, window = MixerKind.FULL, 0  # chunks are allocated in full: the hybrid manager is off for them
    heads, width = _rank_heads(mixer, ranks), _token_width(spec, mixer)
    page = settings.block_tokens * heads * width * settings.element_bytes
    shape = (heads, mixer.key_dim, mixer.value_dim)
    return CacheLayer(kind, shape, settings.block_tokens, page, window)


def _rank_heads(mixer: Mixer, ranks: Ranks) -> int:
    """Key-value heads of a rank; a latent, or fewer heads than ranks, is copied to every one."""
    return 1 if mixer.kind is MixerKind.LATENT else max(1, mixer.kv_heads // ranks.tensor_parallel)


def _token_width(spec: ModelSpec, mixer: Mixer) -> int:
    """Values a token and head take; llama.cpp's latent may hold an indexer's keys, which are apart here."""
    if mixer.kind is MixerKind.LATENT:
        return mixer.key_dim - largest_count(spec.hyper, "attention.indexer.key_length")
    return mixer.key_dim + mixer.value_dim


def _recurrent(spec: ModelSpec, ranks: Ranks, settings: CacheSettings) -> CacheLayer:
    page = _state_bytes(spec, ranks, settings)
    hybrid = any(mixer.kv_heads for mixer in spec.mixers)
    if hybrid:
        page = max(page, settings.block_tokens * _attention_token_bytes(spec, ranks, settings))
    states = 1
    if hybrid and settings.prefix_caching:  # without attention prefixes are not cached
        states = 3 if spec.architecture in _MAMBA_2 else 2
    return CacheLayer(MixerKind.RECURRENT, (), settings.block_tokens, page, states=states)


def _state_bytes(spec: ModelSpec, ranks: Ranks, settings: CacheSettings) -> int:
    """Bytes of one layer's state on a rank: the convolution's last inputs and the state proper."""

    def count(key: str) -> int:
        return largest_count(spec.hyper, key)

    tp, conv_bytes = ranks.tensor_parallel, settings.model_bytes
    if cached := count("shortconv.l_cache"):
        return (cached - 1) * count("embedding_length") // tp * conv_bytes
    inner, state, groups = count("ssm.inner_size"), count("ssm.state_size"), count("ssm.group_count")
    if not inner:  # linear attention of other kinds: a float32 matrix a head
        return 4 * max(mixer.state_elements for mixer in spec.mixers) // tp
    if groups % tp and spec.architecture not in ("qwen3next", "qwen35", "qwen35moe"):
        groups = tp  # a head's group is copied to the rank that has the head
    convolution = (count("ssm.conv_kernel") - 1) * (inner + 2 * groups * state) // tp
    exact = spec.architecture in _FLOAT32_STATES
    proper = 4 if exact else settings.state_bytes or settings.model_bytes
    return convolution * conv_bytes + inner * state // tp * proper


def _attention_token_bytes(spec: ModelSpec, ranks: Ranks, settings: CacheSettings) -> int:
    """Bytes a token takes in a full-attention layer, 0 without any."""
    mixer = next((m for m in spec.mixers if m.kv_heads and m.kind is not MixerKind.SLIDING), None)
    if mixer is None:
        return 0
    return _rank_heads(mixer, ranks) * _token_width(spec, mixer) * settings.element_bytes


def _attention_block_tokens(spec: ModelSpec, ranks: Ranks, settings: CacheSettings) -> int:
    """Tokens of an attention block: in a hybrid model at least as many bytes as a state."""
    token_bytes = _attention_token_bytes(spec, ranks, settings)
    if not token_bytes or not any(mixer.state_elements for mixer in spec.mixers):
        return settings.block_tokens
    step = settings.block_tokens
    if any(mixer.kind is MixerKind.LATENT for mixer in spec.mixers):
        step = max(step, MLA_BLOCK_STEP)
    return max(step, step * -(-_state_bytes(spec, ranks, settings) // (step * token_bytes)))


# --- groups ------------------------------------------------------------------------------------------


def _groups(layers: Layers) -> tuple[Layers, ...]:
    if not layers:
        return ()
    if _all_grow_alike([layer for _, layer in layers]):
        return (layers,)
    return tuple(_of_equal_size(_alike(_of_one_page(layers))))


def _all_grow_alike(layers: Iterable[CacheLayer]) -> bool:
    """Whether all need the same number of blocks: then one group has them, whatever their pages."""
    kinds = {
        (MixerKind.FULL if layer.kind is MixerKind.LATENT else layer.kind, layer.window, layer.block_tokens)
        for layer in layers
    }
    return len(kinds) == 1


def _of_one_page(layers: Layers) -> Layers:
    """Pages made equal: by more tokens a block where that divides evenly, else by padding."""
    largest = max(layer.page_bytes for _, layer in layers)
    return [(i, _stretched(layer, largest)) for i, layer in layers]


def _stretched(layer: CacheLayer, page_bytes: int) -> CacheLayer:
    times, rest = divmod(page_bytes, layer.page_bytes)
    longer = 1 if rest or layer.kind is MixerKind.RECURRENT else times
    return replace(layer, page_bytes=page_bytes, block_tokens=layer.block_tokens * longer)


def _alike(layers: Layers) -> list[Layers]:
    buckets: dict[CacheLayer, list[tuple[int, CacheLayer]]] = {}
    for i, layer in layers:
        buckets.setdefault(layer, []).append((i, layer))
    return list(buckets.values())


def _of_equal_size(buckets: list[Layers]) -> Iterable[Layers]:
    """Every kind split into groups of as many layers as the rarest has; all in one each when nearly equal."""
    counts = [len(bucket) for bucket in buckets]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    for bucket in buckets:
        parts = -(-len(bucket) // size)
        yield from (bucket[part::parts] for part in range(parts))
