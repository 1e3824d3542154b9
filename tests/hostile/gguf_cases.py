"""Hostile and odd GGUF files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.hostile.case import Case, text, u32, u64, written
from tests.model.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    U32,
    GgufFile,
    TensorInfo,
    Typed,
    llama_file,
    llama_tensors,
    llama_values,
    numbers,
    strings,
)
from weigh.model.ggml_types import GgmlType

TERABYTE = 10**12
# 256 x 300 embedding; per layer two norms, 256x256 twice, 256x128 twice, 256x512 three times; a last norm.
LAYER = 2 * 256 + 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512
TINY = {"parameters": 256 * 300 + 2 * LAYER + 256, "layers": 2, "vocabulary": 300}

_MAGIC = b"GGUF"
_ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\r\nsecond line\u202etxt"


def cases() -> Iterator[Case]:
    yield from _not_gguf()
    yield from _counts()
    yield from _metadata()
    yield from _tensors()
    yield from _values_no_model_has()
    yield from _cut()
    yield from _parts()
    yield from _places()
    yield from _giants()
    yield from _sound()


def _refused(name: str, file: GgufFile | bytes, says: str, *, size: int | None = None) -> Case:
    return Case(f"gguf: {name}", _made(file, size=size), says)


def _made(
    file: GgufFile | bytes, name: str = "model.gguf", *, size: int | None = None
) -> Callable[[Path], str]:
    if isinstance(file, bytes):
        return written(name, file, size=size)
    return lambda folder: str(file.write(folder / name, size=size))


def _start(tensors: int, pairs: int, version: int = 3) -> bytes:
    return _MAGIC + u32(version) + u64(tensors, pairs)


def _not_gguf() -> Iterator[Case]:
    yield _refused("empty", b"", "is empty")
    yield _refused("one byte", b"G", "does not begin with")
    yield _refused("magic alone", _MAGIC, "cut short")
    yield _refused("zeros", bytes(4096), "begins with zeros")
    yield _refused("random bytes", bytes(range(255, -1, -1)) * 16, "does not begin with")
    yield _refused("a zip", b"PK\x03\x04" + bytes(60), "zip archive")
    yield _refused("a pickle", b"\x80\x02cos\nsystem\n(S'id'\ntR.", "pickle")
    yield _refused("a web page", b"<!DOCTYPE html><script>alert(1)</script>", "web page")
    yield _refused("a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid x\n", "git-lfs")
    yield _refused("the format before GGUF", b"lmgg" + bytes(60), "before GGUF")
    yield _refused("an older one", b"tjgg" + bytes(60), "before GGUF")
    yield _refused("gzip", b"\x1f\x8b\x08" + bytes(60), "gzip")
    yield _refused("a safetensors file", u64(100) + b'{"a":{}}' + bytes(100), "safetensors")
    yield _refused("JSON", b'{"model_type": "llama"}', "JSON")
    yield _refused("an ELF program", b"\x7fELF" + bytes(60), "does not begin with")
    yield _refused("magic in lower case", b"gguf" + bytes(60), "does not begin with")


def _counts() -> Iterator[Case]:
    most = (1 << 64) - 1
    for version in (0, 1, 4, 0x7FFFFFFF, 0xFFFFFFFF):
        yield _refused(f"version {version}", _MAGIC + u32(version) + u64(0, 0), "version")
    for name, tensors, pairs in (
        ("all tensors there can be", most, 0),
        ("all entries there can be", 0, most),
        ("2^63 tensors", 1 << 63, 1),
        ("counts whose product wraps round", 1 << 61, 1 << 61),
        ("four billion entries", 0, 1 << 32),
        ("one entry more than there is room", 0, 1),
    ):
        yield _refused(f"counts: {name}", _start(tensors, pairs) + bytes(8), "announced|cut short|left")
    sound = llama_file()
    more = GgufFile(sound.values, sound.tensors, tensor_count=len(sound.tensors) + 1)
    yield _refused("one tensor more than there is", more, "cut short|there twice|no model|cannot be|lies at")
    yield _refused(
        "one entry more than there is", GgufFile(sound.values, sound.tensors, pair_count=14), "cannot be"
    )
    fewer = GgufFile(sound.values, sound.tensors, pair_count=len(sound.values) - 1)
    yield _refused("one entry less than there is", fewer, "unknown type")
    yield _refused("no tensors", GgufFile(llama_values(), []), "no tensors")
    yield _refused("nothing at all", GgufFile({}, []), "no tensors|architecture")


def _pairs(data: bytes, count: int = 1, **more: object) -> bytes:
    """A file of one entry written by hand, and room behind it."""
    return _start(0, count) + data + bytes(256)


def _metadata() -> Iterator[Case]:
    key = text("k")
    most = (1 << 64) - 1
    for name, data, says in (
        ("key of 2^64 bytes", u64(most), "cannot be"),
        ("key of 2^63 bytes", u64(1 << 63), "cannot be"),
        ("key longer than 64 KiB", u64(1 << 17) + bytes(1 << 18), "cannot be"),
        ("key up to the last byte", u64(255) + bytes(300), "architecture"),
        ("string of 2^64 bytes", key + u32(STRING) + u64(most), "cannot be"),
        ("string longer than the file", key + u32(STRING) + u64(1 << 20), "cannot be"),
        ("unknown type", key + u32(99), "unknown type 99"),
        ("type of all bits", key + u32(0xFFFFFFFF), "unknown type"),
        ("array of unknown type", key + u32(ARRAY, 77) + u64(1), "unknown type 77"),
        ("array of arrays", key + u32(ARRAY, ARRAY) + u64(1) + u32(ARRAY) + u64(1), "array of arrays"),
        ("2^64 numbers", key + u32(ARRAY, U32) + u64(most), "announced"),
        ("2^62 numbers, whose bytes wrap round", key + u32(ARRAY, U32) + u64(1 << 62), "announced"),
        ("2^64 strings", key + u32(ARRAY, STRING) + u64(most), "announced"),
        ("2^61 strings, whose lengths wrap round", key + u32(ARRAY, STRING) + u64(1 << 61), "announced"),
        ("strings of 2^64 bytes", key + u32(ARRAY, STRING) + u64(4, most, most), "cut short|cannot"),
        ("strings that step back", key + u32(ARRAY, STRING) + u64(4, most - 15), "cut short|cannot"),
        ("nested arrays a thousand deep", key + u32(ARRAY) + u32(ARRAY, 1, 0) * 1000, "array of arrays"),
    ):
        yield _refused(f"metadata: {name}", _pairs(data), says)
    twice = text("general.name") + u32(U32, 1)
    yield _refused("metadata: a key twice", _pairs(twice * 2, 2), "there twice")
    long = text("a" * 300) + u32(U32, 1) + text("a" * 300) + u32(U32, 1)
    yield _refused("metadata: a long key twice", _pairs(long, 2), "there twice")
    yield _refused("metadata: escapes in a key", _pairs((text(_ESCAPES) + u32(U32, 1)) * 2, 2), "there twice")
    yield _refused(
        "metadata: key of bytes that are no UTF-8", _pairs(text(b"\xff\xfe\x80") + u32(99)), "unknown"
    )
    for name, value in (
        ("0", 0),
        ("3", 3),
        ("2^31 + 1", (1 << 31) + 1),
        ("text", "32"),
        ("a float", 32.0),
        ("an array", numbers(32)),
        ("true", True),
    ):
        says = "cut short|lies at|expected" if name == "true" else "power of 2|lies at"
        yield _refused(f"metadata: alignment {name}", llama_file(general__alignment=value), says)
    huge = llama_file(general__alignment=1 << 31)
    yield _refused("metadata: an alignment larger than the file", huge, "lies at|cut short")


def _tensors() -> Iterator[Case]:
    def tensor(
        name: bytes | str = "t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, **more: int
    ) -> bytes:
        dimensions = more.get("dimensions", len(shape))
        return text(name) + u32(dimensions) + u64(*shape) + u32(kind) + u64(offset)

    most = (1 << 64) - 1
    for name, data, says in (
        ("no dimensions", tensor(shape=()), "architecture"),
        ("five dimensions", tensor(shape=(1,) * 5), "dimensions"),
        ("four billion dimensions", tensor(dimensions=0xFFFFFFFF), "dimensions"),
        ("a dimension of 0", tensor(shape=(0, 32)), "no model"),
        ("a dimension of 2^64 - 1", tensor(shape=(most,)), "no model"),
        ("dimensions whose product wraps round", tensor(shape=(1 << 32, 1 << 32)), "no model"),
        ("dimensions whose product wraps to 32", tensor(shape=(1 << 33, 1 << 31, 32)), "no model"),
        ("unknown type", tensor(kind=1000), "unknown type"),
        ("a removed type", tensor(kind=4), "unknown type"),
        ("rows that no block fits", tensor(shape=(33,), kind=GgmlType.Q4_0.id), "whole blocks"),
        ("far offset", tensor(offset=most), "lies at"),
        ("offset that steps back", tensor(offset=most - 31), "lies at"),
        ("escapes in the name", tensor(name=_ESCAPES), "none that a model has"),
        ("braces in the name", tensor(name="blk.{}.attn_q.weight"), "none that a model has"),
        ("format directives in the name", tensor(name="blk.{0.__class__}.w"), "none that a model has"),
        ("a name of 2^64 bytes", u64(most), "cannot be"),
        ("data that is not there", tensor(shape=(1 << 40,)), "cut short"),
    ):
        yield _refused(f"tensor: {name}", _start(1, 0) + data + bytes(256), says)
    same = tensor() + tensor(offset=128)
    yield _refused("tensor: a name twice", _start(2, 0) + same + bytes(512), "there twice")
    overlap = tensor("a", (1024,)) + tensor("b", (1024,), offset=32)
    yield _refused("tensor: two in one place", _start(2, 0) + overlap + bytes(9000), "lies at")
    hole = tensor("a", (32,)) + tensor("b", (32,), offset=4096)
    yield _refused("tensor: a hole between two", _start(2, 0) + hole + bytes(9000), "lies at")
    unaligned = tensor("a", (3,)) + tensor("b", (32,), offset=12)
    yield _refused("tensor: an offset off the alignment", _start(2, 0) + unaligned + bytes(512), "lies at")


def _values_no_model_has() -> Iterator[Case]:
    for key, values in (
        ("llama.block_count", (0, -1, 1 << 31, 1e30, float("nan"), "2", numbers(2), 4097, True)),
        ("llama.embedding_length", (0, -1, 1 << 62, 2.5, "x", numbers(256, 256))),
        ("llama.context_length", (0, -5, float("inf"), "4096")),
        ("general.architecture", (5, True, "", numbers(1))),
    ):
        for value in values:
            typed = Typed(5, value) if isinstance(value, int) and value < 0 else value
            typed = Typed(10, value) if isinstance(value, int) and value >= 1 << 32 else typed
            said = value if not isinstance(value, Typed) else "array"
            file = llama_file(**{key.replace(".", "__"): typed})
            if key != "llama.block_count" or value is not True:
                yield _refused(f"value: {key} is {said}", file, key.rpartition(".")[2])
    for key in (
        "llama.block_count",
        "llama.embedding_length",
        "llama.context_length",
        "general.architecture",
    ):
        values = {k: v for k, v in llama_values().items() if k != key}
        yield _refused(f"value: no {key}", GgufFile(values, llama_tensors()), key.rpartition(".")[2])
    for heads in (-4, 1 << 40):
        file = llama_file(llama__attention__head_count=Typed(11, heads))
        yield _refused(f"value: {heads} attention heads", file, "head")
    for value in (0, 3, Typed(U32, items=[4] * 4000)):  # attention is then unclear, and the weights are not
        said = "an array too long" if isinstance(value, Typed) else value
        file = llama_file(llama__attention__head_count=value)
        yield Case(f"gguf: value: {said} as attention heads", _made(file), shows=TINY)
    yield _refused("value: another kind of file", llama_file(general__type="adapter"), "language model")
    yield _refused("value: escapes as kind", llama_file(general__type=_ESCAPES), "language model")
    yield _refused("value: a projector", llama_file(general__architecture="clip"), "language model")
    escaped = {"general.architecture": _ESCAPES, "general.name": _ESCAPES}
    yield _refused(
        "value: escapes as architecture", GgufFile(llama_values() | escaped, llama_tensors()), "block_count"
    )


def _cut() -> Iterator[Case]:
    """A sound file cut at every structural boundary of its header, and once in its data."""
    file = llama_file()
    header = file.header()
    for at in sorted(set(_boundaries(header))):
        yield _refused(
            f"cut after {at} bytes", header[:at], "cut short|announced|cannot be|is empty|begin with"
        )
    yield _refused("without any data", header, "cut short")
    yield _refused("without its last byte", file, "cut short", size=file.data_start() + file.data_bytes() - 1)


def _boundaries(header: bytes) -> Iterator[int]:
    """Where fields of the header begin; of strings in arrays only the first."""
    yield from (0, 4, 8, 16, 24)
    for part in (b"llama.block_count", b"tokenizer.ggml.tokens", b"token_embd.weight", b"blk.1.ffn_down"):
        at = header.index(part)
        yield from (at - 8, at, at + len(part), at + len(part) + 4, at + len(part) + 12)
    yield len(header) - 12
    yield len(header) - 8
    yield len(header) - 1


def _parts() -> Iterator[Case]:
    def split(count: int, **lies: Mapping[str, object]) -> Callable[[Path], str]:
        def make(folder: Path) -> str:
            tensors = llama_tensors()
            halves = (tensors[:5], tensors[5:])
            for number, half in enumerate(halves):
                more: dict[str, object] = {
                    "split.no": Typed(2, number),
                    "split.count": Typed(2, count),
                    "split.tensors.count": Typed(5, len(tensors)),
                }
                more |= lies.get(f"part{number}", {})
                values = llama_values() if number == 0 else {"general.architecture": "llama"}
                GgufFile(values | more, half).write(folder / f"m-0000{number + 1}-of-0000{count}.gguf")
            return str(folder / f"m-00001-of-0000{count}.gguf")

        return make

    yield Case("gguf: parts: two", split(2), shows=TINY)
    yield Case("gguf: parts: one is missing", split(3), "parts are missing")
    lies: tuple[tuple[str, dict[str, object], str], ...] = (
        ("the second says it is the first", {"split.no": Typed(2, 0)}, "as its name says"),
        ("the second counts otherwise", {"split.count": Typed(2, 9)}, "as its name says"),
        ("the second counts in text", {"split.count": "2"}, "as its name says"),
    )
    for name, values, says in lies:
        yield Case(f"gguf: parts: {name}", split(2, part1=values), says)
    yield Case(
        "gguf: parts: more tensors announced", split(2, part0={"split.tensors.count": 99}), "announces"
    )
    yield Case("gguf: parts: 65,535 of them", _made(llama_file(split__count=Typed(2, 65535))), "parts")
    many = llama_file(split__count=Typed(10, 1 << 60))
    yield Case("gguf: parts: 2^60 of them", _made(many), "parts")
    named = _made(llama_file(split__count=99999), "m-00001-of-99999.gguf")
    yield Case("gguf: parts: 99,999 by its name", named, "parts")

    def links(folder: Path) -> str:
        count = 2000
        first = folder / f"m-00001-of-{count:05}.gguf"
        llama_file(split__count=Typed(2, count), split__no=Typed(2, 0)).write(first)
        for number in range(2, count + 1):
            (folder / f"m-{number:05}-of-{count:05}.gguf").symlink_to(first.name)
        return str(first)

    yield Case("gguf: parts: 2,000 links to one file", links, "parts|as its name says")

    def twice(folder: Path) -> str:
        values = {"split.count": Typed(2, 2), "split.tensors.count": Typed(5, 2 * len(llama_tensors()))}
        for number in range(2):
            more = values | {"split.no": Typed(2, number)}
            GgufFile(llama_values() | more, llama_tensors()).write(
                folder / f"m-0000{number + 1}-of-00002.gguf"
            )
        return str(folder / "m-00001-of-00002.gguf")

    yield Case("gguf: parts: a tensor in both", twice, "in two of its parts")


def _places() -> Iterator[Case]:
    """Things of that name which are no regular file."""

    def pipe(folder: Path) -> str:
        os.mkfifo(folder / "model.gguf")
        return str(folder / "model.gguf")

    def linked(target: str) -> Callable[[Path], str]:
        def make(folder: Path) -> str:
            (folder / "model.gguf").symlink_to(target)
            return str(folder / "model.gguf")

        return make

    def bound(folder: Path) -> str:
        here = Path.cwd()
        os.chdir(folder)  # addresses of sockets are short
        try:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind("model.gguf")
        finally:
            os.chdir(here)
        return str(folder / "model.gguf")

    def shut(folder: Path) -> str:
        (folder / "model.gguf").mkdir()
        (folder / "model.gguf" / "inner").mkdir()
        return str(folder / "model.gguf")

    device = "pipe or a device"
    yield Case("gguf: place: a pipe", pipe, device)
    yield Case("gguf: place: a socket", bound, device)
    yield Case("gguf: place: a link to /dev/zero", linked("/dev/zero"), device)
    yield Case("gguf: place: a link to /dev/tty", linked("/dev/tty"), device)
    yield Case("gguf: place: a link to the kernel's memory map", linked("/proc/self/mem"), "is empty")
    yield Case("gguf: place: a link to an endless file", linked("/proc/kmsg"), "is empty")
    yield Case("gguf: place: a link to itself", linked("model.gguf"), "exist|cannot be read")
    yield Case("gguf: place: a link to nothing", linked("gone"), "exist")
    yield Case("gguf: place: a folder of that name", shut, "neither|holds")
    yield Case("gguf: place: a name with escapes", _made(b"no", "a\x1b[31m\r\nb.gguf"), "begin with")
    yield Case("gguf: place: a sound file with escapes in its name", _escaped_name, shows=TINY)
    yield Case("gguf: place: a zero byte in its name", lambda folder: f"{folder}/a\0b.gguf", "exist")
    yield Case(
        "gguf: place: a name of a megabyte", lambda folder: f"{folder}/{'a' * 1_000_000}.gguf", "exist"
    )


def _escaped_name(folder: Path) -> str:
    values = {key: value for key, value in llama_values().items() if key != "general.name"}
    return str(GgufFile(values, llama_tensors()).write(folder / "a\x1b[31m\r\nb.gguf"))


def _giants() -> Iterator[Case]:
    """Sparse files of terabytes, and headers that are as large as the file."""
    tera = 8 * TERABYTE
    yield _refused("giant: terabytes of zeros", b"", "begins with zeros", size=tera)
    yield _refused("giant: magic and terabytes of zeros", _MAGIC, "version 0", size=tera)
    yield _refused("giant: all entries are zeros", _start(0, 1 << 36), "more than any model", size=tera)
    yield _refused("giant: all tensors are zeros", _start(1 << 37, 0), "more than any model", size=tera)
    key = text("k")
    for name, data, says in (
        ("a string of a terabyte", key + u32(STRING) + u64(TERABYTE), "does not end"),
        ("strings by the billion", key + u32(ARRAY, STRING) + u64(1 << 36), "more than any model"),
        ("strings by the million", key + u32(ARRAY, STRING) + u64(2_000_000), "architecture"),
        ("numbers by the billion", key + u32(ARRAY, U32) + u64(1 << 38), "does not end"),
        ("a hundred million flags", key + u32(ARRAY, BOOL) + u64(100_000_000), "does not end"),
    ):
        yield _refused(f"giant: {name}", _start(0, 2) + data, says, size=tera)
    long = _start(0, 2) + key + u32(STRING) + u64(60_000_000)
    yield _refused("giant: a string of 60 MB", long, "architecture", size=tera)
    row = text("t") + u32(1) + u64(1 << 48) + u32(0, 0, 0)
    yield _refused("giant: a tensor of a petabyte", _start(1, 0) + row, "cut short", size=tera)
    yield Case("gguf: giant: a hundred thousand entries", _many_entries(100_000), "more than any model")
    yield Case("gguf: giant: as many entries as are read", _many_entries(4096), "no tensors|architecture")
    yield Case("gguf: giant: a million tensors announced", _many_tensors(1_000_000), "more than any model")
    yield Case("gguf: giant: as many tensors as are read", _many_tensors(1 << 15), "architecture")
    yield Case("gguf: giant: arrays just short enough to keep", _many_arrays(0, 4096, 1), "architecture")
    yield Case("gguf: giant: vocabularies behind vocabularies", _many_arrays(STRING, 500, 8), "architecture")
    sound = llama_file()
    yield Case("gguf: giant: a sound one, terabytes longer", _made(sound, size=tera), shows=TINY)


def _many_entries(count: int) -> Callable[[Path], str]:
    def data() -> bytes:
        return _start(0, count) + b"".join(text(f"k{i}") + u32(U32, i) for i in range(count))

    return written("model.gguf", data)


def _many_tensors(count: int) -> Callable[[Path], str]:
    def data() -> bytes:
        infos = (text(f"t{i}") + u32(1) + u64(8) + u32(0) + u64(32 * i) for i in range(min(count, 1 << 15)))
        return _start(count, 0) + b"".join(infos)

    return written("model.gguf", data, size=TERABYTE)


def _many_arrays(kind: int, length: int, item_bytes: int) -> Callable[[Path], str]:
    """As many arrays as there may be entries; of strings, each sends the reader looking for the next key."""

    def data() -> bytes:
        array = u32(ARRAY, kind) + u64(length) + bytes(length * item_bytes)
        return _start(0, 4096) + b"".join(text(f"k{i}") + array for i in range(4096))

    return written("model.gguf", data)


def _sound() -> Iterator[Case]:
    """Odd ones that are right."""

    def odd(name: str, file: GgufFile, **shows: object) -> Case:
        return Case(f"gguf: odd: {name}", _made(file), shows=TINY | shows)

    yield odd("as usual", llama_file())
    sound = llama_file()
    yield odd("big-endian", GgufFile(sound.values, sound.tensors, order=">"))
    yield odd("version 2", GgufFile(sound.values, sound.tensors, version=2))
    yield odd("alignment of 1", GgufFile(llama_values(general__alignment=1), llama_tensors(), alignment=1))
    yield odd(
        "alignment of 4096", GgufFile(llama_values(general__alignment=4096), llama_tensors(), alignment=4096)
    )
    yield odd("escapes as name", llama_file(general__name=_ESCAPES))
    yield odd(
        "a name of bytes that are no UTF-8", llama_file(general__name=Typed(STRING, b"\xff\xfe\x1b[31m"))
    )
    yield odd("a name of blanks", llama_file(general__name=" \t "))
    yield odd("an empty array", llama_file(llama__extra=Typed(U32, items=[])))
    yield odd("no strings in an array", llama_file(llama__extra=strings()))
    yield odd("an empty key", GgufFile(llama_values() | {"": 1}, llama_tensors()))
    yield odd("a key of 60,000 bytes", GgufFile(llama_values() | {"k" * 60_000: 1}, llama_tensors()))
    yield odd("no numbers there can be", llama_file(llama__rope__freq_base=Typed(F32, float("nan"))))
    yield odd("an unknown type of file", llama_file(general__file_type=4_000_000_000))
    yield odd("tokens that hold the next key's name", _tokens_like_keys())
    extra = TensorInfo("blk.1.unknown.weight", (1,))
    more = TINY["parameters"] + 1
    yield odd(
        "an unknown tensor of one weight",
        GgufFile(llama_values(), [*llama_tensors(), extra]),
        parameters=more,
    )
    yield Case("gguf: odd: behind a link", _behind_link, shows=TINY)
    yield Case(
        "gguf: odd: the only one in its folder",
        lambda folder: _made(llama_file())(folder) and str(folder),
        shows=TINY,
    )


def _tokens_like_keys() -> GgufFile:
    """A vocabulary whose tokens look like what the reader looks for behind it."""
    key = bytes(7) + b"tokenizer.ggml.merges"
    tokens = strings(*(f"t{i}" for i in range(298)), b"\x15" + key, key * 3)
    return GgufFile(llama_values() | {"tokenizer.ggml.tokens": tokens}, llama_tensors())


def _behind_link(folder: Path) -> str:
    (folder / "blobs").mkdir()
    llama_file().write(folder / "blobs" / "sha256-00")
    (folder / "model.gguf").symlink_to("blobs/sha256-00")
    return str(folder / "model.gguf")
