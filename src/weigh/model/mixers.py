"""Which layers keep keys and values, a window of them, a latent or a state: from hyperparameters alone.

The file says little of this; the rest is each architecture's own rule, fixed in the engine. The tables
below hold those rules. Source: llama.cpp, `src/models/*.cpp` (`load_arch_hparams`), `src/llama-hparams.cpp`
and `llama_model::create_memory`, read at release 0.3.36 of llama-cpp-python.

Left out: models that run their layers in loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from weigh.errors import BadInput
from weigh.model.spec import TEXT_ENCODERS, HyperValue, Mixer, MixerKind, Scalar

MOST = 1 << 31  # a hyperparameter beyond it is damage, not a model


@dataclass(frozen=True, slots=True)
class _Sliding:
    """Every `period`-th layer sees everything, the others a window; period 0: every layer a window.

    Attributes:
        period: None when only a per-layer array in the file can tell.
        full_first: the full layer opens its period instead of closing it.
        window: what holds without `attention.sliding_window`; None: no window then, all layers full.
        fixed: `window` holds whatever the file says, unless that is 0.
    """

    period: int | None
    full_first: bool = False
    window: int | None = None
    fixed: bool = False


_SLIDING: Mapping[str, _Sliding] = {
    "afmoe": _Sliding(4),
    "cohere2": _Sliding(4),
    "cohere2moe": _Sliding(4, full_first=True),
    "deepseek4": _Sliding(0),
    "dots3note": _Sliding(None),
    "exaone-moe": _Sliding(4, window=128),
    "exaone4": _Sliding(4, window=4096),
    "gemma2": _Sliding(2, window=4096),
    "gemma3": _Sliding(6),
    "gemma3n": _Sliding(5),
    "gemma4": _Sliding(None),
    "gemma-embedding": _Sliding(6),
    "gpt-oss": _Sliding(2),
    "granite_swa": _Sliding(None),
    "laguna": _Sliding(4, full_first=True),
    "lfm2": _Sliding(0),
    "llama4": _Sliding(4, window=8192, fixed=True),
    "maple": _Sliding(None),
    "mellum": _Sliding(4),
    "mimo2": _Sliding(None),
    "modern-bert": _Sliding(3, full_first=True),
    "muse-glimmer": _Sliding(4),
    "olmo2": _Sliding(4),
    "plamo3": _Sliding(8),
    "smallthinker": _Sliding(4, full_first=True, window=4096, fixed=True),
    "spark2_5": _Sliding(None),
    "step35": _Sliding(None),
}

_ALL_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_RECURRENT_WITHOUT_KV_HEADS = frozenset(
    {"jamba", "granitehybrid", "lfm2", "lfm2moe", "plamo2", "kimi-linear", "kimi-k3", "bailingmoe3"}
    | {"glm5-next", "nemotron_h", "nemotron_h_moe"}
)
# Every n-th layer is attention, the others are recurrent, unless the file lists them.
_ATTENTION_INTERVAL: Mapping[str, int] = {
    "qwen3next": 4,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen4exp": 4,
    "minimax-01": 8,
}
_BOTH_IN_EVERY_LAYER = frozenset({"falcon-h1"})
_NO_CACHE = TEXT_ENCODERS | {"dream", "llada", "llada-moe", "rnd1"}  # diffusion models too see a text at once
_OWN_KV_LAYERS: Mapping[str, int] = {"gemma3n": 20}  # later layers read the cache of an earlier one


def mixers(architecture: str, hyper: Mapping[str, HyperValue], layers: int) -> tuple[Mixer, ...]:
    """How each of `layers` layers mixes tokens; together the mixers cover every layer once.

    Two things that `MixerKind` has no word for: a layer that caches nothing itself has `kv_heads` 0 (it
    reads an earlier layer's cache, or has no attention at all), and a layer with attention and a state
    side by side is FULL with `state_elements`.

    Args:
        hyper: GGUF hyperparameters without the architecture's prefix.
        layers: `block_count`, draft layers for multi-token prediction included; those cache nothing.

    Raises:
        BadInput: a value is missing its layers, or is no count.
    """
    model = _Model(architecture, hyper, layers)
    alike: dict[tuple[int, ...], list[int]] = {}
    for layer, kind in enumerate(model.kinds()):
        alike.setdefault(kind, []).append(layer)
    groups: dict[Mixer, list[int]] = {}
    for members in alike.values():
        groups.setdefault(model.mixer(members[0]), []).extend(members)
    return tuple(replace(mixer, layers=tuple(sorted(members))) for mixer, members in groups.items())


class _Model:
    """The hyperparameters that decide, spread over the layers."""

    def __init__(self, architecture: str, hyper: Mapping[str, HyperValue], layers: int) -> None:
        self.architecture, self.hyper, self.layers = architecture, hyper, layers
        drafts = 0 if architecture == "graniteswitch" else self.count("nextn_predict_layers")
        self.trunk = layers - drafts if drafts < layers else layers
        self.heads = self.per_layer("attention.head_count", 0)
        self.kv_heads = self.per_layer("attention.head_count_kv", self.heads)
        self.width = self.per_layer("feed_forward_length", 0)
        self.window, self.sliding = self._sliding()
        self.recurrent = self._recurrent()
        self.indexed = self.per_layer("attention.indexer.types", 1)
        self.own_cache = self._own_cache()
        self.pooled = self.per_layer("attention.compress_ratios", 0)

    def kinds(self) -> Iterator[tuple[int, ...]]:
        """All that tells one layer's mixer from another's; most models have one or two kinds."""
        in_trunk = tuple(layer < self.trunk for layer in range(self.layers))
        return zip(
            in_trunk,
            self.recurrent,
            self.heads,
            self.kv_heads,
            self.sliding,
            self.own_cache,
            self.indexed,
            self.pooled,
            strict=True,
        )

    def mixer(self, layer: int) -> Mixer:
        if layer < self.trunk and self.recurrent[layer]:
            return Mixer(MixerKind.RECURRENT, (), state_elements=self.state_elements())
        if layer >= self.trunk or not self.kv_heads[layer]:
            return Mixer(MixerKind.FULL, ())
        if self.count("attention.key_length_mla") and not self.sliding[layer]:
            return self._latent(layer)
        if self.architecture == "deepseek4":
            return self._windowed_and_pooled(layer)
        return self._attention(layer)

    def _windowed_and_pooled(self, layer: int) -> Mixer:
        """DeepSeek V4: keys alone, which serve as values; those of a window, and pooled ones of all tokens.

        Its compressors keep float32 sums of the tokens they pool: two of each, twice as wide and over twice
        the tokens where windows overlap (every 4). Source: llama-kv-cache-dsv4.cpp, constructor.
        """
        dim, every = self.count("attention.key_length"), self.pooled[layer]
        overlapping = every == 4
        index_dim = self.count("attention.indexer.key_length") if overlapping else 0
        overlap = 2 if overlapping else 1
        return Mixer(
            MixerKind.SLIDING,
            (),
            query_heads=self.heads[layer],
            kv_heads=1,
            key_dim=dim,
            window=self.window,
            state_elements=2 * (overlap * every) * overlap * (dim + index_dim),
            pooled_every=every,
            pooled_dim=dim + index_dim if every else 0,
        )

    def _attention(self, layer: int) -> Mixer:
        sliding = self.sliding[layer]
        return Mixer(
            MixerKind.SLIDING if sliding else MixerKind.FULL,
            (),
            query_heads=self.heads[layer],
            kv_heads=self.kv_heads[layer] if self.own_cache[layer] else 0,
            key_dim=self._head_dim("attention.key_length", sliding),
            value_dim=self._head_dim("attention.value_length", sliding),
            window=self.window if sliding else 0,
            state_elements=self.state_elements() if self.architecture in _BOTH_IN_EVERY_LAYER else 0,
        )

    def _latent(self, layer: int) -> Mixer:
        """llama.cpp caches the latent with its rope part, and an indexer's keys where the layer has one."""
        indexer = self.indexed[layer] > 0
        indexer_dim = self.count("attention.indexer.key_length") if indexer else 0
        return Mixer(
            MixerKind.LATENT,
            (),
            query_heads=self.heads[layer],
            kv_heads=1,
            key_dim=self.count("attention.key_length") + indexer_dim,
            value_dim=self.count("attention.kv_lora_rank"),
        )

    def _own_cache(self) -> tuple[bool, ...]:
        if self.architecture in _NO_CACHE:
            return (False,) * self.layers
        own = _OWN_KV_LAYERS.get(self.architecture, self.layers - self.count("attention.shared_kv_layers"))
        return tuple(layer < own for layer in range(self.layers))

    def _head_dim(self, key: str, sliding: bool) -> int:
        """Width of one head; without a key, the hidden width is shared out among the heads."""
        heads = next((n for n in self.heads if n), 0)
        dim = self.count(key, self.count("embedding_length") // heads if heads else 0)
        return self.count(f"{key}_swa", dim) if sliding else dim

    def _sliding(self) -> tuple[int, tuple[bool, ...]]:
        """The window, and which layers have it."""
        rule = _SLIDING.get(self.architecture)
        full = (False,) * self.layers
        if rule is None or (self.architecture == "exaone4" and self.trunk != 64):
            return 0, full
        window = self.count("attention.sliding_window", rule.window or 0)
        if not window:
            return 0, full
        return rule.window if rule.fixed and rule.window else window, self._windowed_layers(rule)

    def _windowed_layers(self, rule: _Sliding) -> tuple[bool, ...]:
        key = "attention.sliding_window_pattern"
        if isinstance(self.hyper.get(key), tuple):
            return tuple(bool(n) for n in self.per_layer(key, 0))
        if rule.period is None:
            raise BadInput(f"`{key}` has to list the layers of `{self.architecture}`")
        period = self.count(key, rule.period) if rule.period else 0
        full = 0 if rule.full_first else period - 1
        return tuple(period == 0 or layer % period != full for layer in range(self.layers))

    def _recurrent(self) -> tuple[bool, ...]:
        if self.architecture in _ALL_RECURRENT:
            return (True,) * self.layers
        if self.architecture in _RECURRENT_WITHOUT_KV_HEADS:
            return tuple(map(self._without_kv_heads, range(self.layers)))
        if self.architecture not in _ATTENTION_INTERVAL:
            return (False,) * self.layers
        key = "attention.recurrent_layers"
        if key in self.hyper:
            return tuple(bool(n) for n in self.per_layer(key, 0))
        interval = self.count("full_attention_interval", _ATTENTION_INTERVAL[self.architecture])
        return tuple(interval == 0 or (layer + 1) % interval != 0 for layer in range(self.layers))

    def _without_kv_heads(self, layer: int) -> bool:
        # a layer of Nemotron-H is attention, a state or a feed-forward, never two of them
        only_feed_forward = self.architecture.startswith("nemotron_h") and self.width[layer] > 0
        return self.kv_heads[layer] == 0 and not only_feed_forward

    def state_elements(self) -> int:
        """float32 values of one layer and sequence: the convolution's last inputs and the state proper.

        Source: llama.cpp `llama_hparams::n_embd_r` and `n_embd_s`.
        """
        hidden, heads = self.count("embedding_length"), self.heads[0]
        if wkv := self.count("wkv.head_size"):
            return hidden * (self.count("token_shift_count", 2) + wkv)
        if convolution := self.count("shortconv.l_cache"):
            return hidden * (convolution - 1)
        taps = max(0, self.count("ssm.conv_kernel") - 1)
        if dim := self.count("kda.head_dim"):
            return 3 * (taps or 3) * heads * dim + dim * dim * heads
        if self.architecture == "minimax-01":
            dim = self._head_dim("attention.key_length", False)
            return dim * dim * heads
        inner, state = self.count("ssm.inner_size"), self.count("ssm.state_size")
        return taps * (inner + 2 * self.count("ssm.group_count") * state) + state * inner

    def count(self, key: str, default: int = 0) -> int:
        return largest_count(self.hyper, key, default)

    def per_layer(self, key: str, default: int | tuple[int, ...]) -> tuple[int, ...]:
        value = self.hyper.get(key, default)
        if not isinstance(value, tuple):
            return (_count(key, value),) * self.layers
        if len(value) < self.layers:
            raise BadInput(f"`{key}` has {len(value)} values for {self.layers} layers")
        return tuple(_count(key, n) for n in value[: self.layers])


def largest_count(hyper: Mapping[str, HyperValue], key: str, default: int = 0) -> int:
    """A hyperparameter that is a count; of a per-layer array, its largest.

    Raises:
        BadInput: it is no count.
    """
    value = hyper.get(key, default)
    values = value if isinstance(value, tuple) else (value,)
    return max((_count(key, n) for n in values), default=0)


def _count(key: str, value: Scalar) -> int:
    if not isinstance(value, int | float) or not 0 <= value < MOST or value != int(value):
        raise BadInput(f"`{key}` is {str(value)[:40]!r} where a count is expected")
    return int(value)
