"""Which number format llama.cpp's quantizer gives each tensor, and how large the file becomes.

A recipe like Q4_K_M is a mix: most matrices get its base format, but the output matrix, the attention's
values and the feed-forward's last matrix lose more when rounded, so some layers of those get more bits.
The rules below are those of `llama-quantize` without an importance matrix and without options.
Recipes that it refuses to make that way (IQ2_*, IQ1_*, IQ3_XXS, IQ3_XS) are not offered.

Source of the rules: llama.cpp `src/llama-quant.cpp` (MIT), read at build 11669 and checked tensor by tensor
against that build's own output (benchmarks/quantizer_check.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache, lru_cache
from typing import TypeAlias

from weigh.errors import UnknownName
from weigh.model.ggml_types import GgmlType as T
from weigh.model.spec import ModelSpec, TensorGroup

# Recipe -> the format of a tensor that no rule singles out; most bits first.
_BASE: Mapping[str, T] = {
    "F16": T.F16,
    "BF16": T.BF16,
    "Q8_0": T.Q8_0,
    "Q6_K": T.Q6_K,
    "Q5_K_M": T.Q5_K,
    "Q5_K_S": T.Q5_K,
    "Q4_K_M": T.Q4_K,
    "Q4_K_S": T.Q4_K,
    "Q4_0": T.Q4_0,
    "IQ4_NL": T.IQ4_NL,
    "IQ4_XS": T.IQ4_XS,
    "MXFP4_MOE": T.MXFP4,
    "Q3_K_L": T.Q3_K,
    "IQ3_M": T.IQ3_S,
    "Q3_K_M": T.Q3_K,
    "IQ3_S": T.IQ3_S,
    "Q3_K_S": T.Q3_K,
    "Q2_K": T.Q2_K,
}
ALL_RECIPES = tuple(_BASE)
RECIPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
"""Those that are scanned when nobody names one; `ALL_RECIPES` are those that can be named."""


class Role(Enum):
    """What a tensor does, as far as the quantizer tells tensors apart."""

    OUTPUT = auto()
    EMBEDDING = auto()
    VALUE = auto()  # the attention's values, alone or fused with query and key
    KEY = auto()
    ATTENTION_OUTPUT = auto()
    DOWN = auto()
    OTHER = auto()


class Where(Enum):
    """Which layers a rule is for; `i` counts the tensors of the role, `n` is their number."""

    ALL = auto()
    FIRST_TWO = auto()
    FIRST_FOUR = auto()
    FIRST_EIGHTH = auto()
    FIRST_SIXTEENTH = auto()
    MORE_BITS = auto()  # the first and last eighth, and every third between

    def holds(self, i: int, n: int) -> bool:
        match self:
            case Where.ALL:
                return True
            case Where.FIRST_TWO:
                return i < 2
            case Where.FIRST_FOUR:
                return i < 4
            case Where.FIRST_EIGHTH:
                return i < n // 8
            case Where.FIRST_SIXTEENTH:
                return i < n // 16
            case Where.MORE_BITS:
                return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


Rule: TypeAlias = tuple[tuple[Where, T], ...]  # the first part that holds decides; none: the base format
_ALL, _MORE, _EIGHTH = Where.ALL, Where.MORE_BITS, Where.FIRST_EIGHTH

_RULES: Mapping[str, Mapping[Role, Rule]] = {
    "Q5_K_M": {Role.VALUE: ((_MORE, T.Q6_K),), Role.DOWN: ((_MORE, T.Q6_K),)},
    "Q4_K_M": {Role.VALUE: ((_MORE, T.Q6_K),), Role.DOWN: ((_MORE, T.Q6_K),)},
    "Q4_K_S": {Role.VALUE: ((Where.FIRST_FOUR, T.Q5_K),), Role.DOWN: ((_EIGHTH, T.Q5_K),)},
    "IQ4_NL": {Role.DOWN: ((_EIGHTH, T.Q5_K),)},
    "IQ4_XS": {Role.DOWN: ((_EIGHTH, T.Q5_K),)},
    "Q3_K_L": {
        Role.VALUE: ((_ALL, T.Q5_K),),
        Role.DOWN: ((_ALL, T.Q5_K),),
        Role.ATTENTION_OUTPUT: ((_ALL, T.Q5_K),),
    },
    "IQ3_M": {
        Role.VALUE: ((_ALL, T.Q4_K),),
        Role.DOWN: ((_EIGHTH, T.Q4_K),),
        Role.ATTENTION_OUTPUT: ((_ALL, T.Q4_K),),
    },
    "Q3_K_M": {
        Role.VALUE: ((Where.FIRST_TWO, T.Q5_K), (_ALL, T.Q4_K)),
        Role.DOWN: ((Where.FIRST_SIXTEENTH, T.Q5_K), (_ALL, T.Q4_K)),
        Role.ATTENTION_OUTPUT: ((_ALL, T.Q4_K),),
    },
    "Q2_K": {
        Role.VALUE: ((_ALL, T.Q3_K),),
        Role.DOWN: ((_ALL, T.Q3_K),),
        Role.ATTENTION_OUTPUT: ((_ALL, T.Q3_K),),
    },
}
# Where four or more query heads share one value head, its matrix is small and errors in it are shared.
_SHARED_VALUE: Mapping[str, T] = {"Q2_K": T.Q4_K, "IQ4_NL": T.Q5_K, "IQ4_XS": T.Q5_K, "IQ3_S": T.Q4_K}
# With exactly eight experts (Mixtral) attention is a small part of the file.
_EIGHT_EXPERTS_OUTPUT = frozenset(
    ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS")
)
_FALCON: Mapping[str, Mapping[Role, Rule]] = {
    "Q4_K_M": {
        Role.VALUE: ((_MORE, T.Q6_K),),
        Role.DOWN: ((Where.FIRST_SIXTEENTH, T.Q6_K), (_MORE, T.Q5_K)),
    },
    "Q4_K_S": {Role.VALUE: ((Where.FIRST_FOUR, T.Q5_K),)},
    "Q3_K_L": {
        Role.VALUE: ((_ALL, T.Q5_K),),
        Role.DOWN: ((_ALL, T.Q4_K),),
        Role.ATTENTION_OUTPUT: ((_ALL, T.Q4_K),),
    },
    "Q3_K_M": {
        Role.VALUE: ((Where.FIRST_TWO, T.Q5_K), (_ALL, T.Q4_K)),
        Role.DOWN: ((Where.FIRST_SIXTEENTH, T.Q5_K), (_MORE, T.Q4_K)),
    },
    "IQ3_M": {Role.VALUE: ((_ALL, T.Q4_K),), Role.DOWN: ((_EIGHTH, T.Q4_K),)},
    "Q2_K": {Role.VALUE: ((_ALL, T.Q3_K),), Role.DOWN: ((_ALL, T.Q3_K),)},
}

# The format for a row that is no multiple of 256 weights; F16 when it is none of 32 either.
_FALLBACK: Mapping[T, T] = {
    T.IQ3_S: T.IQ4_NL,
    T.IQ4_XS: T.IQ4_NL,
    T.Q2_K: T.Q4_0,
    T.Q3_K: T.Q4_0,
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
}

# Parts of names that stay as they are: routers, short convolutions, small mixing matrices.
_KEPT = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "ffn_gate_tid2eid.weight",
    "attn_rel_b.weight",
    "position_embd",
    "token_types",
)
_ROLES = (
    ("attn_qkv.weight", Role.VALUE),
    ("attn_kv_b.weight", Role.VALUE),
    ("attn_v.weight", Role.VALUE),
    ("attn_k.weight", Role.KEY),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_down", Role.DOWN),
)


def quantize(spec: ModelSpec, recipe: str) -> ModelSpec:
    """The model as `llama-quantize` would store it: groups split where the format differs by layer.

    Tensors that come quantized (gpt-oss's experts, in MXFP4) stay as they are, as in published files.

    Raises:
        UnknownName: no such recipe.
    """
    base = _BASE.get(recipe)
    if base is None:
        from difflib import get_close_matches

        raise UnknownName("quantization", recipe, close=get_close_matches(recipe.upper(), ALL_RECIPES, 2))
    choice = _Choice.of(spec, recipe, base)
    groups: list[TensorGroup] = []
    for group in spec.tensors:
        role = _role(group.name)
        if role is None or group.type.quantized or not _has_rows(group.shape):
            groups.append(group)
        else:
            groups.extend(choice.quantized(group, role))
    return replace(spec, tensors=tuple(groups), quantization=recipe, file=None, file_bytes=None)


@cache
def _role(name: str) -> Role | None:
    """The role of a tensor; None when the quantizer leaves tensors of that name alone."""
    if not name.endswith("weight") or any(part in name for part in _KEPT):
        return None
    if name == "output.weight":
        return Role.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Role.EMBEDDING
    return next((role for part, role in _ROLES if part in name), Role.OTHER)


def _has_rows(shape: tuple[int, ...]) -> bool:
    """Whether it counts as a matrix: any dimension but the first is more than one."""
    return any(n > 1 for n in shape[1:])


@dataclass(frozen=True, slots=True)
class _Choice:
    """What the quantizer looks at beyond the tensor itself.

    Attributes:
        values: layers that have an attention value matrix, in order.
        downs: the same of the feed-forward's last matrix; only dense models count them, others go by layer.
    """

    recipe: str
    base: T
    rules: Mapping[Role, Rule]
    layers: int
    experts: int
    falcon: bool
    tied: bool
    values: tuple[int, ...]
    downs: tuple[int, ...]

    @classmethod
    def of(cls, spec: ModelSpec, recipe: str, base: T) -> _Choice:
        values, downs = _layers_of(spec.tensors)
        falcon = spec.architecture == "falcon"
        rules = dict((_FALCON if falcon else _RULES).get(recipe) or _RULES.get(recipe, {}))
        if base.quantized:
            _adapt(rules, spec, recipe)
        return cls(
            recipe,
            base,
            rules,
            spec.layers,
            spec.experts,
            falcon,
            spec.tied_embeddings,
            values,
            downs,
        )

    def quantized(self, group: TensorGroup, role: Role) -> Iterator[TensorGroup]:
        """The group in the formats it gets, one group per format."""
        rule = self.rules.get(role)
        if not self.base.quantized:
            yield TensorGroup(group.name, group.shape, self.base, group.layers)
        elif self.recipe == "MXFP4_MOE":
            yield self._stored(group, self._microscaled(group, role))
        elif role is Role.OUTPUT or (self.tied and role is Role.EMBEDDING):
            yield self._stored(group, self._output_type(group))
        elif rule is None:
            yield self._stored(group, self.base)
        else:
            formats: dict[T, tuple[int, ...]] = {}  # two may fall back to the same one
            for type, layers in self._split(rule, role, group.layers):
                stored = _fitting(type or self.base, group.shape[0])
                formats[stored] = _merged(formats[stored], layers) if stored in formats else layers
            for stored, layers in formats.items():
                yield TensorGroup(group.name, group.shape, stored, layers)

    def _stored(self, group: TensorGroup, type: T) -> TensorGroup:
        return TensorGroup(group.name, group.shape, _fitting(type, group.shape[0]), group.layers)

    def _microscaled(self, group: TensorGroup, role: Role) -> T:
        """MXFP4 for experts (anything stacked), Q8_0 for the rest: the mix of the published gpt-oss files."""
        stacked = len(group.shape) > 2 and role is not Role.OUTPUT
        return T.MXFP4 if stacked else T.Q8_0

    def _output_type(self, group: TensorGroup) -> T:
        """The matrix that makes the logits, which is the embedding too when they are tied."""
        if self.falcon or group.shape[0] % self.base.block_weights:
            return T.Q8_0
        return T.Q8_0 if self.base is T.Q8_0 else T.Q6_K

    def _split(
        self, rule: Rule, role: Role, layers: tuple[int, ...]
    ) -> tuple[tuple[T | None, tuple[int, ...]], ...]:
        if role is Role.VALUE:
            return _split(rule, layers, self.values, len(self.values))
        if role is Role.DOWN and self.experts <= 1:
            return _split(rule, layers, self.downs, self.layers)
        return _split(rule, layers, (), self.layers)


def _layers_of(tensors: tuple[TensorGroup, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers with an attention value matrix, and those with a last feed-forward matrix, in file order."""
    values: tuple[int, ...] = ()
    downs: tuple[int, ...] = ()
    for group in tensors:
        role = _role(group.name)
        if role is Role.VALUE:
            values = _merged(values, group.layers) if values else group.layers
        elif role is Role.DOWN and "exps" not in group.name:
            downs = _merged(downs, group.layers) if downs else group.layers
    return values, downs


@lru_cache(maxsize=1024)
def _merged(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(a + b))


def _adapt(rules: dict[Role, Rule], spec: ModelSpec, recipe: str) -> None:
    """Turn the recipe's rules into this model's: shared value heads, 70B, eight experts."""
    if recipe in _SHARED_VALUE and _heads_per_value(spec) >= 4:
        rules[Role.VALUE] = ((_ALL, _SHARED_VALUE[recipe]),)
    if _is_70b(spec):
        rules[Role.VALUE] = _raised(rules.get(Role.VALUE, ()), _BASE[recipe])
    if spec.experts == 8:
        rules[Role.VALUE] = rules[Role.KEY] = ((_ALL, T.Q8_0),)
        rules.pop(Role.ATTENTION_OUTPUT, None)
        if recipe in _EIGHT_EXPERTS_OUTPUT:
            rules[Role.ATTENTION_OUTPUT] = ((_ALL, T.Q5_K),)
        if recipe == "IQ3_M":
            rules[Role.DOWN] = ((_MORE, T.Q4_K),)


def _raised(rule: Rule, base: T) -> Rule:
    """The 70B models' value matrices are an eighth of the query's: three and four bits become five."""
    parts = rule if rule and rule[-1][0] is _ALL else (*rule, (_ALL, base))
    return tuple((where, T.Q5_K if type in (T.Q3_K, T.Q4_K) else type) for where, type in parts)


def _heads_per_value(spec: ModelSpec) -> int:
    """Query heads that share a value head in the first layer; 0 when that layer has no attention."""
    heads = _first(spec.hyper.get("attention.head_count", 0))
    kv_heads = _first(spec.hyper.get("attention.head_count_kv", heads))
    return heads // kv_heads if kv_heads else 0


def _first(value: object) -> int:
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 0


def _is_70b(spec: ModelSpec) -> bool:
    """What the quantizer takes for a 70B: eighty layers, whatever their width."""
    if spec.layers != 80:
        return False
    if spec.architecture == "llama":
        return spec.experts != 8 and _heads_per_value(spec) != 1
    return spec.architecture in ("qwen2", "deci", "olmo")


@lru_cache(maxsize=8192)
def _split(
    rule: Rule, layers: tuple[int, ...], order: tuple[int, ...], count: int
) -> tuple[tuple[T | None, tuple[int, ...]], ...]:
    """`layers` by the format `rule` gives them; None is the base format.

    Args:
        order: layers in the order their tensors are counted; empty to go by the layer's own number.
        count: what the rule takes for the number of layers.
    """
    place = {layer: i for i, layer in enumerate(order)}
    by_type: dict[T | None, list[int]] = {}
    for layer in layers:
        i = place.get(layer, layer)
        by_type.setdefault(next((t for w, t in rule if w.holds(i, count)), None), []).append(layer)
    return tuple((type, tuple(chosen)) for type, chosen in by_type.items())


def _fitting(type: T, columns: int) -> T:
    """`type`, or the one llama.cpp takes instead when a row is no whole number of blocks."""
    if columns % type.block_weights == 0:
        return type
    type = _FALLBACK.get(type, type)
    return type if columns % type.block_weights == 0 else T.F16


# A file is its tensors and a header, of which the tokenizer is nearly all.
_ALIGNMENT_BYTES = 32
_TENSOR_INFO_BYTES = 72  # name, shape, type and offset of one tensor
_METADATA_BYTES = 8192  # hyperparameters, description and the chat template
# Bytes of the tokenizer per token of the vocabulary: its text, length and kind, and with it either a score
# (sentencepiece) or about one merge rule of two texts (byte pairs). Llama 3 has two merge rules per token.
# Fitted to the headers of published files: 0.72 MB for 32,000 pieces, 5.95 MB for Qwen 2.5's 152,064 tokens,
# 7.84 MB for Llama 3's 128,256.
_PIECES_TOKEN_BYTES, _MERGES_TOKEN_BYTES, _LLAMA3_TOKEN_BYTES = 23, 39, 61
_PIECES_VOCABULARIES = frozenset((32000, 32001, 32002, 32064, 32768, 256000, 262144, 262208, 262400))


def file_bytes(spec: ModelSpec) -> int:
    """Bytes of the GGUF file: the tensors, aligned, exactly; the header by an estimate.

    The tokenizer's texts are not known from shapes, so its bytes per token are those of typical files.
    """
    tensors = sum(g.count * (_aligned(g.tensor_bytes) + _TENSOR_INFO_BYTES) for g in spec.tensors)
    return _aligned(tensors + _METADATA_BYTES + spec.vocab * _token_bytes(spec.vocab))


def _token_bytes(vocab: int) -> int:
    """The kind of tokenizer is told by the size of its vocabulary, which config files do state."""
    if vocab in _PIECES_VOCABULARIES:
        return _PIECES_TOKEN_BYTES
    return _LLAMA3_TOKEN_BYTES if vocab == 128256 else _MERGES_TOKEN_BYTES


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
