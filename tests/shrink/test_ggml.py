import numpy as np
import pytest

from weigh.errors import BadInput, NotSupported
from weigh.model.ggml_types import GgmlType
from weigh.shrink import ggml


def weights(rows: int = 24, columns: int = 512, seed: int = 0) -> ggml.Floats:
    return (0.05 * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)


def relative_error(type: GgmlType, importance: ggml.Floats | None = None) -> float:
    given = weights()
    back = ggml.dequantize(ggml.quantize(given, type, importance), type)
    return float(np.square(back - given).sum() / np.square(given).sum())


# A code of so many bits errs by about four to their power; up to sixteen times that, and no better than BF16.
@pytest.mark.parametrize("type", [t for t in ggml.WRITABLE if t.bits_per_weight > 3], ids=lambda t: t.name)
def test_what_comes_back_is_near_to_what_was_given(type: GgmlType) -> None:
    assert relative_error(type) < 16 * 4.0 ** -min(type.bits_per_weight, 11)


def test_more_bits_lose_less() -> None:
    order = [GgmlType[name] for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "F32")]
    errors = [relative_error(type) for type in order]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_q8_0_is_what_its_definition_says() -> None:
    """Blocks of 32: a half-precision scale, the largest weight over 127, and each weight in whole scales."""
    given = weights(rows=3, columns=64)
    found = ggml.quantize(given, GgmlType.Q8_0).reshape(-1, 34)
    blocks = given.reshape(-1, 32)
    scales = np.abs(blocks).max(axis=1) / np.float32(127)
    assert np.array_equal(found[:, :2].copy().view(np.float16)[:, 0], scales.astype(np.float16))
    assert np.array_equal(found[:, 2:].view(np.int8), np.rint(blocks / scales[:, None]).astype(np.int8))


def test_rows_are_rounded_by_themselves_however_they_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = weights(rows=40)
    whole = ggml.quantize(given, GgmlType.Q4_K)
    monkeypatch.setattr(ggml, "_PIECE_WEIGHTS", 3 * 512)
    assert np.array_equal(ggml.quantize(given, GgmlType.Q4_K), whole)
    assert np.array_equal(
        np.concatenate([ggml.quantize(row[None], GgmlType.Q4_K) for row in given]),
        whole,
    )
    assert np.array_equal(
        ggml.dequantize(whole, GgmlType.Q4_K),
        np.concatenate([ggml.dequantize(row[None], GgmlType.Q4_K) for row in whole]),
    )


def test_important_columns_are_rounded_better() -> None:
    given = weights(rows=200)
    importance = np.ones(512, dtype=np.float32)
    importance[::4] = 100
    plain, guided = (
        np.square(ggml.dequantize(ggml.quantize(given, GgmlType.Q3_K, by), GgmlType.Q3_K) - given)[
            :, ::4
        ].sum()
        for by in (None, importance)
    )
    assert guided < 0.8 * plain


def test_formats_that_need_an_importance_say_so() -> None:
    assert {type.name for type in ggml.WRITABLE if ggml.needs_importance(type)} == {
        "IQ2_XXS",
        "IQ2_XS",
        "IQ1_S",
    }
    with pytest.raises(NotSupported, match="importance matrix only"):
        ggml.quantize(weights(), GgmlType.IQ2_XXS)
    importance = np.ones(512, dtype=np.float32)
    assert relative_error(GgmlType.IQ2_XXS, importance) < 0.2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e5])
def test_weights_that_would_end_the_process_are_refused(bad: float) -> None:
    given = weights()
    given[7, 3] = bad
    with pytest.raises(BadInput, match="no numbers, or too large"):
        ggml.quantize(given, GgmlType.IQ3_S)


@pytest.mark.parametrize("importance", [np.ones(511), np.full(512, np.nan), np.full(512, -1.0)])
def test_an_importance_that_is_none_is_refused(importance: ggml.Floats) -> None:
    with pytest.raises(BadInput, match="its importance is not 512 numbers"):
        ggml.quantize(weights(), GgmlType.Q4_K, importance.astype(np.float32))


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(NotSupported, match="rows of 96 weights are no whole blocks of 256"):
        ggml.quantize(weights(columns=96), GgmlType.Q4_K)


def test_tensors_of_integers_hold_no_weights() -> None:
    with pytest.raises(NotSupported, match="hold no weights"):
        ggml.dequantize(np.zeros((1, 8), dtype=np.uint8), GgmlType.I32)
    with pytest.raises(NotSupported, match="not stored as Q8_K"):
        ggml.quantize(weights(), GgmlType.Q8_K)
