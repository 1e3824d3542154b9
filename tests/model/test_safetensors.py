"""Headers of safetensors files: what sound ones say, and how others are refused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.checkpoint_files import header, write_raw, write_safetensors
from weigh.errors import BadFile
from weigh.model.safetensors import DTYPE_BITS, Header, StoredTensor, read_header
from weigh.model.source import LocalFile


def read(path: Path) -> Header:
    with LocalFile(path) as file:
        return read_header(file)


class Bytes:
    """A file in memory that counts what is read of it."""

    def __init__(self, data: bytes, size_bytes: int) -> None:
        self.path, self.data, self.size_bytes, self.taken = Path("remote"), data, size_bytes, 0

    def read(self, offset: int, length: int) -> bytes:
        self.taken += length
        return self.data[offset : offset + length]


def test_tensors_are_read_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m", {"b": ("BF16", (2, 3)), "a": ("F32", (4,))}, {"format": "pt"})
    found = read(path)
    assert found.tensors == (
        StoredTensor("b", "BF16", (2, 3), 0, 12),
        StoredTensor("a", "F32", (4,), 12, 28),
    )
    assert found.metadata == {"format": "pt"}
    assert found.header_bytes + 28 == found.size_bytes == path.stat().st_size


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_type_of_the_library_is_known(tmp_path: Path, dtype: str) -> None:
    """Of eight weights, so that types below a byte end at a whole one."""
    (tensor,) = read(write_safetensors(tmp_path / "m", {"t": (dtype, (2, 4))})).tensors
    assert tensor.bytes == DTYPE_BITS[dtype]


def test_empty_tensors_and_single_numbers_are_tensors(tmp_path: Path) -> None:
    tensors = {"none": ("F32", (0, 7)), "one": ("F32", ()), "more": ("F32", (2,))}
    found = read(write_safetensors(tmp_path / "m", tensors))
    assert {t.name: (t.elements, t.bytes) for t in found.tensors} == {
        "none": (0, 0),
        "one": (1, 4),
        "more": (2, 8),
    }


def test_blanks_may_fill_the_header(tmp_path: Path) -> None:
    text = json.dumps(header({"t": ("U8", (3,))})).encode() + b" " * 21
    assert read(write_raw(tmp_path / "m", text, 3)).tensors[0].bytes == 3


def test_only_the_header_of_a_remote_file_is_read() -> None:
    text = json.dumps(header({"t": ("U8", (1 << 40,))})).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(1 << 20)
    source = Bytes(data, len(text) + 8 + (1 << 40))
    assert read_header(source).tensors[0].bytes == 1 << 40
    assert source.taken <= 64 << 10


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ({"t": entry(dtype="F31")}, "tensor `t` has unknown type `F31`"),
        ({"t": entry(dtype=["F32"])}, "unknown type"),
        ({"t": entry(shape=[-2])}, "has a shape that no tensor has"),
        ({"t": entry(shape=[2.0])}, "has a shape that no tensor has"),
        ({"t": entry(shape=[True, 2])}, "has a shape that no tensor has"),
        ({"t": entry(shape=[1] * 17 + [2])}, "has a shape that no tensor has"),
        ({"t": entry(shape=[1 << 61])}, "has a shape that no tensor has"),
        ({"t": entry(shape=[1 << 32, 1 << 32, 1 << 32])}, "needs more than"),
        ({"t": entry(shape=[3])}, "needs 12 bytes, not 8"),
        ({"t": entry(dtype="F4", shape=[3])}, "does not end at a whole byte"),
        ({"t": entry(data_offsets=[8, 0])}, "needs 8 bytes, not -8"),
        ({"t": entry(data_offsets=[0])}, "does not say where it lies"),
        ({"t": entry(data_offsets=[4, 12])}, "lies at 4 where 0 was expected"),
        ({"a": entry(), "b": entry(data_offsets=[4, 12])}, "`b` lies at 4 where 8 was expected"),
        ({"a": entry(), "b": entry()}, "`b` lies at 0 where 8 was expected"),
        ({"t": entry(shape=[1], data_offsets=[0, 4])}, "has 4 bytes after its last tensor"),
        ({"t": entry(shape=[4], data_offsets=[0, 16])}, "is cut short: 8 of"),
        ({"t": [1, 2]}, "does not say its type, shape and place"),
        ({"a{}b": entry()}, "is none that a model has"),
        ({"\x1b[31m": entry()}, "is none that a model has"),
        ({"t": entry(), "__metadata__": {"a": 1}}, "is no list of texts"),
        ([1], "is not a safetensors file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, text: object, problem: str) -> None:
    path = write_raw(tmp_path / "m", json.dumps(text).encode(), 8)
    with pytest.raises(BadFile, match=problem) as caught:
        read(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"t":{"dtype":"F32","dtype":"F16"}}', "its header says 'dtype' twice"),
        (b'{"a":{},"a":{}}', "its header says 'a' twice"),
        (b'{"a":NaN}', "its header is not JSON"),
        (b'{"a":' + b"1" * 5000 + b"}", "its header is not JSON"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "its header is not JSON"),
        (b'{"a', "its header is not JSON"),
        (b'{"\xff":1}', "its header is not JSON"),
        (b'{"a":[' + b"0," * (1 << 20) + b"0]}", "its header is larger than that of any model"),
    ],
)
def test_a_header_that_is_no_sound_json_is_refused(tmp_path: Path, text: bytes, problem: str) -> None:
    with pytest.raises(BadFile, match=problem):
        read(write_raw(tmp_path / "m", text, 0))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"\x02", "is too short"),
        (b"GGUF\x03\0\0\0" + bytes(20), "is a GGUF file"),
        (b"PK\x03\x04" + bytes(20), "is a PyTorch checkpoint"),
        (b"\x80\x02}q\x00X\x04\0\0\0", "is a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
        (b"<!doctype html><html>", "is a web page"),
        (bytes(64), "begins with zeros"),
        (b"\xff" * 8 + b"{}", "announces a header of 18,446,744,073,709,551,615 bytes"),
        (b"\x20\0\0\0\0\0\0\0{}", "is cut short: 30 bytes of its header are missing"),
        (b"something else altogether", "is not a safetensors file"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(BadFile, match=problem):
        read(tmp_path / "m")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m")
    with pytest.raises(BadFile, match="is a pipe"):
        read(tmp_path / "m")


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_no_header_breaks_the_reader(text: bytes, size_bytes: int) -> None:
    """It reads, or says in one line why not; anything else would be an error here."""
    with contextlib.suppress(BadFile):
        read_header(Bytes(len(text).to_bytes(8, "little") + text, size_bytes))


_MEMORY_LIMIT = """
import re, sys
from pathlib import Path
from weigh.errors import BadFile
from weigh.model.safetensors import read_header
from weigh.model.source import LocalFile
try:
    with LocalFile(Path(sys.argv[1])) as file:
        print(len(read_header(file).tensors))
except BadFile as error:
    print(error)
most = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
assert most < 200 << 10, f"{most} KiB"
"""


def in_a_process_of_its_own(path: Path) -> str:
    """What reading the file prints; fails when it takes more than 200 MB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY_LIMIT, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_header_of_sixty_thousand_experts_fits_in_little_memory(tmp_path: Path) -> None:
    """A 1T mixture in one file: 60 layers x 334 experts x 3 matrices of 2048 x 7168."""
    names = (f"model.layers.{n // 1002}.mlp.experts.{n % 1002}.gate_proj.weight" for n in range(60_120))
    path = write_safetensors(tmp_path / "m", dict.fromkeys(names, ("BF16", (2048, 7168))))
    assert in_a_process_of_its_own(path) == "60120"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b'{"a":[' + b"{}," * 349_000 + b"{}]}", "does not say its type"),
        (b'{"a":[' + b"{}," * 3_000_000 + b"{}]}", "larger than that of any model"),
        (b'{"a":"' + b"x" * (31 << 20) + b'"}', "does not say its type"),
        (b'{"a":"\xf0\x9f\x98\x80' + b"x" * (31 << 20) + b'"}', "larger than that of any model"),
    ],
    ids=["objects", "many objects", "a long text", "a long text of wide characters"],
)
def test_hostile_headers_take_little_memory(tmp_path: Path, text: bytes, answer: str) -> None:
    assert answer in in_a_process_of_its_own(write_raw(tmp_path / "m", text, 0))
