"""GGUF headers: exact for sound files, one clear line for all others."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.gguf_files import (
    ARRAY,
    U16,
    GgufFile,
    TensorInfo,
    Typed,
    llama_file,
    llama_tensors,
    llama_values,
    numbers,
    strings,
)
from weigh.errors import BadFile
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.spec import Mixer, MixerKind

# One layer of `llama_tensors`: attention 256x256 twice and 256x128 twice, feed-forward 256x512 three times.
LAYER_MATRIX_WEIGHTS = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512
PARAMETERS = 256 * 300 + 2 * (LAYER_MATRIX_WEIGHTS + 2 * 256) + 256
# In blocks of 256: Q4_K 144 bytes, Q6_K 210. Layer 0 holds its 256x128 values in Q6_K.
TENSOR_BYTES = (
    300 * 210
    + 2 * LAYER_MATRIX_WEIGHTS // 256 * 144
    + 128 * (210 - 144)
    + 5 * 256 * 4  # two norms a layer, one at the end
)


def problem(path: Path) -> str:
    """What is said about a file that cannot be read, in one line that begins with its path."""
    with pytest.raises(BadFile) as caught:
        read_gguf(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()  # hence one line
    return message.removeprefix(f"{path}: ")


def test_what_the_header_says_is_the_model(tmp_path: Path) -> None:
    path = llama_file().write(tmp_path / "m.gguf")
    spec = read_gguf(path)
    assert (spec.name, spec.architecture, spec.basis) == ("Tiny Llama", "llama", "file")
    assert (spec.layers, spec.hidden, spec.vocab, spec.feed_forward) == (2, 256, 300, 512)
    assert spec.context_train == 4096
    assert spec.mixers == (Mixer(MixerKind.FULL, (0, 1), 4, 2, 64, 64),)
    assert (spec.file, spec.file_bytes) == (path, path.stat().st_size)


def test_parameters_and_bytes_are_exact(tmp_path: Path) -> None:
    spec = read_gguf(llama_file().write(tmp_path / "m.gguf"))
    assert spec.parameters == spec.active_parameters == PARAMETERS
    assert spec.tensor_bytes == TENSOR_BYTES


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_and_byte_orders_are_the_same_model(tmp_path: Path, version: int, order: str) -> None:
    path = tmp_path / "m.gguf"
    expected = read_gguf(llama_file().write(path))
    assert read_gguf(replace(llama_file(), version=version, order=order).write(path)) == expected


def test_tensors_of_one_role_and_type_are_one_group(tmp_path: Path) -> None:
    spec = read_gguf(llama_file().write(tmp_path / "m.gguf"))
    values = {t.type: t.layers for t in spec.tensors if t.name == "blk.{}.attn_v.weight"}
    assert values == {GgmlType.Q6_K: (0,), GgmlType.Q4_K: (1,)}
    gates = [t for t in spec.tensors if t.name == "blk.{}.ffn_gate.weight"]
    assert [(t.shape, t.layers) for t in gates] == [((256, 512), (0, 1))]


def test_hyperparameters_lose_their_prefix_and_the_vocabulary(tmp_path: Path) -> None:
    file = llama_file(
        llama__rope__dimension_sections=numbers(1, 2, 3), llama__attention__scale=Typed(12, 0.5)
    )
    hyper = read_gguf(file.write(tmp_path / "m.gguf")).hyper
    assert hyper["rope.freq_base"] == 500000.0
    assert hyper["attention.head_count"] == 4
    assert hyper["rope.dimension_sections"] == (1, 2, 3)
    assert hyper["attention.scale"] == 0.5
    assert not [key for key in hyper if key.startswith(("general", "tokenizer", "llama"))]


def test_kv_heads_that_differ_by_layer_make_two_mixers(tmp_path: Path) -> None:
    file = llama_file(llama__attention__head_count_kv=numbers(2, 1))
    spec = read_gguf(file.write(tmp_path / "m.gguf"))
    assert [(m.layers, m.kv_heads) for m in spec.mixers] == [((0,), 2), ((1,), 1)]


def test_experts_count_as_active_only_where_a_token_goes(tmp_path: Path) -> None:
    experts = TensorInfo("blk.0.ffn_up_exps.weight", (256, 512, 8), GgmlType.Q4_K.id)
    values = llama_values(llama__expert_count=8, llama__expert_used_count=2)
    spec = read_gguf(GgufFile(values, [*llama_tensors(), experts]).write(tmp_path / "m.gguf"))
    assert spec.parameters == PARAMETERS + 8 * 256 * 512
    assert spec.active_parameters == PARAMETERS + 2 * 256 * 512


@pytest.mark.parametrize(("file_type", "recipe"), [(15, "Q4_K_M"), (1024 + 7, "Q8_0"), (38, "MXFP4_MOE")])
def test_the_recipe_is_the_files_own_word(tmp_path: Path, file_type: int, recipe: str) -> None:
    spec = read_gguf(llama_file(general__file_type=file_type).write(tmp_path / "m.gguf"))
    assert spec.quantization == recipe


@pytest.mark.parametrize("more", [{}, {"general__file_type": 999}])
def test_without_a_known_recipe_the_type_of_most_bytes_stands(
    tmp_path: Path, more: dict[str, object]
) -> None:
    assert read_gguf(llama_file(**more).write(tmp_path / "m.gguf")).quantization == "Q4_K"


def test_a_nameless_file_is_called_after_its_path(tmp_path: Path) -> None:
    spec = read_gguf(llama_file(general__name=" ").write(tmp_path / "some-model.gguf"))
    assert spec.name == "some-model"


def test_what_is_printed_of_a_file_has_no_control_characters(tmp_path: Path) -> None:
    file = llama_file(general__name="a\x1b[2Jb\u202ec", llama__rope__scaling__type="x\ny")
    spec = read_gguf(file.write(tmp_path / "m.gguf"))
    assert spec.name == r"a\x1b[2Jb\u202ec"
    assert spec.hyper["rope.scaling.type"] == r"x\ny"


def test_other_alignments_move_the_data(tmp_path: Path) -> None:
    file = replace(llama_file(general__alignment=4096), alignment=4096)
    assert read_gguf(file.write(tmp_path / "m.gguf")).tensor_bytes == TENSOR_BYTES


# --- the vocabulary ----------------------------------------------------------------------------------


def test_a_token_that_looks_like_the_next_key_does_not_mislead(tmp_path: Path) -> None:
    bait = struct.pack("<Q", 23) + b"tokenizer.ggml.merges__" + struct.pack("<II", 4, 1)
    tokens = strings(*(f"t{i}" for i in range(298)), bait, "end")
    spec = read_gguf(llama_file(tokenizer__ggml__tokens=tokens).write(tmp_path / "m.gguf"))
    assert spec.vocab == 300
    assert spec.tensor_bytes == TENSOR_BYTES


def test_tokens_may_be_empty_long_or_full_of_zeros(tmp_path: Path) -> None:
    tokens = strings(*[""] * 100, "x" * 5000, *[b"\0" * 9] * 100, *["\0tokenizer."] * 99)
    spec = read_gguf(llama_file(tokenizer__ggml__tokens=tokens).write(tmp_path / "m.gguf"))
    assert spec.vocab == 300


def test_a_vocabulary_may_come_last(tmp_path: Path) -> None:
    values = llama_values()
    values["tokenizer.ggml.tokens"] = values.pop("tokenizer.ggml.tokens")
    assert read_gguf(GgufFile(values, llama_tensors()).write(tmp_path / "m.gguf")).vocab == 300


def test_a_vocabulary_longer_than_the_first_read_is_followed(tmp_path: Path) -> None:
    values = llama_values()
    values["tokenizer.ggml.merges"] = strings(*["some long merge of two"] * 60_000)
    for order in "<>":
        path = GgufFile(values, llama_tensors(), order=order).write(tmp_path / "m.gguf")
        assert read_gguf(path).tensor_bytes == TENSOR_BYTES


def test_a_wrong_number_of_tokens_is_noticed(tmp_path: Path) -> None:
    sound = llama_file().header()
    at = sound.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    path = tmp_path / "m.gguf"
    path.write_bytes(sound[:at] + struct.pack("<Q", 1 << 40) + sound[at + 8 :])
    assert problem(path).startswith("1099511627776 strings of `tokenizer.ggml.tokens` are announced, with")


# --- large and small ---------------------------------------------------------------------------------


def test_a_header_before_a_100_gb_hole_is_read_without_the_hole(tmp_path: Path) -> None:
    huge = TensorInfo("blk.0.ffn_up_exps.weight", (1 << 14, 1 << 14, 660), GgmlType.Q4_K.id)
    path = GgufFile(llama_values(), [*llama_tensors(), huge]).write(tmp_path / "m.gguf")
    size = path.stat().st_size
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("the file system has no sparse files")
    assert size > 99e9
    assert read_gguf(path).file_bytes == size


def test_counts_that_lie_are_refused_before_they_are_believed(tmp_path: Path) -> None:
    for name in ("tensor_count", "pair_count"):
        for count in (1 << 40, (1 << 64) - 1):
            lying = replace(llama_file(), **{name: count})
            assert "are announced, with" in problem(lying.write(tmp_path / "m.gguf"))


def test_zeros_without_end_are_no_header(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 12, 1 << 12))
    with path.open("r+b") as file:
        file.truncate(100 << 30)
    assert problem(path) == "metadata `` is there twice at byte 45"


@pytest.mark.parametrize("lost", [1, 1000, TENSOR_BYTES])
def test_a_cut_file_says_how_much_is_missing(tmp_path: Path, lost: int) -> None:
    file = llama_file()
    whole = file.data_start() + file.data_bytes()
    path = file.write(tmp_path / "m.gguf", size=whole - lost)
    assert problem(path) == f"is cut short: {lost} of {whole} bytes are missing"


def test_a_header_cut_anywhere_is_one_line(tmp_path: Path) -> None:
    header = llama_file().header()
    for length in range(4, len(header), 97):
        path = tmp_path / "m.gguf"
        path.write_bytes(header[:length])
        assert "missing" in (said := problem(path)) or "bytes left" in said or "cannot be" in said


# --- damage ------------------------------------------------------------------------------------------

BROKEN = {
    "version 1": (replace(llama_file(), version=1), "is GGUF version 1; versions 2 and 3 can be read"),
    "version 9": (replace(llama_file(), version=9), "is GGUF version 9; versions 2 and 3 can be read"),
    "tensor type": (
        GgufFile(llama_values(), [TensorInfo("token_embd.weight", (256, 300), 99, bytes=64)]),
        "tensor `token_embd.weight` has unknown type 99",
    ),
    "removed type": (
        GgufFile(llama_values(), [TensorInfo("token_embd.weight", (256, 300), 31, bytes=64)]),
        "tensor `token_embd.weight` has unknown type 31",
    ),
    "dimensions": (
        GgufFile(llama_values(), [TensorInfo("a", (1, 1, 1, 1, 1))]),
        "tensor `a` has 5 dimensions; 4 are the most",
    ),
    "absurd shape": (
        GgufFile(llama_values(), [TensorInfo("a", (1 << 40, 1 << 40), bytes=64)]),
        "tensor `a` of 1099511627776 x 1099511627776 is in no model",
    ),
    "empty dimension": (
        GgufFile(llama_values(), [TensorInfo("a", (256, 0), bytes=64)]),
        "tensor `a` of 256 x 0 is in no model",
    ),
    "broken blocks": (
        GgufFile(llama_values(), [TensorInfo("a", (100, 2), GgmlType.Q4_K.id, bytes=64)]),
        "tensor `a`: rows of 100 are no whole blocks of Q4_K",
    ),
    "same name": (
        GgufFile(llama_values(), [TensorInfo("a", (8,)), TensorInfo("a", (8,))]),
        "tensor `a` is there twice",
    ),
    "hostile name": (
        GgufFile(llama_values(), [TensorInfo("a{0.__class__}", (8,))]),
        "tensor name `a{0.__class__}` is none that a model has",
    ),
    "offset": (
        GgufFile(llama_values(), [TensorInfo("a", (8,)), TensorInfo("b", (8,), offset=64)]),
        "tensor `b` lies at 64 where 32 was expected",
    ),
    "misaligned": (
        GgufFile(llama_values(), [TensorInfo("a", (8,), offset=7)]),
        "tensor `a` lies at 7 where 0 was expected",
    ),
    "no tensors": (GgufFile(llama_values(), []), "holds no tensors (a vocabulary alone?)"),
    "nested array": (
        llama_file(llama__x=Typed(ARRAY, items=[struct.pack("<IQ", 4, 0)])),
        "metadata `llama.x` is an array of arrays, which no engine reads",
    ),
    "value type": (llama_file(llama__x=Typed(77, b"")), "metadata `llama.x` has unknown type 77"),
    "array type": (
        llama_file(llama__x=Typed(77, items=[b"xxxx"])),
        "metadata `llama.x` is an array of unknown type 77",
    ),
    "alignment": (llama_file(general__alignment=24), "`general.alignment` is 24, not a power of 2"),
    "no alignment": (llama_file(general__alignment=0), "`general.alignment` is 0, not a power of 2"),
    "layers": (
        llama_file(llama__block_count=1 << 31),
        "`llama.block_count` is 2147483648, which no model has",
    ),
    "layers as text": (
        llama_file(llama__block_count="two"),
        "`llama.block_count` is two, which no model has",
    ),
    "no context": (
        GgufFile({k: v for k, v in llama_values().items() if "context" not in k}, llama_tensors()),
        "has no `llama.context_length`: not a language model llama.cpp would load",
    ),
    "heads as text": (
        llama_file(llama__attention__head_count="four"),
        "`attention.head_count` is 'four' where a count is expected",
    ),
    "too few per-layer values": (
        llama_file(llama__attention__head_count_kv=numbers(2)),
        "`attention.head_count_kv` has 1 values for 2 layers",
    ),
    "projector": (llama_file(general__architecture="clip"), "is no language model: its kind is `clip`"),
    "adapter": (llama_file(general__type="adapter"), "is no language model: its kind is `adapter`"),
    "no architecture": (llama_file(general__architecture=7), "does not say its architecture"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damage_is_named_in_one_line(tmp_path: Path, case: str) -> None:
    file, expected = BROKEN[case]
    said = problem(file.write(tmp_path / "m.gguf"))
    assert said.partition(" at byte ")[0] == expected


def test_a_key_there_twice_is_damage(tmp_path: Path) -> None:
    pair = struct.pack("<Q", 17) + b"llama.block_count" + struct.pack("<II", 4, 7)
    file = replace(llama_file(), extra=pair, pair_count=len(llama_values()) + 1)
    assert problem(file.write(tmp_path / "m.gguf")).startswith("metadata `llama.block_count` is there twice")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(60), "is a zip archive (a PyTorch checkpoint?), not a GGUF file"),
        (b"\x80\x02}q\x00" + bytes(60), "is a Python pickle, which weigh does not open, not a GGUF file"),
        (struct.pack("<Q", 99) + b'{"a":{}}', "is a safetensors file, not a GGUF file"),
        (b"<!DOCTYPE html><html>", "is a web page, not a GGUF file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "is a git-lfs pointer; the model itself was not downloaded",
        ),
        (b"tjgg\x03\0\0\0", "is in the GGML format that came before GGUF"),
        (bytes(100), "begins with zeros: a download that was never finished?"),
        (b"hello world", "is not a GGUF file: it does not begin with `GGUF`"),
        (b"GGUF", "is cut short: at least 4 bytes of the header are missing"),
    ],
)
def test_other_files_are_called_what_they_look_like(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert problem(path) == said


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket"):
            assert problem(tmp_path / name) == "is a pipe or a device, not a file"
    assert problem(Path("/dev/zero")) == "is a pipe or a device, not a file"
    assert problem(tmp_path) == "is a folder, not a GGUF file"
    assert problem(tmp_path / "none.gguf") == "cannot be read (No such file or directory)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read_is_said_so(tmp_path: Path) -> None:
    path = llama_file().write(tmp_path / "m.gguf")
    path.chmod(0)
    assert problem(path) == "cannot be read (Permission denied)"


# --- split files -------------------------------------------------------------------------------------


def split(folder: Path, *, parts: int = 3, numbers_said: tuple[int, ...] = (0, 1, 2)) -> list[Path]:
    """The tiny llama in parts; the first has the metadata and no tensors, as splitters can be told to."""
    tensors = llama_tensors()
    shares = [[], tensors[:7], tensors[7:]]
    paths = []
    for i, share in enumerate(shares):
        values = llama_values() if i == 0 else {}
        values["split.no"] = Typed(U16, numbers_said[i])
        values["split.count"] = Typed(U16, parts)
        values["split.tensors.count"] = Typed(5, len(tensors))
        paths.append(GgufFile(values, share).write(folder / f"m-{i + 1:05}-of-{parts:05}.gguf"))
    return paths


def test_any_part_leads_to_the_whole(tmp_path: Path) -> None:
    paths = split(tmp_path)
    for path in paths:
        spec = read_gguf(path)
        assert (spec.parameters, spec.tensor_bytes) == (PARAMETERS, TENSOR_BYTES)
        assert spec.file_bytes == sum(p.stat().st_size for p in paths)
        assert spec.file == paths[0]  # the part an engine is given
        assert spec.vocab == 300


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[1].unlink()
    said = "1 of its 3 parts are missing, first `m-00002-of-00003.gguf`"
    assert problem(paths[0]) == problem(paths[2]) == said


def test_a_cut_part_is_named(tmp_path: Path) -> None:
    paths = split(tmp_path)
    os.truncate(paths[2], paths[2].stat().st_size - 5)
    with pytest.raises(BadFile, match=r"m-00003-of-00003.gguf: is cut short: 5 of \d+ bytes are missing"):
        read_gguf(paths[0])


def test_a_renamed_part_cannot_find_the_others(tmp_path: Path) -> None:
    renamed = split(tmp_path)[0].rename(tmp_path / "model.gguf")
    assert problem(renamed) == "is one of 3 parts, and without its name the others cannot be found"


def test_parts_in_each_others_place_are_refused(tmp_path: Path) -> None:
    paths = split(tmp_path, numbers_said=(0, 2, 1))
    with pytest.raises(BadFile, match="does not hold part 2 of 3, as its name says"):
        read_gguf(paths[0])


# --- anything at all ---------------------------------------------------------------------------------

HEADER = llama_file().header()
WHOLE_BYTES = llama_file().data_start() + llama_file().data_bytes()
# The deadline stands for "never a loop over what the header merely claims".
ANY_DAMAGE = settings(
    max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ANY_DAMAGE
@given(
    flips=st.lists(st.tuples(st.integers(0, len(HEADER) - 1), st.integers(1, 255)), max_size=4),
    size=st.one_of(st.just(WHOLE_BYTES), st.integers(0, WHOLE_BYTES)),
)
def test_a_damaged_file_is_a_model_or_a_bad_file(
    tmp_path: Path, flips: list[tuple[int, int]], size: int
) -> None:
    header = bytearray(HEADER)
    for at, bits in flips:
        header[at] ^= bits
    path = tmp_path / "m.gguf"
    path.write_bytes(header)
    os.truncate(path, size)
    try:
        assert read_gguf(path).tensor_bytes <= size
    except BadFile as error:
        said = str(error)
        assert said.isprintable()
