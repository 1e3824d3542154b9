"""Tensors that lie beside a language model: what sees, what hears, and what joins them to it.

Named and typed as in llama.cpp's `mmproj` files: matrices F16, vectors and learned positions F32.
"""

from __future__ import annotations

from weigh.model.architectures.fields import MOST_LAYERS, Fields
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import TensorGroup


class Beside:
    """A list of tensors in the making.

    Attributes:
        c: the whole config, the language model's fields apart.
        hidden: width of the language model, which projectors end in.
    """

    def __init__(self, c: Fields, hidden: int) -> None:
        self.c, self.hidden = c, hidden
        self.groups: list[TensorGroup] = []

    def matrix(
        self, name: str, columns: int, rows: int, *more: int, bias: bool = False, layers: int = 0
    ) -> None:
        """A matrix, or a convolution whose kernel is `columns` x `rows`; `bias` is as long as its last side."""
        every = tuple(range(layers))
        self.groups.append(TensorGroup(f"{name}.weight", (columns, rows, *more), GgmlType.F16, every))
        if bias:
            self.exact(f"{name}.bias", (columns, rows, *more)[-1], layers=layers)

    def exact(self, name: str, *shape: int, layers: int = 0) -> None:
        """A tensor kept in F32; `name` is whole."""
        self.groups.append(TensorGroup(name, shape, GgmlType.F32, tuple(range(layers))))

    def norm(self, name: str, length: int, *, bias: bool = True, layers: int = 0) -> None:
        self.exact(f"{name}.weight", length, layers=layers)
        if bias:
            self.exact(f"{name}.bias", length, layers=layers)

    def tower(
        self,
        prefix: str,
        c: Fields,
        hidden: int,
        width: int,
        *,
        fused: bool = False,
        gated: bool = False,
        attention_bias: bool = True,
        output_bias: bool | None = None,
        norm_bias: bool = True,
        ffn_bias: bool = True,
    ) -> int:
        """The layers of a vision transformer, `prefix.blk.{}`; returns how many.

        Args:
            fused: query, key and value in one matrix.
            gated: three matrices in the feed-forward part.
            output_bias: of the attention's last matrix; like the others' by default.
        """
        layers = c.count("num_hidden_layers", "depth", "vt_num_hidden_layers", most=MOST_LAYERS)
        name = f"{prefix}.blk.{{}}"
        for norm in ("ln1", "ln2"):
            self.norm(f"{name}.{norm}", hidden, bias=norm_bias, layers=layers)
        if fused:
            self.matrix(f"{name}.attn_qkv", hidden, 3 * hidden, bias=attention_bias, layers=layers)
        else:
            for role in ("attn_q", "attn_k", "attn_v"):
                self.matrix(f"{name}.{role}", hidden, hidden, bias=attention_bias, layers=layers)
        output_bias = attention_bias if output_bias is None else output_bias
        self.matrix(f"{name}.attn_out", hidden, hidden, bias=output_bias, layers=layers)
        for role in ("ffn_gate", "ffn_up") if gated else ("ffn_up",):
            self.matrix(f"{name}.{role}", hidden, width, bias=ffn_bias, layers=layers)
        self.matrix(f"{name}.ffn_down", width, hidden, bias=ffn_bias, layers=layers)
        return layers
