import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_models import tiny_llama
from weigh.errors import BadInput, NoSpace
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.spec import Mixer, MixerKind, TensorGroup
from weigh.synth import gguf
from weigh.synth.gguf import truncated, write_gguf


def test_what_is_written_reads_back_as_the_same_model(tmp_path: Path) -> None:
    spec = tiny_llama(experts=8, experts_used=2, name="mixture")
    path = tmp_path / "model.gguf"
    size = write_gguf(spec, path)
    read = read_gguf(path)
    assert size == path.stat().st_size
    assert read.architecture == "llama"
    assert (read.layers, read.hidden, read.vocab) == (2, 256, 1024)
    assert (read.experts, read.experts_used) == (8, 2)
    assert set(read.tensors) == set(spec.tensors)
    assert read.mixers == spec.mixers
    assert read.hyper["attention.head_count_kv"] == 2
    assert read.hyper["rope.freq_base"] == 500000.0


@pytest.mark.parametrize(("recipe", "read"), [("Q4_K_M", "Q4_K_M"), ("BF16", "BF16"), ("a mix", "Q4_K")])
def test_the_recipe_is_said_where_it_has_a_number(tmp_path: Path, recipe: str, read: str) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(replace(tiny_llama(), quantization=recipe), path, weights=False)
    assert read_gguf(path).quantization == read


def test_a_header_alone_is_as_long_as_the_model_and_takes_little_disk(tmp_path: Path) -> None:
    spec = tiny_llama(layers=80, hidden=8192, feed_forward=28672, heads=64, kv_heads=8, head_dim=128)
    path = tmp_path / "model.gguf"
    size = write_gguf(spec, path, weights=False)
    assert size == path.stat().st_size > 35 << 30
    assert path.stat().st_blocks * 512 < 1 << 20
    assert read_gguf(path).tensor_bytes == spec.tensor_bytes


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for path, seed in ((a, 1), (b, 1), (c, 2)):
        write_gguf(tiny_llama(), path, seed=seed)
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


def test_layers_of_one_role_hold_different_weights(tmp_path: Path) -> None:
    spec = tiny_llama(layers=2)
    path = tmp_path / "model.gguf"
    write_gguf(spec, path)
    # layers come last in the file, each with the same tensors in the same order
    layer_bytes = sum(t.tensor_bytes for t in spec.tensors if t.layers)
    data = path.read_bytes()
    first, second = data[-2 * layer_bytes : -layer_bytes], data[-layer_bytes:]
    norms = 2 * 256 * 4
    assert first[:norms] == second[:norms]
    assert first[norms:] != second[norms:]


def test_progress_ends_at_the_length_of_the_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    size = write_gguf(tiny_llama(), tmp_path / "model.gguf", progress=lambda *at: seen.append(at))
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


def test_a_disk_that_is_too_small_is_refused_before_writing(tmp_path: Path) -> None:
    # 2 experts of 2**40 x 256 weights at 18 bytes per 32: 144 TiB each
    monster = TensorGroup("blk.{}.ffn_up_exps.weight", (256, 1 << 40, 2), GgmlType.Q4_0, (0, 1))
    spec = tiny_llama()
    path = tmp_path / "model.gguf"
    with pytest.raises(NoSpace, match="are needed"):
        write_gguf(replace(spec, tensors=(*spec.tensors, monster)), path)
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_disk_that_fills_up_while_writing_is_one_clear_error(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.gguf"
    path.symlink_to("/dev/full")
    with pytest.raises(NoSpace):
        write_gguf(tiny_llama(), path)
    assert not os.path.lexists(path)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(written: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(tiny_llama(), tmp_path / "model.gguf", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_model_cut_to_fewer_layers_keeps_its_shapes() -> None:
    spec = tiny_llama(layers=6)
    cut = truncated(spec, 2)
    assert cut.layers == cut.hyper["block_count"] == 2
    assert cut.mixers == (Mixer(MixerKind.FULL, (0, 1), 4, 2, 64, 64),)
    outside = sum(t.total_bytes for t in spec.tensors if not t.layers)
    assert cut.tensor_bytes - outside == (spec.tensor_bytes - outside) * 2 // 6
    assert truncated(spec, 6) == spec


def test_per_layer_settings_are_cut_with_the_layers() -> None:
    spec = replace(
        tiny_llama(layers=4),
        mixers=(
            Mixer(MixerKind.SLIDING, (0, 2), 4, 2, 64, 64, 512),
            Mixer(MixerKind.FULL, (1, 3), 4, 2, 64, 64),
        ),
        hyper={
            "block_count": 5,  # with one layer of multi-token prediction
            "nextn_predict_layers": 1,
            "attention.head_count_kv": (2, 4, 2, 4),
            "leading_dense_block_count": 3,
            "attention.shared_kv_layers": 3,  # layers 1, 2 and 3 borrow from layer 0
            "rope.dimension_sections": (16, 24, 24),
        },
    )
    cut = truncated(spec, 2)
    assert cut.mixers[0].layers == (0,)
    assert cut.mixers[1].layers == (1,)
    assert cut.hyper == {
        "block_count": 2,
        "nextn_predict_layers": 0,
        "attention.head_count_kv": (2, 4),
        "leading_dense_block_count": 2,
        "attention.shared_kv_layers": 1,
        "rope.dimension_sections": (16, 24, 24),
    }


def test_a_role_of_late_layers_disappears_rather_than_moving_outside_the_layers() -> None:
    late = TensorGroup("blk.{}.ffn_late.weight", (256, 256), GgmlType.Q4_K, (3,))
    spec = tiny_llama(layers=4)
    cut = truncated(replace(spec, tensors=(*spec.tensors, late)), 2)
    assert all("ffn_late" not in t.name for t in cut.tensors)


@pytest.mark.parametrize("layers", [0, 3])
def test_more_layers_than_there_are_cannot_be_kept(layers: int) -> None:
    with pytest.raises(BadInput, match="2 layers"):
        truncated(tiny_llama(layers=2), layers)


def test_every_byte_has_its_own_printable_letter() -> None:
    letters = gguf.byte_letters()
    assert len(set(letters)) == 256
    assert letters[ord("A")] == "A"
    assert letters[0] == "Ā"  # as GPT-2 writes a zero byte
    assert letters[ord(" ")] == "Ġ"
