"""Number formats of safetensors checkpoints that GGUF does not know, as they lie in the file.

Scales and zero points are tensors of their own there; their bytes are `TensorGroup.extra_bytes`.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from weigh.model.ggml_types import GgmlType


class StoredType(Enum):
    """A format as (weights of a block, bytes of a block), with the interface of `GgmlType`.

    Source: safetensors' dtypes; AutoAWQ and GPTQ pack eight 4-bit weights into an int32; bitsandbytes packs
    two NF4 weights into a byte; OCP MX and NVFP4 pack two E2M1 weights into a byte. Widths that do not divide
    a word (GPTQ's 3 bits, MLX's 3, 5 and 6) run on from one word into the next.
    """

    FP8_E4M3 = (1, 1)
    FP8_E5M2 = (1, 1, "e5m2")
    INT8 = (1, 1, "int8")
    INT6 = (4, 3)
    INT5 = (8, 5)
    INT4 = (2, 1)
    INT3 = (8, 3)
    INT2 = (4, 1)
    NF4 = (2, 1, "nf4")
    FP4 = (2, 1, "fp4")

    def __init__(self, block_weights: int, block_bytes: int, _told_apart: str = "") -> None:
        self.block_weights = block_weights
        self.block_bytes = block_bytes

    __hash__ = object.__hash__

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_weights

    @property
    def quantized(self) -> bool:
        return True

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` weights, an odd last one in a block of its own."""
        return -(-columns // self.block_weights) * self.block_bytes


NumberFormat: TypeAlias = GgmlType | StoredType
