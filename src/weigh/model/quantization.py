"""Which number format llama.cpp's quantizer gives each tensor, and how large the file becomes.

A recipe like Q4_K_M is a mix: most matrices get its base format, but the output matrix, the attention's
values and the feed-forward's last matrix lose more when rounded, so some layers of those get more bits.
The rules below are those of `llama-quantize`, with and without an importance matrix, and those of the
`_L` and `_XL` mixes that people publish: a recipe with the embedding and the output matrix in Q8_0.

Source of the rules: llama.cpp `src/llama-quant.cpp` (MIT), read at build 11669 and checked tensor by tensor
against that build's own output (benchmarks/quantizer_check.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache, lru_cache
from typing import TypeAlias

from weigh.errors import NotSupported, UnknownName
from weigh.model.ggml_types import GgmlType as T
from weigh.model.spec import ModelSpec, TensorGroup

# Recipe -> the format of a tensor that no rule singles out; most bits first.
_BASE: Mapping[str, T] = {
    "F32": T.F32,
    "F16": T.F16,
    "BF16": T.BF16,
    "Q8_0": T.Q8_0,
    "Q6_K": T.Q6_K,
    "Q5_1": T.Q5_1,
    "Q5_K_M": T.Q5_K,
    "Q5_K_S": T.Q5_K,
    "Q5_0": T.Q5_0,
    "Q4_1": T.Q4_1,
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
    "IQ3_XS": T.IQ3_S,
    "IQ3_XXS": T.IQ3_XXS,
    "Q2_K": T.Q2_K,
    "Q2_K_S": T.Q2_K,
    "IQ2_M": T.IQ2_S,
    "IQ2_S": T.IQ2_XS,
    "IQ2_XS": T.IQ2_XS,
    "Q2_0": T.Q2_0,
    "IQ2_XXS": T.IQ2_XXS,
    "TQ2_0": T.TQ2_0,
    "IQ1_M": T.IQ1_M,
    "TQ1_0": T.TQ1_0,
    "IQ1_S": T.IQ1_S,
    "Q1_0": T.Q1_0,
}
# Published mixes: a recipe made with `--token-embedding-type q8_0 --output-tensor-type q8_0`.
_WIDE_ENDS: Mapping[str, str] = {
    "Q6_K_L": "Q6_K",
    "Q5_K_L": "Q5_K_M",
    "Q4_K_L": "Q4_K_M",
    "Q3_K_XL": "Q3_K_L",
    "Q2_K_L": "Q2_K",
}
_ALIASES: Mapping[str, str] = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}
ALL_RECIPES = (*_BASE, *_WIDE_ENDS, *_ALIASES)
RECIPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
"""Those that are scanned when nobody names one; `ALL_RECIPES` are those that can be named."""
_TWO_BITS = frozenset(("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"))  # and fewer
NEED_MATRIX = _TWO_BITS | {"IQ3_XS", "IQ3_XXS", "Q2_K_S"}
"""Recipes that the tool makes with an importance matrix only; the others it makes either way."""
KV_CACHE_TYPES = (T.F32, T.F16, T.BF16, T.Q8_0, T.Q5_1, T.Q5_0, T.Q4_1, T.Q4_0, T.IQ4_NL)
"""What `--cache-type-k` and `--cache-type-v` accept. Source: llama.cpp `common/arg.cpp`."""
BY_HAND = re.compile(r"UD-\w+|I?Q\d(?:_\d|_K)?_XL", re.IGNORECASE)
"""Mixes chosen for each model by measuring, so that no rule gives them; the names are those of Unsloth's files."""


class Role(Enum):
    """What a tensor does, as far as the quantizer tells tensors apart."""

    OUTPUT = auto()
    EMBEDDING = auto()
    VALUE = auto()  # the attention's values, alone or fused with query and key
    KEY = auto()
    QUERY = auto()
    ATTENTION_OUTPUT = auto()
    UP = auto()
    GATE = auto()
    DOWN = auto()
    OTHER = auto()


class Where(Enum):
    """Which layers a rule is for; `i` counts the tensors of the role, `n` is their number."""

    ALL = auto()
    FIRST_TWO = auto()
    FIRST_FOUR = auto()
    FIRST_EIGHTH = auto()
    FIRST_SIXTEENTH = auto()
    MIDDLE = auto()  # all but the first and last eighth
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
            case Where.MIDDLE:
                return n // 8 <= i < 7 * n // 8
            case Where.MORE_BITS:
                return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


Rule: TypeAlias = tuple[tuple[Where, T], ...]  # the first part that holds decides; none: the base format
_ALL, _MORE, _EIGHTH, _MIDDLE = Where.ALL, Where.MORE_BITS, Where.FIRST_EIGHTH, Where.MIDDLE

_TWO: dict[Role, Rule] = {
    Role.EMBEDDING: ((_ALL, T.Q2_K),),
    Role.VALUE: ((_ALL, T.Q2_K),),
    Role.DOWN: ((_EIGHTH, T.Q2_K),),
}
_TWO_AND_A_HALF: dict[Role, Rule] = {
    Role.EMBEDDING: ((_ALL, T.IQ3_S),),
    Role.VALUE: ((_ALL, T.IQ3_S),),
    Role.DOWN: ((_EIGHTH, T.IQ3_S),),
    Role.ATTENTION_OUTPUT: ((_ALL, T.IQ3_S),),
}
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
    "Q2_K_S": {Role.DOWN: ((_EIGHTH, T.Q4_K),)},
    "IQ3_XS": {
        Role.KEY: ((_ALL, T.IQ3_XXS),),
        Role.QUERY: ((_ALL, T.IQ3_XXS),),
        Role.UP: ((_MIDDLE, T.IQ3_XXS),),
        Role.GATE: ((_MIDDLE, T.IQ3_XXS),),
    },
    "IQ3_XXS": {
        Role.EMBEDDING: ((_ALL, T.IQ3_S),),
        Role.KEY: ((_ALL, T.IQ2_S),),
        Role.QUERY: ((_ALL, T.IQ2_S),),
        Role.ATTENTION_OUTPUT: ((_ALL, T.IQ3_S),),
    },
    "IQ2_M": _TWO_AND_A_HALF,
    "IQ2_S": _TWO_AND_A_HALF,
    "IQ2_XS": _TWO,
    "IQ2_XXS": _TWO,
    "IQ1_M": _TWO | {Role.ATTENTION_OUTPUT: ((_ALL, T.IQ2_XXS),)},
    "IQ1_S": _TWO | {Role.ATTENTION_OUTPUT: ((_ALL, T.IQ2_XXS),)},
    "TQ2_0": {Role.EMBEDDING: ((_ALL, T.Q4_K),)},
    "TQ1_0": {Role.EMBEDDING: ((_ALL, T.Q4_K),)},
    "Q2_0": {Role.EMBEDDING: ((_ALL, T.Q4_K),)},
}
# What an importance matrix changes: rounding in the first layers is then watched, or has to be guarded.
_DOWN_WITH_MATRIX: Mapping[str, Rule] = {
    "IQ4_NL": (),
    "IQ4_XS": (),
    "Q4_0": ((_EIGHTH, T.Q4_1),),
    "Q5_0": ((_EIGHTH, T.Q5_1),),
}
# Where four or more query heads share one value head, its matrix is small and errors in it are shared.
_SHARED_VALUE: Mapping[str, T] = {
    **dict.fromkeys(("Q2_K", "Q2_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS", *_TWO_BITS), T.Q4_K),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), T.Q5_K),
}
# With exactly eight experts (Mixtral) attention is a small part of the file.
_EIGHT_EXPERTS_OUTPUT = _TWO_BITS | {
    *("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"),
    *("IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"),
}
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
    "IQ3_XXS": {
        Role.EMBEDDING: ((_ALL, T.IQ3_S),),
        Role.KEY: ((_ALL, T.IQ2_S),),
        Role.QUERY: ((_ALL, T.IQ2_S),),
    },
}

# The format for a row that is no whole number of blocks; F16 when it does not fit that either.
_FALLBACK: Mapping[T, T] = {
    **dict.fromkeys((T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S), T.IQ4_NL),
    **dict.fromkeys((T.IQ3_XXS, T.IQ3_S, T.IQ4_XS), T.IQ4_NL),
    **dict.fromkeys((T.Q2_0, T.Q2_K, T.Q3_K, T.TQ1_0, T.TQ2_0), T.Q4_0),
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
    ("attn_q.weight", Role.QUERY),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.UP),
    ("ffn_gate", Role.GATE),
    ("ffn_down", Role.DOWN),
)


def quantize(spec: ModelSpec, recipe: str, *, imatrix: bool = False) -> ModelSpec:
    """The model as `llama-quantize` would store it: groups split where the format differs by layer.

    Tensors that come quantized (gpt-oss's experts, in MXFP4) stay as they are, as in published files.

    Args:
        imatrix: made with an importance matrix, which changes a few formats of Q4_0, Q5_0, IQ4_NL and
            IQ4_XS. Recipes in `NEED_MATRIX` are always made with one.

    Raises:
        UnknownName: no such recipe.
        NotSupported: a mix that no rule gives, or a width that the tool cannot store in it.
    """
    recipe = _ALIASES.get(recipe, recipe)
    choice = _Choice.of(spec, made_as(recipe), imatrix=imatrix, wide_ends=recipe in _WIDE_ENDS)
    groups: list[TensorGroup] = []
    for group in spec.tensors:
        role = _role(group.name)
        if role is None or group.type.quantized or not _has_rows(group.shape):
            groups.append(group)
        else:
            groups.extend(choice.quantized(group, role))
    return replace(spec, tensors=tuple(groups), quantization=recipe, file=None, file_bytes=None)


def made_as(recipe: str) -> str:
    """The recipe of llama.cpp that the tool is told: itself, but for other names and the `_L` mixes.

    Raises:
        UnknownName: no such recipe.
        NotSupported: a mix that no rule gives.
    """
    recipe = _ALIASES.get(recipe, recipe)
    made = _WIDE_ENDS.get(recipe, recipe)
    if made not in _BASE:
        raise _unknown(recipe)
    return made


def _unknown(recipe: str) -> UnknownName | NotSupported:
    if BY_HAND.fullmatch(recipe):
        return NotSupported(
            f"{recipe} is chosen tensor by tensor for each model; only a file of it can say its size",
            hint="name the file, or a recipe that follows rules, such as Q4_K_M",
        )
    from difflib import get_close_matches

    return UnknownName("quantization", recipe, close=get_close_matches(recipe.upper(), ALL_RECIPES, 2))


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
        wide_ends: embedding and output are Q8_0 whatever the recipe says.
        orders: layers that have a matrix of the role, in order. Feed-forwards are counted in dense models
            only, others go by layer.
        places: of those matrices in the file's order, by name and layer, where a layer has several.
    """

    recipe: str
    base: T
    rules: Mapping[Role, Rule]
    layers: int
    experts: int
    falcon: bool
    tied: bool
    wide_ends: bool
    orders: Mapping[Role, tuple[int, ...]]
    places: Mapping[tuple[str, int], int]

    @classmethod
    def of(cls, spec: ModelSpec, recipe: str, *, imatrix: bool, wide_ends: bool) -> _Choice:
        falcon = spec.architecture == "falcon"
        rules = dict((_FALCON if falcon else _RULES).get(recipe) or _RULES.get(recipe, {}))
        if imatrix and recipe in _DOWN_WITH_MATRIX:
            rules[Role.DOWN] = _DOWN_WITH_MATRIX[recipe]
        if _BASE[recipe].quantized:
            _adapt(rules, spec, recipe)
        return cls(
            recipe,
            _BASE[recipe],
            rules,
            spec.layers,
            spec.experts,
            falcon,
            spec.tied_embeddings,
            wide_ends,
            {role: _layers_of(spec.tensors, role) for role in _COUNTED if role in rules},
            _places(spec.tensors) if _counts_all(spec, recipe) else {},
        )

    def quantized(self, group: TensorGroup, role: Role) -> Iterator[TensorGroup]:
        """The group in the formats it gets, one group per format."""
        rule = self.rules.get(role)
        if not self.base.quantized:
            yield TensorGroup(group.name, group.shape, self.base, group.layers)
        elif self.wide_ends and role in (Role.OUTPUT, Role.EMBEDDING):
            yield TensorGroup(group.name, group.shape, T.Q8_0, group.layers)
        elif self.recipe == "MXFP4_MOE":
            yield self._stored(group, self._microscaled(group, role))
        elif role is Role.OUTPUT or (self.tied and role is Role.EMBEDDING):
            yield self._stored(group, self._output_type(group))
        elif not rule:
            yield self._stored(group, self.base)
        elif role is Role.EMBEDDING:
            yield self._stored(group, rule[0][1])
        else:
            formats: dict[T, tuple[int, ...]] = {}  # two may fall back to the same one
            for type, layers in self._split(rule, role, group):
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
        if self.recipe == "IQ3_XXS" or self.recipe in _TWO_BITS:
            return T.Q5_K
        return T.Q8_0 if self.base is T.Q8_0 else T.Q6_K

    def _split(
        self, rule: Rule, role: Role, group: TensorGroup
    ) -> tuple[tuple[T | None, tuple[int, ...]], ...]:
        count = len(self.orders[role]) if role is Role.VALUE else self.layers
        if self.places and role in _COUNTED:
            places = tuple(self.places[group.name, layer] for layer in group.layers)
            return _split_by_place(rule, group.layers, places, count)
        if role is Role.VALUE:
            return _split(rule, group.layers, self.orders[role], count)
        if self.experts <= 1:
            return _split(rule, group.layers, self.orders.get(role, ()), self.layers)
        return _split(rule, group.layers, (), self.layers)


_COUNTED = (Role.VALUE, Role.DOWN, Role.UP, Role.GATE)


def _layers_of(tensors: tuple[TensorGroup, ...], role: Role) -> tuple[int, ...]:
    """Layers with a matrix of that role, in file order; routed experts are not counted."""
    layers: tuple[int, ...] = ()
    for group in tensors:
        if _role(group.name) is role and "exps" not in group.name:
            layers = _merged(layers, group.layers) if layers else group.layers
    return layers


def _counts_all(spec: ModelSpec, recipe: str) -> bool:
    """Whether matrices are counted one by one: by the smallest recipes, and in encoders beside decoders."""
    if spec.experts > 1:
        return recipe in _TWO_BITS
    return any(group.name.startswith(("enc.", "dec.")) for group in spec.tensors)


def _places(tensors: tuple[TensorGroup, ...]) -> dict[tuple[str, int], int]:
    """Where each matrix comes among those of its role: by layer, `enc.` and `dec.` before them, then by name.

    What comes quantized and stays so is not counted: the tool is told its format, and does not ask its rules.
    """
    places: dict[tuple[str, int], int] = {}
    for role in _COUNTED:
        groups = [group for group in tensors if _role(group.name) is role and not group.type.quantized]
        ordered = sorted(
            (layer if group.name.startswith("blk.") else -1, group.name.format(layer), group.name, layer)
            for group in groups
            for layer in group.layers
        )
        places |= {(name, layer): i for i, (_, _, name, layer) in enumerate(ordered)}
    return places


@lru_cache(maxsize=1024)
def _merged(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(a + b))


def _adapt(rules: dict[Role, Rule], spec: ModelSpec, recipe: str) -> None:
    """Turn the recipe's rules into this model's: shared value heads, 70B, eight experts."""
    two_bits = recipe in _TWO_BITS
    shared = _heads_per_value(spec) >= 4 or (two_bits and spec.experts >= 4)
    if shared and recipe in _SHARED_VALUE:
        rules[Role.VALUE] = ((_ALL, _SHARED_VALUE[recipe]),)
    if _is_70b(spec) and not two_bits:
        rules[Role.VALUE] = _raised(rules.get(Role.VALUE, ()), _BASE[recipe])
    if spec.experts == 8:
        _adapt_to_eight_experts(rules, recipe, T.Q4_K if two_bits else T.Q8_0)


def _adapt_to_eight_experts(rules: dict[Role, Rule], recipe: str, key_and_value: T) -> None:
    rules[Role.VALUE] = rules[Role.KEY] = ((_ALL, key_and_value),)
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
    return _split_by_place(rule, layers, tuple(place.get(layer, layer) for layer in layers), count)


def _split_by_place(
    rule: Rule, layers: tuple[int, ...], places: tuple[int, ...], count: int
) -> tuple[tuple[T | None, tuple[int, ...]], ...]:
    by_type: dict[T | None, list[int]] = {}
    for layer, i in zip(layers, places, strict=True):
        by_type.setdefault(next((t for w, t in rule if w.holds(i, count)), None), []).append(layer)
    return tuple((type, tuple(chosen)) for type, chosen in by_type.items())


def _fitting(type: T, columns: int) -> T:
    """`type`, or the one llama.cpp takes instead when a row is no whole number of blocks."""
    if columns % type.block_weights == 0:
        return type
    if type is T.Q1_0:
        raise NotSupported(f"a Q1_0 file of rows of {columns} weights: they are no whole blocks of 128")
    type = _FALLBACK.get(type, type)
    return type if columns % type.block_weights == 0 else T.F16


# A file is its tensors and a header, of which the tokenizer is nearly all.
_ALIGNMENT_BYTES = 32
_TENSOR_INFO_BYTES = 72  # name, shape, type and offset of one tensor
_METADATA_BYTES = 8192  # hyperparameters, description and the chat template
# Bytes of the tokenizer per token of the vocabulary: its text, length and kind, and with it a score (pieces),
# about one merge rule of two texts (byte pairs), two of them (vocabularies of many merges) or nothing (BERT's
# WordPiece). Measured on llama.cpp's `models/ggml-vocab-*.gguf`: 20.6 for BERT's, 22.6 for Llama 2's pieces,
# 20.9 for Baichuan's, 27.3 for XLM-RoBERTa's, 35 for GPT-2, Falcon and StarCoder, 39.0 for Qwen 2, 42.5 for
# Command R, 61.0 for Llama 3.
_SMALL_MERGES_TOKEN_BYTES, _MERGES_TOKEN_BYTES = 35, 39
_VOCABULARY_TOKEN_BYTES: Mapping[int, int] = {
    **dict.fromkeys((30522, 30528), 21),  # BERT
    **dict.fromkeys((32000, 32001, 32002, 32016, 32064, 32768, 64000, 256000, 262144, 262208, 262400), 23),
    **dict.fromkeys((250002, 250037, 250048), 27),  # XLM-RoBERTa
    **dict.fromkeys((128256, 131072, 151552, 201088, 202048), 61),  # Llama 3 and 4, Tekken, GLM-4, gpt-oss
}
# Vocabularies of the size of Gemma's pieces that are byte pairs.
_ARCHITECTURE_TOKEN_BYTES = {"gemma4": 60, "command-r": 42, "cohere2": 42}


def file_bytes(spec: ModelSpec, *, header_bytes: int | None = None) -> int:
    """Bytes of the GGUF file: the tensors, aligned, exactly; the header by an estimate.

    The tokenizer's texts are not known from shapes, so its bytes per token are those of typical files.

    Args:
        header_bytes: of a file of the same model, which its quantized files repeat; instead of the estimate.
    """
    data = tensors = 0
    for group in spec.tensors:
        count = group.count
        data += count * _aligned(group.tensor_bytes)
        tensors += count
    if header_bytes is None:
        header_bytes = tensors * _TENSOR_INFO_BYTES + _METADATA_BYTES + spec.vocab * _token_bytes(spec)
    return data + _aligned(header_bytes)


def _token_bytes(spec: ModelSpec) -> int:
    """The kind of tokenizer is told by the size of its vocabulary, which config files do state."""
    usual = _SMALL_MERGES_TOKEN_BYTES if spec.vocab < 70_000 else _MERGES_TOKEN_BYTES
    of_size = _VOCABULARY_TOKEN_BYTES.get(spec.vocab, usual)
    return _ARCHITECTURE_TOKEN_BYTES.get(spec.architecture, of_size)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
