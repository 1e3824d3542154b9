import struct

import pytest

from weigh.errors import NotSupported
from weigh.model.ggml_types import GgmlType
from weigh.synth.blocks import constant_weights, random_blocks

STORED = [
    t for t in GgmlType if t.quantized and t.name not in ("Q8_1", "Q8_K")
]  # those two live in memory only
HALF_AT = {
    # byte offsets of the half-precision scales, read off the block structs of ggml-common.h
    GgmlType.Q4_0: (0,),
    GgmlType.Q4_K: (0, 2),
    GgmlType.Q6_K: (208,),
    GgmlType.Q2_K: (80, 82),
    GgmlType.Q3_K: (108,),
    GgmlType.Q8_0: (0,),
    GgmlType.IQ4_XS: (0,),
}


@pytest.mark.parametrize("kind", [*STORED, GgmlType.F32, GgmlType.F16, GgmlType.BF16], ids=lambda k: k.name)
def test_a_pool_is_whole_blocks_and_repeats_for_the_same_seed(kind: GgmlType) -> None:
    pool = random_blocks(kind, 0)
    assert len(pool) % kind.block_bytes == 0
    assert 3 << 20 < len(pool) <= 4 << 20
    random_blocks.cache_clear()
    assert random_blocks(kind, 0) == pool
    assert random_blocks(kind, 1) != pool


@pytest.mark.parametrize("kind", HALF_AT, ids=lambda k: k.name)
def test_scales_are_small_numbers_in_every_block(kind: GgmlType) -> None:
    pool = random_blocks(kind, 0)
    for offset in HALF_AT[kind]:
        for block in range(0, len(pool), kind.block_bytes * 997):
            (scale,) = struct.unpack_from("<e", pool, block + offset)
            assert 1e-6 < abs(scale) < 0.05


def test_unquantized_weights_are_about_a_fiftieth_with_either_sign() -> None:
    # exponent -6 and any mantissa: 2**-6 = 0.0156 up to 2**-5 = 0.0313
    for kind, code in ((GgmlType.F16, "e"), (GgmlType.F32, "f")):
        pool = random_blocks(kind, 0)[: 1000 * kind.block_bytes]
        weights = struct.unpack(f"<1000{code}", pool)
        assert all(2**-6 <= abs(w) < 2**-5 for w in weights)
        assert 400 < sum(w > 0 for w in weights) < 600


def test_bfloat16_is_the_upper_half_of_a_float() -> None:
    pool = random_blocks(GgmlType.BF16, 0)
    for at in range(0, 200, 2):
        (weight,) = struct.unpack("<f", b"\0\0" + pool[at : at + 2])
        assert 2**-6 <= abs(weight) < 2**-5


def test_constants_read_back_as_themselves() -> None:
    assert struct.unpack("<3f", constant_weights(GgmlType.F32, -1.0, 3)) == (-1.0, -1.0, -1.0)
    assert struct.unpack("<2e", constant_weights(GgmlType.F16, 1.0, 2)) == (1.0, 1.0)
    assert constant_weights(GgmlType.BF16, 1.0, 1) == b"\x80\x3f"


def test_norms_in_a_quantized_format_are_refused() -> None:
    with pytest.raises(NotSupported):
        constant_weights(GgmlType.Q4_0, 1.0, 32)
