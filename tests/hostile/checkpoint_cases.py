"""Hostile and odd safetensors files, and the indexes and folders around them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.hostile.case import Case, u64
from tests.model.hub_server import CHECKPOINT_WEIGHTS, CONFIG, checkpoint_files

TINY = {"parameters": CHECKPOINT_WEIGHTS, "layers": 2, "vocabulary": 100, "quantization": "BF16"}
TERABYTE = 10**12
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\nsecond line\u202e"
_CONFIG = json.dumps(CONFIG).encode()


def cases() -> Iterator[Case]:
    yield from _not_safetensors()
    yield from _headers()
    yield from _tensors()
    yield from _cut()
    yield from _giants()
    yield from _indexes()
    yield from _places()
    yield from _sound()


def _folder(files: Mapping[str, bytes], *, size: int | None = None) -> Callable[[Path], str]:
    """A folder of these files; `size` stretches the weights by a hole."""

    def make(folder: Path) -> str:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if size is not None:
            os.truncate(folder / _WEIGHTS, size)
        return str(folder)

    return make


def _case(name: str, weights: bytes, says: str, *, size: int | None = None) -> Case:
    files = {"config.json": _CONFIG, _WEIGHTS: weights}
    return Case(f"safetensors: {name}", _folder(files, size=size), says)


def _file(header: object, data_bytes: int = 0, *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return u64(len(raw) if length is None else length) + raw + bytes(data_bytes)


def _tensor(shape: object = (2, 2), offsets: object = (0, 8), dtype: object = "F16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _not_safetensors() -> Iterator[Case]:
    for name, data, says in (
        ("empty", b"", "is empty"),
        ("seven bytes", bytes(7), "too short"),
        ("zeros", bytes(4096), "zeros"),
        ("a pickle", b"\x80\x02cos\nsystem\n(S'id'\ntR.", "pickle"),
        ("a PyTorch archive", b"PK\x03\x04" + bytes(60), "pickle"),
        ("a GGUF file", b"GGUF" + bytes(60), "GGUF"),
        ("a web page", b"<html><script>alert(1)</script>", "web page"),
        ("a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        ("text", b"hello, this is no model at all", "not a safetensors file"),
    ):
        yield _case(f"not one: {name}", data, says)


def _headers() -> Iterator[Case]:
    sound = json.dumps({"a": _tensor()}).encode()
    for name, length in (
        ("2^64 - 1", (1 << 64) - 1),
        ("2^63", 1 << 63),
        ("2^32", 1 << 32),
        ("one more than there is", len(sound) + 100),
    ):
        yield _case(f"header of {name} bytes", _file(sound, 8, length=length), "announces|cut short")
    for name, length in (("0", 0), ("1", 1), ("two less than it has", len(sound) - 2)):
        yield _case(f"header of {name} bytes", _file(sound, 8, length=length), "JSON|safetensors")
    for name, header in (
        ("not UTF-8", b'{"\xff\xfe": {}}'),
        ("NaN", b'{"a":{"dtype":"F16","shape":[NaN],"data_offsets":[0,8]}}'),
        ("Infinity", b'{"a":{"dtype":"F16","shape":[Infinity],"data_offsets":[0,8]}}'),
        ("objects a hundred thousand deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        ("lists a hundred thousand deep", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("a number of a million digits", b'{"a":{"shape":[' + b"9" * 1_000_000 + b"]}}"),
        ("two objects", b"{}{}"),
        ("an object and more", b"{}x"),
        ("zeros behind it", sound + bytes(64)),
    ):
        yield _case(f"header: {name}", _file(header, 8), "JSON|larger")
    twice = b'{"a":%s,"a":%s}' % (sound[5:-1], sound[5:-1])
    yield _case("header: a name twice", _file(twice, 8), "twice")
    inner = b'{"a":{"dtype":"F16","dtype":"F32","shape":[2,2],"data_offsets":[0,8]}}'
    yield _case("header: a field twice", _file(inner, 8), "twice")
    for name, metadata in (("a list", [1]), ("numbers", {"format": 1}), ("nested", {"format": {"a": "b"}})):
        yield _case(
            f"header: metadata is {name}",
            _file({"__metadata__": metadata, "a": _tensor()}, 8),
            "list of texts",
        )
    yield _case("header: no tensors", _file({}), "no tensors")
    yield _case("header: metadata alone", _file({"__metadata__": {"format": "pt"}}), "no tensors")


def _tensors() -> Iterator[Case]:
    for name, entry in (
        ("a text", "x"),
        ("a list", [1]),
        ("nothing", {}),
        ("no shape", {"dtype": "F16", "data_offsets": [0, 8]}),
        ("no offsets", {"dtype": "F16", "shape": [2, 2]}),
    ):
        yield _case(f"tensor is {name}", _file({"a": entry}, 8), "tensor `a`")
    for dtype in ("", "f16", "Q4_0", "OBJECT", 5, None, ["F16"], _ESCAPES, "x" * 10_000):
        said = str(dtype)[:8].encode("unicode_escape").decode()
        yield _case(f"tensor of type {said}", _file({"a": _tensor(dtype=dtype)}, 8), "unknown type")
    for name, shape in (
        ("a negative width", [-2, -2]),
        ("a broken width", [2.0, 2]),
        ("true", [True, 4]),
        ("text", ["2", "2"]),
        ("no list", 4),
        ("2^63 columns", [1 << 63]),
        ("a number of forty digits", [10**39]),
        ("a product that wraps round", [1 << 32, 1 << 32]),
        ("a product that wraps to 4", [(1 << 62) + 1, 4]),
        ("twenty dimensions", [1] * 20),
        ("lists of lists", [[2, 2]]),
    ):
        yield _case(f"tensor: {name}", _file({"a": _tensor(shape=shape)}, 8), "shape|needs")
    for name, offsets, says in (
        ("one offset", [0], "where it lies"),
        ("three offsets", [0, 4, 8], "where it lies"),
        ("offsets that go back", [8, 0], "needs"),
        ("a negative offset", [-8, 0], "where it lies"),
        ("offsets of 2^64", [1 << 64, (1 << 64) + 8], "where it lies"),
        ("offsets in text", ["0", "8"], "where it lies"),
        ("fewer bytes than it needs", [0, 7], "needs"),
        ("more bytes than it needs", [0, 9], "needs"),
        ("a hole before it", [8, 16], "expected"),
    ):
        yield _case(f"tensor: {name}", _file({"a": _tensor(offsets=offsets)}, 16), says)
    both = {"a": _tensor(), "b": _tensor(offsets=(4, 12))}
    yield _case("two tensors overlap", _file(both, 12), "expected")
    same = {"a": _tensor(), "b": _tensor()}
    yield _case("two tensors in one place", _file(same, 8), "expected")
    apart = {"a": _tensor(), "b": _tensor(offsets=(64, 72))}
    yield _case("a hole between two tensors", _file(apart, 72), "expected")
    yield _case("bytes behind the last tensor", _file({"a": _tensor()}, 64), "after its last tensor")
    for name in ("", _ESCAPES, "a{}b", "{0.__class__}", "\x00"):
        said = name.encode("unicode_escape").decode()[:12]
        yield _case(f"tensor called `{said}`", _file({name: _tensor()}, 8), "none that a model has")
    half = {"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}
    yield _case("tensor that ends within a byte", _file(half, 2), "whole byte")


def _cut() -> Iterator[Case]:
    whole = checkpoint_files()[_WEIGHTS]
    (length,) = struct.unpack_from("<Q", whole)
    for at in (1, 7, 8, 9, 8 + length // 2, 8 + length - 1):
        yield _case(f"cut after {at} bytes", whole[:at], "short|cut|JSON")
    for at in (8 + length, 8 + length + 1, len(whole) - 1):
        yield _case(f"cut after {at} bytes, in its data", whole[:at], "cut short")


def _giants() -> Iterator[Case]:
    sound = _file({"a": _tensor()})
    yield _case("giant: terabytes of zeros", b"", "zeros", size=8 * TERABYTE)
    yield _case("giant: terabytes behind it", sound, "after its last tensor", size=8 * TERABYTE)
    yield _case("giant: a header of 33 MB", u64(33 << 20) + b"{", "announces|larger|JSON", size=TERABYTE)
    yield _case("giant: a header of zeros", u64(31 << 20) + b"{", "JSON|larger", size=TERABYTE)

    def case(name: str, weights: Callable[[], bytes], says: str) -> Case:
        def make(folder: Path) -> str:
            return _folder({"config.json": _CONFIG, _WEIGHTS: weights()})(folder)

        return Case(f"safetensors: giant: {name}", make, says)

    def empty() -> bytes:
        return _file(b"{" + b",".join(b'"t%d":{}' % i for i in range(300_000)) + b"}")

    yield case("300,000 empty tensors", empty, "more than any file")
    yield case("three million lists", lambda: _file(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"), "larger")
    wide = "\U0001f600".encode()
    yield case(
        "16 MB of wide letters",
        lambda: _file(b'{"__metadata__":{"a":"' + wide * 4_000_000 + b'"}}'),
        "larger",
    )

    def tensors() -> bytes:
        entries = {f"t{i}": _tensor(offsets=(8 * i, 8 * i + 8)) for i in range(100_000)}
        return _file(entries, 800_000)

    def kinds() -> bytes:
        return _file({f"t{i}": _tensor(offsets=(8 * i, 8 * i + 8)) for i in range(10_000)}, 80_000)

    yield case("10,000 kinds of tensors", kinds, "kinds of tensors")
    yield case("100,000 tensors of four weights", tensors, "more than any file")


def _indexes() -> Iterator[Case]:
    parts = checkpoint_files(shards=2)
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    good = json.loads(parts[_INDEX])["weight_map"]

    def index(weight_map: object, says: str, name: str, **more: object) -> Case:
        document = json.dumps({"weight_map": weight_map} | more).encode()
        return Case(f"index: {name}", _folder(parts | {_INDEX: document}), says)

    yield Case("index: two shards", _folder(parts), shows=TINY)
    for name, target in (
        ("a way up", "../../etc/passwd"),
        ("a way up to a safetensors file", "../secret.safetensors"),
        ("an absolute path", "/etc/passwd"),
        ("a file of another ending", "config.json"),
        ("a subfolder", "sub/model.safetensors"),
        ("a Windows path", "..\\secret.safetensors"),
        ("a drive", "C:secret.safetensors"),
        ("a hidden file", ".secret.safetensors"),
        ("a zero byte", "model\0.safetensors"),
        ("escapes", f"{_ESCAPES}.safetensors"),
        ("a number", 5),
        ("nothing", None),
        ("a list", [first]),
        ("ten thousand letters", "a" * 10_000 + ".safetensors"),
        ("an empty name", ""),
    ):
        yield index(good | {"x.weight": target}, "no safetensors file beside it", f"names {name}")
    gone = {"x.weight": "model-00003-of-00002.safetensors"}
    yield index(good | gone, "missing", "names a file that is not there")
    for name, value in (("a list", [1]), ("a text", "x"), ("empty", {}), ("null", None)):
        yield index(value, "weight_map", f"weight_map is {name}")
    for name, data in (
        ("cut", b'{"weight_map": {'),
        ("a list", b"[1]"),
        ("empty", b""),
        ("NaN", b'{"weight_map": {}, "metadata": {"total_size": NaN}}'),
        ("deep", b'{"weight_map":' + b"[" * 100_000),
    ):
        yield Case(f"index: {name}", _folder(parts | {_INDEX: data}), "JSON|object|is empty")
    without = {name: data for name, data in parts.items() if name != second}
    yield Case("index: a shard is missing", _folder(without), "missing")
    same = parts | {second: parts[first]}
    yield Case("index: the same tensors in both shards", _folder(same), "two of its files")
    bad = parts | {second: b"\x80\x02cos\nsystem\n(S'id'\ntR."}
    yield Case("index: a shard is a pickle", _folder(bad), "pickle")
    many = {f"t{i}": f"model-{i:05}-of-99999.safetensors" for i in range(99_999)}
    yield index(many, "more than any", "99,999 shards that are not there")
    lies = index(good, "", "a total that lies", metadata={"total_size": 5})
    yield Case(lies.name, lies.make, shows=TINY)


def _places() -> Iterator[Case]:
    def linked(name: str, target: str) -> Callable[[Path], str]:
        def make(folder: Path) -> str:
            (folder / "config.json").write_bytes(_CONFIG)
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)
            return str(folder)

        return make

    def pipe(folder: Path) -> str:
        (folder / "config.json").write_bytes(_CONFIG)
        os.mkfifo(folder / _WEIGHTS)
        return str(folder)

    def shard_links(folder: Path) -> str:
        parts = checkpoint_files(shards=2)
        _folder(parts)(folder)
        first, second = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
        second.unlink()
        second.symlink_to(first.name)
        return str(folder)

    yield Case("safetensors: place: a pipe", pipe, "pipe or a device")
    yield Case("safetensors: place: a link out of the folder", linked(_WEIGHTS, "/etc/passwd"), "link")
    yield Case("safetensors: place: a link to /dev/zero", linked(_WEIGHTS, "/dev/zero"), "link|device")
    yield Case(
        "safetensors: place: a link to itself", linked(_WEIGHTS, _WEIGHTS), "link|missing|holds|nowhere"
    )
    yield Case(
        "safetensors: place: a config that leads out", linked("config.json", "/etc/passwd"), "link|JSON|holds"
    )
    yield Case("index: a shard is a link to the other", shard_links, "two of its files")

    def folders(folder: Path) -> str:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "c").symlink_to("../..")
        return str(folder / "a")

    yield Case("safetensors: place: folders in a circle", folders, "holds neither|holds no")


def _sound() -> Iterator[Case]:
    files = checkpoint_files()
    yield Case("safetensors: odd: as usual", _folder(files), shows=TINY)
    (length,) = struct.unpack_from("<Q", files[_WEIGHTS])
    header, data = files[_WEIGHTS][8 : 8 + length], files[_WEIGHTS][8 + length :]
    padded = u64(length + 5) + header + b" " * 5 + data
    yield Case("safetensors: odd: blanks behind the header", _folder(files | {_WEIGHTS: padded}), shows=TINY)
    entries = json.loads(header)
    empty = entries | {"model.empty.weight": _tensor(shape=[0, 64], offsets=[0, 0])}
    yield Case(
        "safetensors: odd: an empty tensor", _folder(files | {_WEIGHTS: _file(empty) + data}), shows=TINY
    )
    turned = dict(reversed(entries.items()))
    yield Case(
        "safetensors: odd: tensors in another order",
        _folder(files | {_WEIGHTS: _file(turned) + data}),
        shows=TINY,
    )
    said = entries | {"__metadata__": {"format": _ESCAPES, "": "x" * 100_000}}
    yield Case(
        "safetensors: odd: metadata with escapes", _folder(files | {_WEIGHTS: _file(said) + data}), shows=TINY
    )

    def linked(folder: Path) -> str:
        (folder / "blobs").mkdir()
        (folder / "blobs" / "x").write_bytes(files[_WEIGHTS])
        (folder / _WEIGHTS).symlink_to("blobs/x")
        (folder / "config.json").write_bytes(_CONFIG)
        return str(folder)

    def escaped(folder: Path) -> str:
        (folder / "m\x1b[31m\r\nn").mkdir()
        return _folder(files)(folder / "m\x1b[31m\r\nn")

    yield Case("safetensors: odd: escapes in its folder's name", escaped, shows=TINY)
    yield Case("safetensors: odd: a link inside its folder", linked, shows=TINY)
