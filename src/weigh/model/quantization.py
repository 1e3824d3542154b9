"""Which number format llama.cpp's quantizer gives each tensor.

A recipe like Q4_K_M is a mix: most matrices get its base format, but the output matrix, the attention's
values and the feed-forward's last matrix lose more when rounded, so some layers of those get more bits.
`quantization_rules.py` has the rules of `llama-quantize`; here they are turned into a model's own, with and
without an importance matrix, and followed. The `_L` and `_XL` mixes that people publish are a recipe with the
embedding and the output matrix in Q8_0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from weigh.errors import NotSupported, UnknownName
from weigh.model.ggml_types import GgmlType as T
from weigh.model.quantization_rules import (
    BASE,
    DOWN_WITH_MATRIX,
    EIGHT_EXPERTS_OUTPUT,
    FALCON,
    FALLBACK,
    RULES,
    SHARED_VALUE,
    TWO_BITS,
    WIDE_ENDS,
    Role,
    Rule,
    Where,
    role_of,
)
from weigh.model.spec import ModelSpec, TensorGroup

_ALIASES: Mapping[str, str] = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}
ALL_RECIPES = (*BASE, *WIDE_ENDS, *_ALIASES)
RECIPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
"""Those that are scanned when nobody names one; `ALL_RECIPES` are those that can be named."""
NEED_MATRIX = TWO_BITS | {"IQ3_XS", "IQ3_XXS", "Q2_K_S"}
"""Recipes that the tool makes with an importance matrix only; the others it makes either way."""
KV_CACHE_TYPES = (T.F32, T.F16, T.BF16, T.Q8_0, T.Q5_1, T.Q5_0, T.Q4_1, T.Q4_0, T.IQ4_NL)
"""What `--cache-type-k` and `--cache-type-v` accept. Source: llama.cpp `common/arg.cpp`."""
BY_HAND = re.compile(r"UD-\w+|I?Q\d(?:_\d|_K)?_XL", re.IGNORECASE)
"""Mixes chosen for each model by measuring, so that no rule gives them; the names are those of Unsloth's files."""


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
    choice = _Choice.of(spec, made_as(recipe), imatrix=imatrix, wide_ends=recipe in WIDE_ENDS)
    groups: list[TensorGroup] = []
    for group in spec.tensors:
        role = role_of(group.name)
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
    made = WIDE_ENDS.get(recipe, recipe)
    if made not in BASE:
        raise _unknown(recipe)
    return made


def _unknown(recipe: str) -> UnknownName | NotSupported:
    if BY_HAND.fullmatch(recipe):
        return NotSupported(
            f"{recipe} is chosen tensor by tensor for each model; only a file of it can say its size",
            hint="name the file, or a recipe that follows rules, such as Q4_K_M",
        )
    from difflib import get_close_matches

    close = get_close_matches(recipe.upper(), ALL_RECIPES, 2)
    return UnknownName(
        "quantization", recipe, close=close, hint=None if close else "they are named like Q4_K_M or IQ4_XS"
    )


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
        rules = dict((FALCON if falcon else RULES).get(recipe) or RULES.get(recipe, {}))
        if imatrix and recipe in DOWN_WITH_MATRIX:
            rules[Role.DOWN] = DOWN_WITH_MATRIX[recipe]
        if BASE[recipe].quantized:
            _adapt(rules, spec, recipe)
        return cls(
            recipe,
            BASE[recipe],
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
        if self.recipe == "IQ3_XXS" or self.recipe in TWO_BITS:
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
        if role_of(group.name) is role and "exps" not in group.name:
            layers = _merged(layers, group.layers) if layers else group.layers
    return layers


def _counts_all(spec: ModelSpec, recipe: str) -> bool:
    """Whether matrices are counted one by one: by the smallest recipes, and in encoders beside decoders."""
    if spec.experts > 1:
        return recipe in TWO_BITS
    return any(group.name.startswith(("enc.", "dec.")) for group in spec.tensors)


def _places(tensors: tuple[TensorGroup, ...]) -> dict[tuple[str, int], int]:
    """Where each matrix comes among those of its role: by layer, `enc.` and `dec.` before them, then by name.

    What comes quantized and stays so is not counted: the tool is told its format, and does not ask its rules.
    """
    places: dict[tuple[str, int], int] = {}
    for role in _COUNTED:
        groups = [group for group in tensors if role_of(group.name) is role and not group.type.quantized]
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
    two_bits = recipe in TWO_BITS
    shared = _heads_per_value(spec) >= 4 or (two_bits and spec.experts >= 4)
    if shared and recipe in SHARED_VALUE:
        rules[Role.VALUE] = ((Where.ALL, SHARED_VALUE[recipe]),)
    if _is_70b(spec) and not two_bits:
        rules[Role.VALUE] = _raised(rules.get(Role.VALUE, ()), BASE[recipe])
    if spec.experts == 8:
        _adapt_to_eight_experts(rules, recipe, T.Q4_K if two_bits else T.Q8_0)


def _adapt_to_eight_experts(rules: dict[Role, Rule], recipe: str, key_and_value: T) -> None:
    rules[Role.VALUE] = rules[Role.KEY] = ((Where.ALL, key_and_value),)
    rules.pop(Role.ATTENTION_OUTPUT, None)
    if recipe in EIGHT_EXPERTS_OUTPUT:
        rules[Role.ATTENTION_OUTPUT] = ((Where.ALL, T.Q5_K),)
    if recipe == "IQ3_M":
        rules[Role.DOWN] = ((Where.MORE_BITS, T.Q4_K),)


def _raised(rule: Rule, base: T) -> Rule:
    """The 70B models' value matrices are an eighth of the query's: three and four bits become five."""
    parts = rule if rule and rule[-1][0] is Where.ALL else (*rule, (Where.ALL, base))
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
    type = FALLBACK.get(type, type)
    return type if columns % type.block_weights == 0 else T.F16
