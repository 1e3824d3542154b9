from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import pytest

from tests.shrink.models import gaussian_model
from weigh.errors import BadFile, NoSpace
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.gguf_encoding import NewTensor, pair
from weigh.shrink import gguf_file
from weigh.shrink.gguf_file import GgufWeights, value_of


def all_rows(weights: GgufWeights, tensor: NewTensor) -> bytes:
    return weights.rows(tensor, 0, prod(tensor.shape[1:])).tobytes()


def copied(weights: GgufWeights) -> "dict[str, bytes]":
    return {tensor.name: all_rows(weights, tensor) for tensor in weights.tensors}


def test_a_copy_is_the_same_to_the_byte(tmp_path: Path) -> None:
    path = gaussian_model(tmp_path / "model.gguf", vocab_size=515)  # sizes that need padding
    source = GgufWeights(path)
    target = tmp_path / "copy.gguf"
    size = gguf_file.write(target, source.entries, source.tensors, lambda t: [all_rows(source, t)])
    assert target.read_bytes() == path.read_bytes()
    assert size == path.stat().st_size
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_values_are_read_whatever_their_type() -> None:
    entries = {"a": pair("a", "text"), "b": pair("b", (1, 2)), "c": pair("c", True), "d": pair("d", 1 << 40)}
    assert [value_of(entries, key) for key in "abcde"] == ["text", (1, 2), True, 1 << 40, None]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_breaks_off_leaves_nothing_and_spares_what_was_there(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = gaussian_model(tmp_path / "model.gguf")
    before = path.read_bytes()
    source = GgufWeights(path)

    def data(tensor: NewTensor) -> Iterator[bytes]:
        if tensor.name.startswith("blk.1"):
            raise error
        yield all_rows(source, tensor)

    with pytest.raises(error):
        gguf_file.write(path, source.entries, source.tensors, data)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_larger_than_the_disk_is_not_begun(tmp_path: Path) -> None:
    tensors = [NewTensor("w", (1 << 30, 1 << 20), GgmlType.F32)]
    with pytest.raises(NoSpace, match="are needed for a model file"):
        gguf_file.write(tmp_path / "a.gguf", {}, tensors, lambda t: [b""])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such folder"):
        gguf_file.write(tmp_path / "none" / "a.gguf", {}, [], lambda t: [b""])


def test_progress_ends_at_the_length_of_the_file(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    said: list[tuple[int, int]] = []
    size = gguf_file.write(
        tmp_path / "copy.gguf",
        source.entries,
        source.tensors,
        lambda t: [all_rows(source, t)],
        lambda done, of: said.append((done, of)),
    )
    assert said[-1] == (size, size)
    assert said == sorted(said)


def test_all_parts_of_a_split_model_are_read_as_one(tmp_path: Path) -> None:
    whole = GgufWeights(gaussian_model(tmp_path / "model.gguf"))
    halves = whole.tensors[:12], whole.tensors[12:]
    for number, half in enumerate(halves):
        said = {"split.no": number, "split.count": 2, "split.tensors.count": len(whole.tensors)}
        entries = dict(whole.entries) if number == 0 else {}
        entries |= {key: pair(key, value) for key, value in said.items()}
        path = tmp_path / f"split-{number + 1:05}-of-00002.gguf"
        gguf_file.write(path, entries, half, lambda t: [all_rows(whole, t)])
    joined = GgufWeights(tmp_path / "split-00001-of-00002.gguf")
    assert copied(joined) == copied(whole)
    assert joined.entries == whole.entries


@pytest.mark.parametrize("length", [3, 20, 100, 2000, 5000])
def test_a_header_that_is_cut_short_is_told(length: int, tmp_path: Path) -> None:
    path = gaussian_model(tmp_path / "model.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BadFile):
        gguf_file.parse(cut)
    with pytest.raises(BadFile):
        GgufWeights(cut)


def test_weights_read_back_are_those_written(tmp_path: Path) -> None:
    source = GgufWeights(gaussian_model(tmp_path / "model.gguf", seed=4))
    tensor = next(t for t in source.tensors if t.name == "blk.1.ffn_up.weight")
    part = source.rows(tensor, 10, 20).view(np.float16)
    assert part.shape == (10, 256)
    assert 0.02 < float(np.std(part.astype(np.float32))) < 0.2
    assert read_gguf(tmp_path / "model.gguf").layers == 3
