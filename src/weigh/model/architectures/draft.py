"""A model being put together: hyperparameters and tensors as llama.cpp's converter would write them.

The pieces that architectures share (embeddings, attention, a gated feed-forward, experts, norms) are methods
here; the family modules say which model has which. Matrices are F16, one-dimensional tensors and the few
that the converter keeps exact (the router, short convolutions) are F32.

Source of names, shapes and keys: llama.cpp `conversion/*.py`, `src/models/*.cpp` and
`gguf-py/gguf/constants.py` (MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from weigh.errors import BadInput
from weigh.model.architectures.fields import MOST_LAYERS, Fields
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import HyperValue, TensorGroup

Layers: TypeAlias = tuple[int, ...]

# Names under which configs keep the same thing, in the order in which the converter looks.
_FEED_FORWARD = ("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner")
_CONTEXT = ("n_positions", "n_ctx", "max_sequence_length", "seq_length")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_USED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "top_k_experts",
    "moe_k",
)
POOLING = {"mean": 1, "cls": 2, "last": 3}  # llama.h `enum llama_pooling_type`


@lru_cache(maxsize=512)
def span(start: int, stop: int) -> Layers:
    """The layers `start`..`stop - 1`; cached, since hundreds of models share few lengths."""
    return tuple(range(start, stop))


class Draft:
    """One model in the making.

    Attributes:
        heads, kv_heads, head_dim: of the attention layers; 0 when the config has no attention.
        width: the feed-forward width of a dense layer; 0 when there is none.

        beside: layers that predict further tokens (MTP). Plain decoding does not run them, and most
            published GGUF files lack them.
    """

    def __init__(self, architecture: str, c: Fields, *, norm: str = "rms") -> None:
        self.architecture = architecture
        self.c = c
        self.count = c.count("num_hidden_layers", "n_layer", "n_layers", "num_layers", most=MOST_LAYERS)
        self.layers = span(0, self.count)
        self.hidden = c.count("hidden_size", "n_embd", "d_model")
        self.vocab = c.count("vocab_size")
        # 2048 is the default of most transformers classes; it only says how far the model was trained to look.
        self.context = c.count("max_position_embeddings", *_CONTEXT, default=2048)
        self.heads = c.count("num_attention_heads", "n_head", default=0, least=0)
        self.kv_heads = c.count("num_key_value_heads", "num_kv_heads", default=self.heads, least=0)
        self.head_dim = c.count("head_dim", default=self.hidden // self.heads if self.heads else 0)
        self.width = c.count(*_FEED_FORWARD, default=0, least=0)
        self.experts = c.count(*_EXPERTS, default=0, least=0, most=4096)
        self.experts_used = c.count(*_EXPERTS_USED, default=0, least=0, most=4096)
        self.groups: list[TensorGroup] = []
        self.beside: list[TensorGroup] = []
        self.notes: list[str] = []
        self.hyper: dict[str, HyperValue] = self._common(norm)

    # Hyperparameters

    def _common(self, norm: str) -> dict[str, HyperValue]:
        """What nearly every architecture's header holds."""
        hyper: dict[str, HyperValue] = {
            "block_count": self.count,
            "context_length": self.context,
            "embedding_length": self.hidden,
            "feed_forward_length": self.width,
            "vocab_size": self.vocab,
        }
        if self.heads:
            if not self.kv_heads or self.heads % self.kv_heads:
                heads = f"{self.heads} attention heads cannot share {self.kv_heads} key-value heads"
                raise BadInput(f"{self.c.origin}: {heads}")
            hyper["attention.head_count"] = self.heads
            hyper["attention.head_count_kv"] = self.kv_heads
            hyper["attention.key_length"] = self.head_dim
            hyper["attention.value_length"] = self.head_dim
            hyper["rope.dimension_count"] = self.head_dim
        if norm == "rms":
            eps = self.c.number("rms_norm_eps", "norm_eps", "layer_norm_epsilon", default=1e-5)
            hyper["attention.layer_norm_rms_epsilon"] = eps
        else:
            eps = self.c.number("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", default=1e-5)
            hyper["attention.layer_norm_epsilon"] = eps
        self._add_rope(hyper)
        # how an embedding model makes one vector of all: its `1_Pooling/config.json` says so, not the config
        if self.c.has("pooling_mode"):
            hyper["pooling_type"] = POOLING.get(self.c.text("pooling_mode"), 0)
        return hyper

    def _add_rope(self, hyper: dict[str, HyperValue]) -> None:
        rope = self.rope()
        base = rope.number(
            "rope_theta", default=self.c.number("rope_theta", "global_rope_theta", default=0.0)
        )
        if base:
            hyper["rope.freq_base"] = base
        kind = rope.text("rope_type", rope.text("type"))
        if kind in ("linear", "yarn") and rope.has("factor"):
            hyper["rope.scaling.type"] = kind
            hyper["rope.scaling.factor"] = rope.number("factor")
        if kind in ("su", "longrope"):
            hyper["rope.scaling.type"] = "longrope"
        if kind in ("yarn", "su", "longrope"):
            original = rope.count("original_max_position_embeddings", default=0)
            original = original or self.c.count("original_max_position_embeddings", default=4096)
            hyper["rope.scaling.original_context_length"] = original

    def rope(self) -> Fields:
        """The rotary position settings of full-attention layers."""
        rope = self.c.section("rope_parameters", "rope_scaling")
        return rope.section("full_attention") if rope.has("full_attention") else rope

    def layers_of(self, *kinds: str, field: str = "layer_types") -> Layers:
        """The layers whose entry in a per-layer list of the config is one of `kinds`."""
        types = self.c.texts(field)
        if len(types) != self.count:
            raise BadInput(f"{self.c.origin}: `{field}` names {len(types)} of {self.count} layers")
        return tuple(i for i, kind in enumerate(types) if kind in kinds)

    def sliding(self, window: int, every: int) -> Layers:
        """Note the sliding-window layers: those the config lists, else all but every `every`-th; return them."""
        if self.c.has("layer_types"):
            sliding = self.layers_of("sliding_attention")
        else:
            sliding = tuple(i for i in self.layers if (i + 1) % every)
        self.hyper["attention.sliding_window"] = window
        self.hyper["attention.sliding_window_pattern"] = tuple(i in sliding for i in self.layers)
        local = self.c.section("rope_parameters").section("sliding_attention")
        if base := local.number("rope_theta", default=self.c.number("rope_local_base_freq", default=0.0)):
            self.hyper["rope.freq_base_swa"] = base
        return sliding

    def others(self, layers: Layers) -> Layers:
        """All layers but these."""
        return tuple(i for i in self.layers if i not in layers)

    def routing(self, width: int, *, shared_width: int = 0, shared: int = 0) -> None:
        """Keys of a mixture of experts, `width` wide each."""
        if not self.experts or not 0 < self.experts_used <= self.experts:
            chosen = f"{self.experts_used} of {self.experts} experts a token"
            raise BadInput(f"{self.c.origin}: {chosen} is not a mixture of experts")
        self.hyper["expert_count"] = self.experts
        self.hyper["expert_used_count"] = self.experts_used
        self.hyper["expert_feed_forward_length"] = width
        if shared_width:
            self.hyper["expert_shared_feed_forward_length"] = shared_width
        if shared:
            self.hyper["expert_shared_count"] = shared

    # Tensors

    def add(self, name: str, shape: tuple[int, ...], type: GgmlType, layers: Layers = ()) -> None:
        self.groups.append(TensorGroup(name, shape, type, layers))

    def matrix(self, role: str, columns: int, rows: int, layers: Layers | None = None) -> None:
        """A weight that maps `columns` inputs to `rows` outputs, in each of `layers` (all of them)."""
        self._per_layer(f"blk.{{}}.{role}.weight", (columns, rows), GgmlType.F16, layers)

    def exact(self, role: str, *shape: int, layers: Layers | None = None, suffix: str = ".weight") -> None:
        """A tensor the converter keeps in F32: a norm, a router, a short convolution."""
        self._per_layer(f"blk.{{}}.{role}{suffix}", shape, GgmlType.F32, layers)

    def bias(self, role: str, length: int, layers: Layers | None = None) -> None:
        self._per_layer(f"blk.{{}}.{role}.bias", (length,), GgmlType.F32, layers)

    def _per_layer(self, name: str, shape: tuple[int, ...], type: GgmlType, layers: Layers | None) -> None:
        layers = self.layers if layers is None else layers
        if layers:
            self.groups.append(TensorGroup(name, shape, type, layers))

    def embeddings(self, *, tied: bool = False, bias: bool = False) -> None:
        """Token embedding, final norm, and the output matrix unless it is the embedding itself.

        Args:
            tied: what a config without `tie_word_embeddings` means: the default of its transformers class.
            bias: the final norm has a bias too (LayerNorm).
        """
        self.add("token_embd.weight", (self.hidden, self.vocab), GgmlType.F16)
        self.add("output_norm.weight", (self.hidden,), GgmlType.F32)
        if bias:
            self.add("output_norm.bias", (self.hidden,), GgmlType.F32)
        if not self.c.has("tie_word_embeddings"):
            self.c.taken["tie_word_embeddings"] = tied
        if not self.c.flag("tie_word_embeddings", tied):
            self.add("output.weight", (self.hidden, self.vocab), GgmlType.F16)

    def norms(self, *roles: str, bias: bool = False, layers: Layers | None = None) -> None:
        """Norms of the model's width, one of each role in every layer."""
        for role in roles:
            self.exact(role, self.hidden, layers=layers)
            if bias:
                self.bias(role, self.hidden, layers)

    def attention(
        self,
        layers: Layers | None = None,
        *,
        head_dim: int = 0,
        kv_heads: int = 0,
        gated: bool = False,
        value: bool = True,
    ) -> None:
        """Query, key, value and output projections of grouped-query attention.

        Args:
            gated: the query projection also makes an output gate as wide as the query.
            value: False where keys serve as values.
        """
        dim, kv = head_dim or self.head_dim, kv_heads or self.kv_heads
        self.matrix("attn_q", self.hidden, self.heads * dim * (2 if gated else 1), layers)
        self.matrix("attn_k", self.hidden, kv * dim, layers)
        if value:
            self.matrix("attn_v", self.hidden, kv * dim, layers)
        self.matrix("attn_output", self.heads * dim, self.hidden, layers)

    def fused_attention(self) -> None:
        """Query, key and value in one matrix, and the output projection."""
        self.matrix("attn_qkv", self.hidden, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.matrix("attn_output", self.heads * self.head_dim, self.hidden)

    def attention_biases(self, layers: Layers | None = None, *, output: bool = False) -> None:
        self.bias("attn_q", self.heads * self.head_dim, layers)
        self.bias("attn_k", self.kv_heads * self.head_dim, layers)
        self.bias("attn_v", self.kv_heads * self.head_dim, layers)
        if output:
            self.bias("attn_output", self.hidden, layers)

    def head_norms(self, layers: Layers | None = None, *, head_dim: int = 0) -> None:
        """Norms of each head's query and key."""
        self.exact("attn_q_norm", head_dim or self.head_dim, layers=layers)
        self.exact("attn_k_norm", head_dim or self.head_dim, layers=layers)

    def gated_ffn(self, layers: Layers | None = None, *, width: int = 0, suffix: str = "") -> None:
        """Gate, up and down; `suffix` is `_shexp` for an expert every token visits."""
        width = self._width(width, layers)
        self.matrix(f"ffn_gate{suffix}", self.hidden, width, layers)
        self.plain_ffn(layers, width=width, suffix=suffix)

    def plain_ffn(
        self, layers: Layers | None = None, *, width: int = 0, suffix: str = "", bias: bool = False
    ) -> None:
        """Up and down, with nothing between them but the activation."""
        width = self._width(width, layers)
        self.matrix(f"ffn_up{suffix}", self.hidden, width, layers)
        self.matrix(f"ffn_down{suffix}", width, self.hidden, layers)
        if bias:
            self.bias("ffn_up", width, layers)
            self.bias("ffn_down", self.hidden, layers)

    def _width(self, width: int, layers: Layers | None) -> int:
        width = width or self.width
        if not width and (layers is None or layers):
            raise BadInput(f"{self.c.origin}: `intermediate_size` is missing from the config")
        return width

    def router(self, layers: Layers | None = None, *, bias: bool = False) -> None:
        """What chooses the experts; `bias` is the correction that balances their load."""
        self.exact("ffn_gate_inp", self.hidden, self.experts, layers=layers)
        if bias:
            self.bias("exp_probs_b", self.experts, layers)

    def routed(
        self,
        width: int,
        layers: Layers | None = None,
        *,
        roles: Sequence[str] = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
        columns: int = 0,
        type: GgmlType = GgmlType.F16,
    ) -> None:
        """The stacked matrices of the routed experts; `columns` is the model's width by default."""
        columns = columns or self.hidden
        for role in roles:
            rows = 2 * width if "gate_up" in role else width
            shape = (columns, rows) if "down" not in role else (width, columns)
            self._per_layer(f"blk.{{}}.{role}.weight", (*shape, self.experts), type, layers)

    def predict(
        self, heads: int, layer: Callable[[Draft], None], *, own: bool = False, own_output: bool = False
    ) -> None:
        """Note `heads` layers that predict further tokens: each what `layer` makes, and what feeds it.

        Args:
            own: each stores an embedding and an output matrix of its own (copies of the model's).
            own_output: each stores an output matrix alone.
        """
        if not heads:
            return
        side = copy(self)
        side.groups, side.beside, side.hyper = [], [], dict(self.hyper)
        side.count, side.layers = heads, span(0, heads)
        layer(side)
        side.matrix("nextn.eh_proj", 2 * self.hidden, self.hidden)
        side.norms("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
        if own:
            side.matrix("nextn.embed_tokens", self.hidden, self.vocab)
        if own or own_output:
            side.matrix("nextn.shared_head_head", self.hidden, self.vocab)
        self.beside += [replace(group, name=f"mtp.{group.name}") for group in side.groups]


Family: TypeAlias = Callable[[Fields], Draft]
