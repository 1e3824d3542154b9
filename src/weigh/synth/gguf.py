"""Model files of true shapes with random weights, which engines load and run like the real thing.

Speed and memory of inference depend on shapes and number formats, not on what the weights say. So a file
with the tensors of a `ModelSpec`, filled with random blocks, stands in for a download; with
``weights=False`` it is a header and a hole of the right length, which is all that layout questions need.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3, little endian.
"""

from __future__ import annotations

import errno
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from weigh import units
from weigh.errors import BadInput, NoSpace, NotSupported
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import HyperValue, ModelSpec, Scalar, TensorGroup
from weigh.synth.blocks import constant_weights, random_blocks

ALIGNMENT = 32
DISK_MARGIN_BYTES = 256 << 20

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64 = 4, 5, 6, 7, 8, 9, 10
_NORMAL, _CONTROL = 1, 3  # token types

_CONSTANTS: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"\.bias$"), 0.0),
    (re.compile(r"ssm_a(\.weight)?$"), -1.0),  # decay rates: positive ones make states explode
    (re.compile(r"norm(_\d)?\.weight$|^rope_f|scale\.weight$|ssm_d(\.weight)?$"), 1.0),
)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the file: `name` with its layer filled in."""

    name: str
    group: TensorGroup

    @property
    def bytes(self) -> int:
        return self.group.tensor_bytes


def write_gguf(
    spec: ModelSpec,
    path: Path,
    *,
    weights: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write `spec` as a GGUF file and return its length in bytes.

    Args:
        weights: False leaves a hole where the weights would be: the file takes a few MiB on disk.
        progress: called with the bytes written and the bytes in all.

    Raises:
        NoSpace: the disk is too small; nothing is left of the file.
        NotSupported: a tensor has a number format that random weights are not made for.
    """
    tensors = _file_order(spec)
    header = _header(spec, tensors)
    total_bytes = len(header) + sum(_aligned(t.bytes) for t in tensors)
    _require_space(path, total_bytes if weights else len(header))
    try:
        with path.open("wb", buffering=0) as file:
            _write_all(file, header)
            if weights:
                _write_weights(file, tensors, seed, progress, total_bytes)
            file.truncate(total_bytes)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(path, total_bytes) from None
        raise
    return total_bytes


def truncated(spec: ModelSpec, layers: int) -> ModelSpec:
    """The same model with its first `layers` layers only; tensors outside the layers stay.

    Raises:
        BadInput: `layers` is not between 1 and what the model has.
    """
    if not 1 <= layers <= spec.layers:
        raise BadInput(f"{spec.name} has {spec.layers} layers; {layers} of them cannot be kept")
    if layers == _block_count(spec):
        return spec
    tensors = (replace(t, layers=_below(t.layers, layers)) for t in spec.tensors)
    mixers = (replace(m, layers=_below(m.layers, layers)) for m in spec.mixers)
    return replace(
        spec,
        layers=layers,
        # a group that has lost all its layers would look like one outside the layers
        tensors=tuple(
            _narrowed(t, spec, layers)
            for t, was in zip(tensors, spec.tensors, strict=True)
            if t.layers or not was.layers
        ),
        mixers=tuple(m for m in mixers if m.layers),
        hyper=_truncated_hyper(spec, layers),
        file=None,
        file_bytes=None,
    )


def _narrowed(tensor: TensorGroup, spec: ModelSpec, layers: int) -> TensorGroup:
    """Embeddings that every layer adds lie side by side in one tensor (Gemma 3n and 4)."""
    each = _int(spec.hyper.get("embedding_length_per_layer_input", 0))
    if not each or tensor.layers:
        return tensor
    return replace(tensor, shape=tuple(each * layers if n == each * spec.layers else n for n in tensor.shape))


def _block_count(spec: ModelSpec) -> int:
    """Layers as the file counts them: with those of multi-token prediction, which text does not pass."""
    return _int(spec.hyper.get("block_count", spec.layers))


def _truncated_hyper(spec: ModelSpec, layers: int) -> dict[str, HyperValue]:
    """Hyperparameters for the first `layers` layers: per-layer arrays cut, counts of layers lowered."""
    per_layer = (spec.layers, _block_count(spec))
    hyper = {
        key: value[:layers] if isinstance(value, tuple) and len(value) in per_layer else value
        for key, value in spec.hyper.items()
    }
    hyper["block_count"] = layers
    if "leading_dense_block_count" in hyper:
        hyper["leading_dense_block_count"] = min(layers, _int(hyper["leading_dense_block_count"]))
    if "attention.shared_kv_layers" in hyper:  # the last layers, which borrow keys and values
        own = spec.layers - _int(hyper["attention.shared_kv_layers"])
        hyper["attention.shared_kv_layers"] = max(0, layers - own)
    if "nextn_predict_layers" in hyper:  # they come last, so they are gone
        hyper["nextn_predict_layers"] = 0
    return hyper


def _int(value: HyperValue) -> int:
    if isinstance(value, (tuple, str)):
        raise BadInput(f"`{value}` stands where a number is expected")
    return int(value)


def _below(layers: tuple[int, ...], limit: int) -> tuple[int, ...]:
    return tuple(i for i in layers if i < limit)


def _file_order(spec: ModelSpec) -> list[_Tensor]:
    """Tensors as converters store them: those outside the layers first, then layer by layer."""
    outside = [_Tensor(t.name, t) for t in spec.tensors if not t.layers]
    inside = sorted((layer, i) for i, t in enumerate(spec.tensors) for layer in t.layers)
    return outside + [_Tensor(spec.tensors[i].name.format(layer), spec.tensors[i]) for layer, i in inside]


def _require_space(path: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < needed_bytes + DISK_MARGIN_BYTES:
        raise _no_space(path, needed_bytes)


def _no_space(path: Path, needed_bytes: int) -> NoSpace:
    free_bytes = shutil.disk_usage(path.parent).free
    return NoSpace(
        f"{path.parent} has {units.gib(free_bytes)} free, "
        f"and {units.gib(needed_bytes + DISK_MARGIN_BYTES)} are needed for a model file",
        hint="free some space, choose another folder, or a smaller model",
    )


# --- weights ---------------------------------------------------------------------------------------


def _write_weights(
    file: BinaryIO,
    tensors: list[_Tensor],
    seed: int,
    progress: Callable[[int, int], None] | None,
    total_bytes: int,
) -> None:
    choose = random.Random(seed)
    written = file.tell()
    for tensor in tensors:
        for chunk in _chunks(tensor, seed, choose):
            _write_all(file, chunk)
            written += len(chunk)
            if progress is not None:
                progress(written, total_bytes)


def _chunks(tensor: _Tensor, seed: int, choose: random.Random) -> Iterator[bytes | memoryview]:
    """The bytes of one tensor and its padding, a few MiB at a time."""
    yield from _data(tensor, seed, choose)
    padding = _aligned(tensor.bytes) - tensor.bytes
    if padding:
        yield bytes(padding)


def _data(tensor: _Tensor, seed: int, choose: random.Random) -> Iterator[bytes | memoryview]:
    kind = _gguf_type(tensor.group)
    for pattern, value in _CONSTANTS:
        if pattern.search(tensor.name):
            yield constant_weights(kind, value, tensor.group.elements)
            return
    pool = memoryview(random_blocks(kind, seed))
    # start at another block every time, so that no two tensors are the same
    start = choose.randrange(len(pool) // kind.block_bytes // 2) * kind.block_bytes
    left = tensor.bytes
    while left:
        chunk = pool[start : start + left]
        yield chunk
        left -= len(chunk)
        start = 0


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Unbuffered writes may stop early, as they do when the disk is about to be full."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


# --- header ----------------------------------------------------------------------------------------


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _header(spec: ModelSpec, tensors: list[_Tensor]) -> bytes:
    entries = [
        _pair("general.architecture", spec.architecture),
        # llama.cpp asks for Phi-3's own special tokens in the vocabulary of anything so named
        _pair("general.name", spec.name.replace("Phi-3", "Phi 3").replace("phi-3", "phi 3")),
        _pair("general.alignment", ALIGNMENT),
        *(_pair(_full_key(spec.architecture, key), value) for key, value in _hyper(spec).items()),
        *_tokenizer(spec.vocab),
        *_token_types(spec),
    ]
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(entries)), *entries]
    offset = 0
    for tensor in tensors:
        parts.append(_tensor_info(tensor, offset))
        offset += _aligned(tensor.bytes)
    header = b"".join(parts)
    return header + bytes(_aligned(len(header)) - len(header))


def _token_types(spec: ModelSpec) -> list[bytes]:
    """BERT's files count the kinds of sentences beside the vocabulary."""
    kinds = next((t.shape[1] for t in spec.tensors if t.name == "token_types.weight"), 0)
    return [_pair("tokenizer.ggml.token_type_count", kinds)] if kinds else []


def _hyper(spec: ModelSpec) -> Mapping[str, HyperValue]:
    return {"vocab_size": spec.vocab, "block_count": spec.layers, **spec.hyper}


def _full_key(architecture: str, key: str) -> str:
    """Keys carry the architecture's name, but for those of Apertus's activation."""
    return key if key.startswith("xielu.") else f"{architecture}.{key}"


def _tensor_info(tensor: _Tensor, offset: int) -> bytes:
    shape = tensor.group.shape
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _string(tensor.name) + dimensions + struct.pack("<IQ", _gguf_type(tensor.group).id, offset)


def _gguf_type(group: TensorGroup) -> GgmlType:
    if not isinstance(group.type, GgmlType):
        raise NotSupported(f"a GGUF file cannot hold {group.type.name} (`{group.name}`)")
    return group.type


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pair(key: str, value: HyperValue) -> bytes:
    if isinstance(value, tuple):
        # arrays of counts are signed in llama.cpp's own files
        kind = _I32 if _kind(value[0]) == _U32 else _kind(value[0])
        head = struct.pack("<IIQ", _ARRAY, kind, len(value))
        return _string(key) + head + b"".join(_scalar(kind, v) for v in value)
    kind = _kind(value)
    return _string(key) + struct.pack("<I", kind) + _scalar(kind, value)


def _kind(value: Scalar) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, str):
        return _STRING
    if isinstance(value, float):
        return _F32
    return _I32 if value < 0 else _U32 if value < 1 << 32 else _U64


def _scalar(kind: int, value: Scalar) -> bytes:
    if isinstance(value, str):
        return _string(value)
    codes = {_U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?", _U64: "<Q"}
    return struct.pack(codes[kind], value)


# --- tokenizer -------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _tokenizer(vocab: int) -> tuple[bytes, ...]:
    """A byte-level BPE tokenizer of `vocab` tokens: the 256 bytes, fillers, and two control tokens.

    llama.cpp refuses an empty list of merges, and its server wants a tokenizer it can run; hence one
    merge of two bytes, whose result exists.
    """
    if vocab < 259:
        raise NotSupported(f"a vocabulary of {vocab} tokens; byte-level BPE needs 259")
    letters = _byte_letters()
    merged = letters[0] + letters[1]
    fillers = (f"<t{i}>" for i in range(vocab - 259))
    tokens = [*letters, merged, *fillers, "<|begin|>", "<|end|>"]
    types = struct.pack(f"<{vocab}i", *[_NORMAL] * (vocab - 2), _CONTROL, _CONTROL)
    return (
        _pair("tokenizer.ggml.model", "gpt2"),
        _pair("tokenizer.ggml.pre", "llama-bpe"),
        _pair("tokenizer.ggml.tokens", tuple(tokens)),
        _string("tokenizer.ggml.token_type") + struct.pack("<IIQ", _ARRAY, _I32, vocab) + types,
        _pair("tokenizer.ggml.merges", (f"{letters[0]} {letters[1]}",)),
        _pair("tokenizer.ggml.bos_token_id", vocab - 2),
        _pair("tokenizer.ggml.eos_token_id", vocab - 1),
    )


def _byte_letters() -> list[str]:
    """One printable character per byte, as GPT-2 writes them: others start at code point 256."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(b if b in printable else next(others)) for b in range(256)]
