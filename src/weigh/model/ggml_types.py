"""Number formats of ggml: how many weights a block holds and how many bytes it takes.

Source of ids and block sizes: ggml.h `enum ggml_type` and the block structs of ggml-common.h (MIT).
"""

from __future__ import annotations

from enum import Enum


class GgmlType(Enum):
    """A number format; the value is (id in GGUF files, weights per block, bytes per block)."""

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q8_1 = (9, 32, 36)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    Q8_K = (15, 256, 292)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    I8 = (24, 1, 1)
    I16 = (25, 1, 2)
    I32 = (26, 1, 4)
    I64 = (27, 1, 8)
    F64 = (28, 1, 8)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    TQ1_0 = (34, 256, 54)
    TQ2_0 = (35, 256, 66)
    MXFP4 = (39, 32, 17)
    NVFP4 = (40, 64, 36)
    Q1_0 = (41, 128, 18)
    Q2_0 = (42, 64, 18)

    def __init__(self, id: int, block_weights: int, block_bytes: int) -> None:
        # plain attributes: they are read some 100,000 times to weigh the catalog
        self.id = id
        self.block_weights = block_weights
        self.block_bytes = block_bytes

    __hash__ = object.__hash__  # each member exists once; Enum's own hash is ten times slower

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_weights

    @property
    def quantized(self) -> bool:
        return self.block_weights > 1

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` weights; `columns` must be a multiple of the block."""
        return columns // self.block_weights * self.block_bytes


BY_ID = {t.id: t for t in GgmlType}
