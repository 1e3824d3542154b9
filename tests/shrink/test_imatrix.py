import struct
from pathlib import Path

import numpy as np
import pytest

from weigh.errors import BadFile
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_encoding import STRING, NewTensor, header, pair
from weigh.shrink import gguf_file
from weigh.shrink.imatrix import read_imatrix

SUMS = np.array([[2.0, 4.0, 6.0], [9.0, 9.0, 9.0]], dtype="<f4")


def write_gguf_matrix(path: Path, sums: np.ndarray, counts: list[float], kind: str = "imatrix") -> Path:
    arrays = {
        "blk.0.ffn_up.weight.in_sum2": sums.astype("<f4"),
        "blk.0.ffn_up.weight.counts": np.array(counts, dtype="<f4"),
    }
    entries = {
        "general.type": pair("general.type", kind),
        "imatrix.datasets": pair("imatrix.datasets", ("a.txt", "b.txt"), STRING),
        "imatrix.chunk_count": pair("imatrix.chunk_count", 5),
    }
    tensors = [
        NewTensor("blk.0.ffn_up.weight.in_sum2", sums.shape[::-1], GgmlType.F32),
        NewTensor("blk.0.ffn_up.weight.counts", (1, len(counts)), GgmlType.F32),
    ]
    gguf_file.write(path, entries, tensors, lambda t: [arrays[t.name].tobytes()])
    return path


def test_sums_are_divided_by_counts_and_matrices_nothing_passed_count_alike(tmp_path: Path) -> None:
    found = read_imatrix(write_gguf_matrix(tmp_path / "i.gguf", SUMS, [2.0, 0.0]))
    assert found.values["blk.0.ffn_up.weight"].tolist() == [[1, 2, 3], [1, 1, 1]]
    assert (found.file, found.datasets, found.chunks) == ("i.gguf", ("a.txt", "b.txt"), 5)


def test_the_older_format(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    name, text = b"blk.0.attn_q.weight", b"wiki.txt"
    path.write_bytes(
        struct.pack("<ii", 1, len(name))
        + name
        + struct.pack("<ii3f", 4, 3, 4.0, 8.0, 2.0)
        + struct.pack("<ii", 9, len(text))
        + text
    )
    found = read_imatrix(path)
    assert found.values["blk.0.attn_q.weight"].tolist() == [[1, 2, 0.5]]
    assert (found.datasets, found.chunks) == (("wiki.txt",), 9)


@pytest.mark.parametrize("data", [b"", b"hello there", b"GGUF", struct.pack("<ii", 1, 1 << 30), b"\xff" * 64])
def test_what_is_none_is_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(data)
    with pytest.raises(BadFile):
        read_imatrix(path)


@pytest.mark.parametrize(
    ("sums", "counts", "kind", "words"),
    [
        (SUMS, [1.0], "imatrix", "no counts"),
        (SUMS * np.nan, [1.0, 1.0], "imatrix", "numbers from 0 up"),
        (-SUMS, [1.0, 1.0], "imatrix", "numbers from 0 up"),
        (SUMS, [1.0, 1.0], "model", "is not `imatrix`"),
    ],
)
def test_numbers_that_no_importance_has_are_told(
    sums: np.ndarray, counts: list[float], kind: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(BadFile, match=words):
        read_imatrix(write_gguf_matrix(tmp_path / "i.gguf", sums, counts, kind))


@pytest.mark.parametrize("shape", [(0, 1), (4, 0)])
def test_arrays_of_nothing_are_no_importance(shape: tuple[int, int], tmp_path: Path) -> None:
    tensors = [
        NewTensor("blk.0.attn_q.weight.in_sum2", shape, GgmlType.F32),
        NewTensor("blk.0.attn_q.weight.counts", (1, 1), GgmlType.F32),
    ]
    path = tmp_path / "empty.gguf"
    path.write_bytes(header([pair("general.type", "imatrix")], tensors) + bytes(64))
    with pytest.raises(BadFile, match="no array of numbers"):
        read_imatrix(path)


@pytest.mark.parametrize("chunks", [-1, 1 << 32, "many"])
def test_a_count_that_no_file_can_keep_is_none(chunks: int | str, tmp_path: Path) -> None:
    tensors = [NewTensor(f"blk.0.attn_q.weight.{end}", (1, 1), GgmlType.F32) for end in ("in_sum2", "counts")]
    entries = [pair("general.type", "imatrix"), pair("imatrix.chunk_count", chunks)]
    path = tmp_path / "m.gguf"
    path.write_bytes(header(entries, tensors) + struct.pack("<f28xf28x", 2.0, 1.0))
    assert read_imatrix(path).chunks == 0
