"""What a model is: its shapes, types and per-layer attention, whatever file it came from.

Readers (GGUF, config.json, the catalog) produce a `ModelSpec`; everything else reads only that.
Tensors carry llama.cpp's GGUF names and ggml's order of dimensions, because they name every role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import TypeAlias

from weigh.model.stored_types import NumberFormat

Scalar: TypeAlias = int | float | str | bool
HyperValue: TypeAlias = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """The tensors of one role that share shape and type: one per layer in `layers`, or a single one.

    Attributes:
        name: GGUF name with `{}` for the layer, ``blk.{}.attn_q.weight``; ``token_embd.weight``.
        shape: ggml order: (columns, rows) for a matrix, (columns, rows, experts) for stacked experts.
        layers: the layers that have it; empty for a tensor outside the layers.
        extra_bytes: of one tensor, scales and zero points that lie beside it in a file of their own format.
    """

    name: str
    shape: tuple[int, ...]
    type: NumberFormat
    layers: tuple[int, ...] = ()
    extra_bytes: int = 0

    @property
    def count(self) -> int:
        return len(self.layers) or 1

    @property
    def elements(self) -> int:
        """Weights of one tensor."""
        return prod(self.shape)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one tensor: whole blocks, row by row, and what lies beside them."""
        if not self.shape or 0 in self.shape:
            return 0
        return self.type.row_bytes(self.shape[0]) * prod(self.shape[1:]) + self.extra_bytes

    @property
    def total_elements(self) -> int:
        return prod(self.shape) * (len(self.layers) or 1)

    @property
    def total_bytes(self) -> int:
        return self.tensor_bytes * (len(self.layers) or 1)

    @property
    def experts(self) -> int:
        """How many routed experts are stacked in this tensor; 0 when it is not an expert tensor."""
        return self.shape[2] if "_exps." in self.name and len(self.shape) > 2 else 0


# llama.cpp's names of architectures that read a text at once, both ways
TEXT_ENCODERS = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"}
    | {"eurobert", "gemma-embedding", "t5encoder", "llama-embed"}
)


class MixerKind(StrEnum):
    """How a layer mixes tokens, which decides what it keeps per token."""

    FULL = "full"  # keys and values of every token
    SLIDING = "sliding"  # keys and values of the last `window` tokens
    LATENT = "latent"  # MLA: one compressed latent per token instead of keys and values
    RECURRENT = "recurrent"  # a state of fixed size (SSM, linear attention, short convolution)


@dataclass(frozen=True, slots=True)
class Mixer:
    """Token mixing shared by `layers`.

    Attributes:
        query_heads, kv_heads, key_dim, value_dim: per layer; 0 where the kind has none. For LATENT,
            key_dim is the cached latent plus rope width and value_dim the latent alone (engines may
            cache only the former); kv_heads is 1.
        window: tokens a SLIDING layer looks back; 0 otherwise.
        state_elements: float32 values a RECURRENT layer keeps per sequence; in other layers, those of a
            state beside the cache.
        pooled_every: a SLIDING layer (DeepSeek V4) keeps one further key for every so many tokens, of all
            of them; 0 for none. `pooled_dim` is its width, with an indexer's key where there is one.
    """

    kind: MixerKind
    layers: tuple[int, ...]
    query_heads: int = 0
    kv_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    window: int = 0
    state_elements: int = 0
    pooled_every: int = 0
    pooled_dim: int = 0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model of known shapes.

    Attributes:
        name: what people call it: a hub id, or the file's own name.
        architecture: llama.cpp's name of the architecture (`llama`, `qwen3moe`, ...).
        mixers: together they cover every layer exactly once.
        experts, experts_used: routed experts per MoE layer and those one token visits; 0 when dense.
        hyper: GGUF hyperparameters without the architecture prefix (``attention.head_count_kv``),
            enough to write a file the engine loads.
        quantization: the recipe its tensor types follow (`Q4_K_M`), or the stored type's name.
        file: the file it was read from (first part of a split one), when an engine can load it.
        file_bytes: size on disk when a file exists (all parts of a split file).
        basis: `file` when the tensors were read from one, `config` when derived from shapes.
        format: `gguf` or `safetensors` when read from files of it; "" when derived from shapes.
        beside: tensors that decoding text does not use: the encoder and projector of images or sound
            (names beginning ``v.``, ``a.``, ``mm.``), layers that predict further tokens (``mtp.``). They
            are not in `tensors`, and count in no sum below.
        contradictions: what the files say that cannot all be true, in plain words.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    vocab: int
    feed_forward: int
    context_train: int
    mixers: tuple[Mixer, ...]
    tensors: tuple[TensorGroup, ...]
    quantization: str
    experts: int = 0
    experts_used: int = 0
    hyper: Mapping[str, HyperValue] = field(default_factory=dict)
    file: Path | None = None
    file_bytes: int | None = None
    basis: str = "config"
    notes: tuple[str, ...] = ()
    format: str = ""
    beside: tuple[TensorGroup, ...] = ()
    contradictions: tuple[str, ...] = ()

    @property
    def generates(self) -> bool:
        """Whether it writes text token by token; embedding models give one vector, and keep no cache."""
        return self.architecture not in TEXT_ENCODERS and not self.hyper.get("pooling_type")

    @property
    def tied_embeddings(self) -> bool:
        """Whether the output matrix is the token embedding itself."""
        return not any(t.name == "output.weight" for t in self.tensors)

    @property
    def parameters(self) -> int:
        """All weights, as stored."""
        return sum(t.total_elements for t in self.tensors)

    @property
    def active_parameters(self) -> int:
        """Weights one token passes through: all but the routed experts it does not visit."""
        idle = sum(
            t.total_elements * (t.experts - self.experts_used) // t.experts for t in self.tensors if t.experts
        )
        return self.parameters - idle

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, exact."""
        return sum(t.total_bytes for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.tensor_bytes / self.parameters
