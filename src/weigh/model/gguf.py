"""GGUF files: what a model is, read from the header alone.

A header is trusted in nothing. Every count and length is checked against the bytes that are left before
anything is made of it, and no more than `MOST_HEADER_BYTES` are read, whatever the file's size.

Most of a header is the vocabulary: up to 600,000 short strings that nobody here reads. Walking them takes
some 50 ms in Python, finding the key that follows takes one. So the reader first jumps (`_jump`); if
what it then finds is not a sound header to the last byte, it reads again and walks.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what its text leaves open (contiguous
tensors, no arrays of arrays, names once) as llama.cpp's `ggml/src/gguf.cpp` demands it.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from math import prod
from pathlib import Path

from weigh.errors import BadFile, BadInput
from weigh.model.ggml_types import BY_ID, GgmlType
from weigh.model.mixers import largest_count, mixers
from weigh.model.source import Files, LocalFiles, Source
from weigh.model.spec import HyperValue, ModelSpec, Scalar, TensorGroup
from weigh.model.stored_types import NumberFormat

# Bounds that keep the worst header within a second and 200 MB; real ones stay far below.
MOST_HEADER_BYTES = 64 << 20  # real ones end within 40 MiB
MOST_ENTRIES = 4096  # of metadata; real ones have about 50
MOST_STRINGS = 1 << 21  # in all arrays; real vocabularies and merges have up to 780,000
MOST_KEPT = 4096  # values of an array that are kept; per-layer arrays have at most 512
MOST_KEPT_IN_ALL = 1 << 16
MOST_KEPT_BYTES = 1 << 14  # of a text, which may be a whole tokenizer that nobody here reads
MOST_TENSORS = 1 << 15  # of one file; a hundred layers have some 2,000
MOST_PARTS = 1 << 10  # the largest models come in about 50
MOST_LAYERS = 4096  # llama.cpp stops at 512
MOST_DIMENSIONS = 4
MOST_ELEMENTS = 1 << 48  # of one tensor

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# A key's length in little endian, but for its first byte, and how keys after a vocabulary begin.
_NEXT_KEY = bytes(7) + b"tokenizer."
SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_LAYER_NAME = re.compile(r"(.*\bblk\.)(0|[1-9]\d{0,4})(\..+)")
_BESIDE = ("v.", "a.", "mm.")  # Ollama keeps encoders of images and sound in the model's own file

# Source: llama.cpp `include/llama.h`, `enum llama_ftype`.
FILE_TYPES: Mapping[int, str] = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K"},
    **{11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M"},
    **{18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S"},
    **{25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M"},
    **{32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0"},
}
_GUESSED = 1024  # added to a file type that llama.cpp inferred

# How other files begin, what they are then called, and what to try.
_SIGNATURES = (
    (rb"PK\x03\x04", "is a zip archive (a PyTorch checkpoint?), not a GGUF file", None),
    (rb"\x80[\x02-\x05]", "is a Python pickle, which weigh does not open, not a GGUF file", None),
    (rb"(?s).{8}\{\s*\"", "is a safetensors file, not a GGUF file", "name its folder"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "is a web page, not a GGUF file", None),
    (
        rb"version https://git-lfs",
        "is a git-lfs pointer; the model itself was not downloaded",
        "run `git lfs pull` in its folder",
    ),
    (rb"lmgg|fmgg|tjgg|algg", "is in the GGML format that came before GGUF", "convert it anew"),
    (rb"\s*\{", "is JSON, not a GGUF file", None),
    (rb"\x1f\x8b", "is gzip-compressed, not a GGUF file", "unpack it first"),
    (rb"\0{16}", "begins with zeros: a download that was never finished?", None),
)


def read_gguf(path: Path, files: Files = LocalFiles("GGUF file")) -> ModelSpec:  # noqa: B008 (a value)
    """The model in a GGUF file (version 2 or 3, either byte order), or in all parts of a split one.

    `files` is where the path and the other parts beside it are looked up.

    Raises:
        BadFile: the file, or one of its parts, is missing, damaged, or not a language model in GGUF.
    """
    from weigh.model.checks import contradictions  # which knows this module

    parts = _all_parts(_read_part(path, files), files)
    try:
        spec = _spec(parts)
        return replace(spec, contradictions=contradictions(spec))
    except BadFile:
        raise
    except BadInput as error:
        raise BadFile(path, error.message) from error


def read_gguf_projector(path: Path) -> tuple[TensorGroup, ...]:
    """The encoder and projector of images or sound in a GGUF file of their own (`mmproj`).

    Raises:
        BadFile: the file is missing, damaged, or holds none.
    """
    part = _read_part(path, LocalFiles("GGUF file"))
    if part.values.get("general.architecture") != "clip":
        raise BadFile(path, "is no projector: its architecture is not `clip`")
    return _grouped(part.tensors)


def printable(text: str) -> str:
    """Text from a file, safe to print: control characters escaped, and not too long."""
    if len(text) <= 200 and text.isprintable():
        return text
    cut = text if len(text) <= 200 else text[:200] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    type: GgmlType


@dataclass(frozen=True, slots=True)
class _Part:
    """One file's header; `lengths` are those of its arrays, kept in `values` or not."""

    path: Path
    size_bytes: int
    values: Mapping[str, HyperValue]
    lengths: Mapping[str, int]
    tensors: tuple[_Tensor, ...]


# --- one file ----------------------------------------------------------------------------------------


def _read_part(path: Path, files: Files) -> _Part:
    with files.open(path) as source:
        try:
            return _Header(source, jump=True).part()
        except BadFile:  # damaged, or the jump went wrong: the careful way tells
            return _Header(source, jump=False).part()


class _Header:
    """A cursor over the start of a file, which reads on as the cursor moves."""

    def __init__(self, source: Source, *, jump: bool) -> None:
        self.source, self.path, self.size, self.jump = source, source.path, source.size_bytes, jump
        self.data = b""
        self.pos = 0
        self.order = "<"
        self.strings = self.kept = 0  # seen, and kept, in arrays so far

    def part(self) -> _Part:
        tensor_count, pair_count = self._start()
        values, lengths = self._pairs(pair_count)
        tensors = self._tensors(tensor_count, values.get("general.alignment", 32))
        return _Part(self.path, self.size, values, lengths, tensors)

    def _start(self) -> tuple[int, int]:
        self._load(min(self.size, 64))
        if not self.data.startswith(b"GGUF"):
            raise self._unlike_gguf()
        self.pos = 4
        (version,) = self._numbers("I")
        if version & 0xFFFF == 0:  # no version is so large: its bytes are the other way round
            self.order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise BadFile(self.path, f"is GGUF version {version}; versions 2 and 3 can be read")
        tensors, pairs = self._numbers("QQ")
        self._require_room("tensors", tensors, 24)  # name's length, dimensions, type, offset
        self._require_room("metadata entries", pairs, 13)  # key's length, type, one byte
        if tensors > MOST_TENSORS or pairs > MOST_ENTRIES:
            what = f"{tensors} tensors" if tensors > MOST_TENSORS else f"{pairs} metadata entries"
            raise BadFile(self.path, f"{what} are announced, more than any model has")
        return tensors, pairs

    def _unlike_gguf(self) -> BadFile:
        if not self.data:
            return BadFile(self.path, "is empty")
        for pattern, problem, hint in _SIGNATURES:
            if re.match(pattern, self.data):
                return BadFile(self.path, problem, hint=hint)
        return BadFile(self.path, "is not a GGUF file: it does not begin with `GGUF`")

    # metadata

    def _pairs(self, count: int) -> tuple[dict[str, HyperValue], dict[str, int]]:
        values: dict[str, HyperValue] = {}
        lengths: dict[str, int] = {}
        seen: set[str] = set()
        for _ in range(count):
            key = self._label()
            if key in seen:
                raise self._bad(f"metadata `{key}` is there twice")
            seen.add(key)
            (kind,) = self._numbers("I")
            if kind == _ARRAY:
                lengths[key], kept = self._array(key)
                if kept:
                    values[key] = kept
            else:
                values[key] = self._scalar(key, kind)
        return values, lengths

    def _scalar(self, key: str, kind: int) -> Scalar:
        if kind == _STRING:
            return self._text(self.size, kept=MOST_KEPT_BYTES)
        if kind not in _SCALARS:
            raise self._bad(f"metadata `{key}` has unknown type {kind}")
        value: Scalar = self._numbers(_SCALARS[kind])[0]
        return value

    def _array(self, key: str) -> tuple[int, tuple[Scalar, ...]]:
        """Its length, and its values if they are a few numbers."""
        kind, count = self._numbers("IQ")
        if kind == _STRING:
            self._skip_strings(key, count)
            return count, ()
        if kind == _ARRAY:
            raise self._bad(f"metadata `{key}` is an array of arrays, which no engine reads")
        if kind not in _SCALARS:
            raise self._bad(f"metadata `{key}` is an array of unknown type {kind}")
        code = _SCALARS[kind]
        self._require_room(f"values of `{key}`", count, struct.calcsize("=" + code))
        if count <= min(MOST_KEPT, MOST_KEPT_IN_ALL - self.kept):
            self.kept += count
            return count, self._numbers(f"{count}{code}")
        self.pos += count * struct.calcsize("=" + code)
        return count, ()

    def _skip_strings(self, key: str, count: int) -> None:
        self._require_room(f"strings of `{key}`", count, 8)
        self.strings += count
        if self.strings > MOST_STRINGS:
            raise self._bad(f"`{key}` claims {count} strings, more than any model has")
        if not (self.jump and self._jump(count)):
            self._walk(count)

    def _jump(self, count: int) -> bool:
        """Find the key after an array of `count` strings; False when it is not near."""
        shortest = self.pos + 8 * count  # were all strings empty
        furthest = min(self.size, MOST_HEADER_BYTES, self.pos + 40 * count + 4096)
        self._load(furthest)
        # no further than that: arrays by the thousand must not each search the whole header
        found = -1 if self.order == ">" else self.data.find(_NEXT_KEY, shortest, furthest)
        if found < 0 or self.data[found - 1] == 0:
            return False
        self.pos = found - 1
        return True

    def _walk(self, count: int) -> None:
        """Step over `count` strings, whatever they hold."""
        length_at = struct.Struct(self.order + "Q").unpack_from
        position, data = self.pos, self.data
        for _ in repeat(None, count):
            try:
                position += 8 + length_at(data, position)[0]
            except (struct.error, OverflowError):  # not read so far, or not in the file at all
                self._load(position + 8)
                data = self.data
                position += 8 + length_at(data, position)[0]
        self.pos = position

    # tensors

    def _tensors(self, count: int, alignment: HyperValue) -> tuple[_Tensor, ...]:
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise BadFile(self.path, f"`general.alignment` is {alignment}, not a power of 2")
        tensors: dict[str, _Tensor] = {}
        stored = end = 0  # bytes of data so far, with the padding after each tensor and without the last
        for _ in range(count):
            tensor, offset = self._tensor()
            if tensor.name in tensors:
                raise self._bad(f"tensor `{tensor.name}` is there twice")
            tensors[tensor.name] = tensor
            if offset != stored:
                raise self._bad(f"tensor `{tensor.name}` lies at {offset} where {stored} was expected")
            end = offset + _tensor_bytes(tensor)
            stored = -(-end // alignment) * alignment
        self._load(self.pos)  # skipped values have to be there too
        if tensors:
            self._require_data(-(-self.pos // alignment) * alignment + end)
        return tuple(tensors.values())

    def _tensor(self) -> tuple[_Tensor, int]:
        """A tensor and where it lies in the data."""
        name = self._label()
        if "{" in name or "\\" in name:
            raise self._bad(f"tensor name `{name}` is none that a model has")
        (dimensions,) = self._numbers("I")
        if dimensions > MOST_DIMENSIONS:
            raise self._bad(f"tensor `{name}` has {dimensions} dimensions; {MOST_DIMENSIONS} are the most")
        *shape, kind, offset = self._numbers(f"{dimensions}QIQ")
        if kind not in BY_ID:
            raise self._bad(f"tensor `{name}` has unknown type {kind}")
        tensor = _Tensor(name, tuple(shape) or (1,), BY_ID[kind])
        self._check_shape(tensor)
        return tensor, offset

    def _check_shape(self, tensor: _Tensor) -> None:
        name, shape, block = tensor.name, tensor.shape, tensor.type.block_weights
        if not 1 <= prod(shape) <= MOST_ELEMENTS:
            raise self._bad(f"tensor `{name}` of {' x '.join(map(str, shape))} is in no model")
        if shape[0] % block:
            raise self._bad(f"tensor `{name}`: rows of {shape[0]} are no whole blocks of {tensor.type.name}")

    def _require_data(self, end: int) -> None:
        if end > self.size:
            raise BadFile(
                self.path,
                f"is cut short: {end - self.size} of {end} bytes are missing",
                hint="download it again",
            )

    # bytes

    def _numbers(self, codes: str) -> tuple[int, ...]:
        layout = struct.Struct(self.order + codes)
        self._load(self.pos + layout.size)
        found = layout.unpack_from(self.data, self.pos)
        self.pos += layout.size
        return found

    def _text(self, most_bytes: int, kept: int = 1 << 16) -> str:
        """A string of `most_bytes` at most, and of it the first `kept` bytes."""
        (length,) = self._numbers("Q")
        if length > min(most_bytes, self.size - self.pos):
            raise self._bad(f"a string of {length} bytes cannot be")
        self._load(self.pos + length)
        text = self.data[self.pos : self.pos + min(length, kept)].decode(errors="backslashreplace")
        self.pos += length
        return text

    def _label(self) -> str:
        """The name of a tensor or of a metadata entry, safe to print."""
        return printable(self._text(1 << 16))

    def _require_room(self, what: str, count: int, least_bytes: int) -> None:
        """Refuse a count that cannot be true, before anything is made of it."""
        if count * least_bytes > self.size - self.pos:
            raise self._bad(f"{count} {what} are announced, with {self.size - self.pos} bytes left")

    def _load(self, end: int) -> None:
        """Have the first `end` bytes of the file in `data`."""
        if end <= len(self.data):
            return
        if end > self.size:
            raise BadFile(
                self.path,
                f"is cut short: at least {end - self.size} bytes of the header are missing",
                hint="download it again",
            )
        if end > MOST_HEADER_BYTES:
            raise self._bad(f"the header does not end within {MOST_HEADER_BYTES >> 20} MiB")
        # Reading again from the start costs less than growing what is there; each time twice as much.
        length = min(max(end, 2 * len(self.data), 1 << 20), self.size, MOST_HEADER_BYTES)
        self.data = self.source.read(0, length)
        if len(self.data) < end:
            raise self._bad("the file shrank while it was read")

    def _bad(self, problem: str) -> BadFile:
        return BadFile(self.path, problem, offset=self.pos)


def _tensor_bytes(tensor: _Tensor) -> int:
    return TensorGroup(tensor.name, tensor.shape, tensor.type).tensor_bytes


# --- all parts ---------------------------------------------------------------------------------------


def _all_parts(found: _Part, files: Files) -> tuple[_Part, ...]:
    """The file alone, or all parts of the split model it belongs to, first to last."""
    count = found.values.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return (found,)
    if count > MOST_PARTS:
        raise BadFile(found.path, f"says it is one of {count} parts, more than any model has")
    paths = _part_paths(found.path, count)
    missing = [path for path in paths if not files.exists(path)]
    if missing:
        raise BadFile(
            found.path, f"{len(missing)} of its {count} parts are missing, first `{missing[0].name}`"
        )
    parts = []
    for number, path in enumerate(paths):
        part = found if path == found.path else _read_part(path, files)
        if part.values.get("split.no") != number or part.values.get("split.count") != count:
            raise BadFile(path, f"does not hold part {number + 1} of {count}, as its name says")
        parts.append(part)
    return tuple(parts)


def _part_paths(path: Path, count: int) -> list[Path]:
    match = SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise BadFile(
            path,
            f"is one of {count} parts, and without its name the others cannot be found",
            hint=f"give it back its name: MODEL-00001-of-{count:05}.gguf",
        )
    return [path.with_name(f"{match[1]}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def _joined(parts: tuple[_Part, ...]) -> list[_Tensor]:
    """The tensors of all parts, each once and none missing."""
    tensors = [tensor for part in parts for tensor in part.tensors]
    path = parts[0].path
    twice = [name for name, n in Counter(t.name for t in tensors).items() if n > 1]
    if twice:
        raise BadFile(path, f"tensor `{twice[0]}` is in two of its parts")
    announced = parts[0].values.get("split.tensors.count", len(tensors))
    if announced != len(tensors):
        raise BadFile(path, f"announces {announced} tensors, but its parts hold {len(tensors)}")
    if not tensors:
        raise BadFile(path, "holds no tensors (a vocabulary alone?)")
    return tensors


# --- the model ---------------------------------------------------------------------------------------


def _spec(parts: tuple[_Part, ...]) -> ModelSpec:
    head = parts[0]
    architecture = _architecture(head)
    hyper = _hyper(head, architecture)
    layers = _required(head, architecture, hyper, "block_count", MOST_LAYERS)
    groups = _grouped(_joined(parts))
    tensors = tuple(group for group in groups if not group.name.startswith(_BESIDE))
    return ModelSpec(
        name=_name(head),
        architecture=architecture,
        layers=layers,
        hidden=_required(head, architecture, hyper, "embedding_length"),
        vocab=_vocab(head, hyper, tensors),
        feed_forward=largest_count(hyper, "feed_forward_length"),
        context_train=_required(head, architecture, hyper, "context_length"),
        mixers=mixers(architecture, hyper, layers),
        tensors=tensors,
        quantization=_quantization(head, tensors),
        experts=largest_count(hyper, "expert_count"),
        experts_used=largest_count(hyper, "expert_used_count"),
        hyper=hyper,
        file=parts[0].path,
        file_bytes=sum(part.size_bytes for part in parts),
        basis="file",
        format="gguf",
        beside=tuple(group for group in groups if group.name.startswith(_BESIDE)),
    )


def _architecture(part: _Part) -> str:
    kind = part.values.get("general.type", "model")
    name = part.values.get("general.architecture")
    if kind != "model" or name == "clip":
        said = printable(str(name if kind == "model" else kind))
        raise BadFile(part.path, f"is no language model: its kind is `{said}`")
    if not isinstance(name, str) or not name:
        raise BadFile(part.path, "does not say its architecture")
    return printable(name)


def _hyper(part: _Part, architecture: str) -> dict[str, HyperValue]:
    prefix = f"{architecture}."
    return {
        key.removeprefix(prefix): printable(value) if isinstance(value, str) else value
        for key, value in part.values.items()
        if key.startswith(prefix)
    }


def _required(
    part: _Part, architecture: str, hyper: Mapping[str, HyperValue], key: str, most: int = (1 << 31) - 1
) -> int:
    value = hyper.get(key)
    if value is None:
        raise BadFile(part.path, f"has no `{architecture}.{key}`: not a language model llama.cpp would load")
    if not isinstance(value, int) or not 1 <= value <= most:
        raise BadFile(part.path, f"`{architecture}.{key}` is {str(value)[:40]}, which no model has")
    return value


def _name(part: _Part) -> str:
    """What the file calls itself, else its own name without the number of the part."""
    said = part.values.get("general.name")
    if isinstance(said, str) and said.strip():
        return printable(said.strip())
    match = SPLIT_NAME.fullmatch(part.path.name)
    return printable(match[1] if match else part.path.stem)


def _vocab(part: _Part, hyper: Mapping[str, HyperValue], tensors: Iterable[TensorGroup]) -> int:
    rows = next((t.shape[1] for t in tensors if t.name == "token_embd.weight" and len(t.shape) > 1), 0)
    return part.lengths.get("tokenizer.ggml.tokens") or rows or largest_count(hyper, "vocab_size")


def _quantization(part: _Part, tensors: tuple[TensorGroup, ...]) -> str:
    """The recipe the file names, else the number format that holds most of its bytes."""
    said = part.values.get("general.file_type")
    if isinstance(said, int) and said % _GUESSED in FILE_TYPES:
        return FILE_TYPES[said % _GUESSED]
    held: Counter[NumberFormat] = Counter()
    for tensor in tensors:
        held[tensor.type] += tensor.total_bytes
    return max(held, key=held.__getitem__).name


def _grouped(tensors: Iterable[_Tensor]) -> tuple[TensorGroup, ...]:
    """Tensors of one role, shape and type together, in the order in which the file begins them."""
    groups: dict[tuple[str, tuple[int, ...], GgmlType], list[int]] = {}
    for tensor in tensors:
        match = _LAYER_NAME.fullmatch(tensor.name)
        name = f"{match[1]}{{}}{match[3]}" if match else tensor.name
        layers = groups.setdefault((name, tensor.shape, tensor.type), [])
        if match:
            layers.append(int(match[2]))
    return tuple(
        TensorGroup(name, shape, kind, tuple(sorted(layers)))
        for (name, shape, kind), layers in groups.items()
    )
