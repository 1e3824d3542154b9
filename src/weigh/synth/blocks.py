"""Random weights that every number format can hold: sane scales, finite activations.

Purely random bytes would put NaN and infinity into the scale fields of quantized blocks, which slow
kernels down or break them. So the codes of a block are random and its scales are set, such that weights
have a standard deviation near 0.02 and a mean near 0, as in trained models; norms keep activations
finite through any number of layers then.

Byte positions: the block structs of ggml-common.h (MIT).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import lru_cache

from weigh.errors import NotSupported
from weigh.model.ggml_types import GgmlType

POOL_BYTES = 4 << 20

_HALF_FIELDS: dict[GgmlType, tuple[tuple[int, float], ...]] = {
    # (byte offset in the block, value): d, and m or dmin chosen to cancel the mean of d * code
    GgmlType.Q4_0: ((0, 0.0043),),
    GgmlType.Q4_1: ((0, 0.0043), (2, -0.0323)),
    GgmlType.Q5_0: ((0, 0.0022),),
    GgmlType.Q5_1: ((0, 0.0022), (2, -0.0341)),
    GgmlType.Q8_0: ((0, 0.00027),),
    GgmlType.Q2_K: ((80, 0.0012), (82, 0.0018)),
    GgmlType.Q3_K: ((108, 0.00047),),
    GgmlType.Q4_K: ((0, 0.000077), (2, 0.00058)),
    GgmlType.Q5_K: ((0, 0.000038), (2, 0.00059)),
    GgmlType.Q6_K: ((208, 0.000015),),
    GgmlType.IQ4_NL: ((0, 0.00029),),
    GgmlType.IQ4_XS: ((0, 0.000016),),
    GgmlType.IQ2_XXS: ((0, 0.00046),),
    GgmlType.IQ2_XS: ((0, 0.00046),),
    GgmlType.IQ2_S: ((0, 0.00046),),
    GgmlType.IQ3_XXS: ((0, 0.00014),),
    GgmlType.IQ3_S: ((0, 0.00017),),
    GgmlType.IQ1_S: ((0, 0.003),),
    GgmlType.TQ1_0: ((52, 0.024),),
    GgmlType.TQ2_0: ((64, 0.02),),
    GgmlType.Q1_0: ((0, 0.02),),
    GgmlType.Q2_0: ((0, 0.016),),
}


def constant_weights(kind: GgmlType, value: float, count: int) -> bytes:
    """`count` times the same weight, in an unquantized format.

    Raises:
        NotSupported: a quantized format, which llama.cpp never uses for the tensors that need this.
    """
    single = struct.pack("<f", value)
    patterns = {
        GgmlType.F32: single,
        GgmlType.BF16: single[2:],
        GgmlType.F16: struct.pack("<e", value),
    }
    if kind not in patterns:
        raise NotSupported(f"norms or biases stored as {kind.name}")
    return patterns[kind] * count


@lru_cache(maxsize=64)
def random_blocks(kind: GgmlType, seed: int) -> bytes:
    """About 4 MiB of whole random blocks of `kind`, the same for the same seed."""
    count = POOL_BYTES // kind.block_bytes
    codes = random.Random(f"{kind.name} {seed}").randbytes(count * kind.block_bytes)
    pool = bytearray(codes)
    if kind in _HALF_FIELDS:
        for offset, value in _HALF_FIELDS[kind]:
            low, high = struct.pack("<e", value)
            pool[offset :: kind.block_bytes] = bytes([low]) * count
            pool[offset + 1 :: kind.block_bytes] = bytes([high]) * count
    elif kind in _OTHER:
        _OTHER[kind](pool, count)
    else:
        raise NotSupported(f"no random weights for tensors of type {kind.name}")
    return bytes(pool)


def _table(keep: int, put: int) -> bytes:
    """A translation of bytes that keeps the bits of `keep` and sets those of `put`."""
    return bytes(b & keep | put for b in range(256))


def _f16(pool: bytearray, count: int) -> None:
    """Random sign and mantissa, exponent -6: values of 0.016 to 0.031 either side of zero."""
    pool[1::2] = pool[1::2].translate(_table(0x83, 0x24))


def _bf16(pool: bytearray, count: int) -> None:
    pool[1::2] = pool[1::2].translate(_table(0x80, 0x3C))
    pool[0::2] = pool[0::2].translate(_table(0x7F, 0x80))


def _f32(pool: bytearray, count: int) -> None:
    pool[3::4] = pool[3::4].translate(_table(0x80, 0x3C))
    pool[2::4] = pool[2::4].translate(_table(0x7F, 0x80))


def _mxfp4(pool: bytearray, count: int) -> None:
    """Codes reach 12 half units; the exponent byte 120 stands for 2**-8 per half unit."""
    pool[0::17] = bytes([120]) * count


def _nvfp4(pool: bytearray, count: int) -> None:
    """Four scales per block, unsigned E4M3: 0x04 is 2**-7, below the normal ones."""
    for offset in range(4):
        pool[offset::36] = b"\x04" * count


def _iq1_m(pool: bytearray, count: int) -> None:
    """Its half-precision scale is spread over the top four bits of four 16-bit words (bytes 49 to 55)."""
    (bits,) = struct.unpack("<H", struct.pack("<e", 0.003))
    for word in range(4):
        at = 49 + 2 * word
        pool[at::56] = pool[at::56].translate(_table(0x0F, (bits >> 4 * word & 0xF) << 4))


_OTHER: dict[GgmlType, Callable[[bytearray, int], None]] = {
    GgmlType.F16: _f16,
    GgmlType.BF16: _bf16,
    GgmlType.F32: _f32,
    GgmlType.MXFP4: _mxfp4,
    GgmlType.NVFP4: _nvfp4,
    GgmlType.IQ1_M: _iq1_m,
}
