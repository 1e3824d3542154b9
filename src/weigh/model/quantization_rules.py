"""The rules of `llama-quantize`: which tensors of which layers a recipe gives another format than its base.

Source: llama.cpp `src/llama-quant.cpp` (MIT), read at build 11669 and checked tensor by tensor against that build's
own output (benchmarks/quantizer_check.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from typing import TypeAlias

from weigh.model.ggml_types import GgmlType as T

# Recipe -> the format of a tensor that no rule singles out; most bits first.
BASE: Mapping[str, T] = {
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
WIDE_ENDS: Mapping[str, str] = {
    "Q6_K_L": "Q6_K",
    "Q5_K_L": "Q5_K_M",
    "Q4_K_L": "Q4_K_M",
    "Q3_K_XL": "Q3_K_L",
    "Q2_K_L": "Q2_K",
}
TWO_BITS = frozenset(("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"))  # and fewer


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
RULES: Mapping[str, Mapping[Role, Rule]] = {
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
DOWN_WITH_MATRIX: Mapping[str, Rule] = {
    "IQ4_NL": (),
    "IQ4_XS": (),
    "Q4_0": ((_EIGHTH, T.Q4_1),),
    "Q5_0": ((_EIGHTH, T.Q5_1),),
}
# Where four or more query heads share one value head, its matrix is small and errors in it are shared.
SHARED_VALUE: Mapping[str, T] = {
    **dict.fromkeys(("Q2_K", "Q2_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS", *TWO_BITS), T.Q4_K),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), T.Q5_K),
}
# With exactly eight experts (Mixtral) attention is a small part of the file.
EIGHT_EXPERTS_OUTPUT = TWO_BITS | {
    *("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"),
    *("IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"),
}
FALCON: Mapping[str, Mapping[Role, Rule]] = {
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
FALLBACK: Mapping[T, T] = {
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


@cache
def role_of(name: str) -> Role | None:
    """The role of a tensor; None when the quantizer leaves tensors of that name alone."""
    if not name.endswith("weight") or any(part in name for part in _KEPT):
        return None
    if name == "output.weight":
        return Role.OUTPUT
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return Role.EMBEDDING
    return next((role for part, role in _ROLES if part in name), Role.OTHER)
