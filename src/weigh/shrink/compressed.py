"""A safetensors folder with the linear layers of its blocks in fewer bits, as compressed-tensors stores them.

What comes out is a folder again, which vLLM loads, and transformers with the package `compressed-tensors`. Weights
are rounded to nearest, without a text to watch; writing goes slab by slab, and needs neither of the two.

Source of the layouts and of the scales: compressed-tensors 0.20 (Apache-2.0), `compressors/pack_quantized`,
`compressors/naive_quantized`, `quantization/quant_scheme.py` and `quantization/utils/helpers.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from weigh.errors import BadFile, BadInput, NotSupported
from weigh.model.checkpoint import INDEX_NAME, checkpoint_files, own_file
from weigh.model.checkpoint_names import beside
from weigh.model.config import config_fields
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_encoding import disk_is_full, no_space, require_space, write_all
from weigh.model.quantization import ALL_RECIPES
from weigh.model.safetensors import DTYPE_BITS, Header, StoredTensor, read_header
from weigh.model.source import LocalFile
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import scheme_named, scheme_names
from weigh.shrink import ggml
from weigh.shrink.ggml import Bytes, Floats
from weigh.shrink.gguf_file import Progress


@dataclass(frozen=True, slots=True)
class Rounding:
    """How the weights of linear layers are stored.

    Attributes:
        name: as in `weigh.model.stored_quantization`.
        most: the largest number that a scale is multiplied with.
        bits: of an integer; 0 for E4M3 floats, of a byte each.
        packed: integers lie in 32-bit words.
        grouped: stretches of a row have a scale of their own, else the row has one.
        activations: what they are multiplied with is rounded too, by one scale a token, when the model runs.
    """

    name: str
    most: float
    bits: int = 0
    packed: bool = False
    grouped: bool = False
    activations: bool = False


ROUNDINGS: Mapping[str, Rounding] = {
    rounding.name: rounding
    for rounding in (
        Rounding("W4A16", 7.5, bits=4, packed=True, grouped=True),
        Rounding("W8A16", 127.5, bits=8, packed=True),
        Rounding("W8A8", 127.5, bits=8, activations=True),
        Rounding("FP8-DYNAMIC", 448.0, activations=True),
    )
}
_GROUPS = (128, 64, 32)  # weights that share a scale; vLLM has kernels for these
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of the widest scale, of which each group takes the best
_SLAB_WEIGHTS = 1 << 22
_CHUNK_BYTES = 1 << 24
_FLOATS = {"F32": GgmlType.F32, "F16": GgmlType.F16, "BF16": GgmlType.BF16}
# Linear layers in every model of transformers that has modules of these names.
_LINEAR = re.compile(
    r"(?:.+\.)?layers\.\d{1,5}\.(?:self_attn\.(?:q|k|v|o|qkv)|mlp\.(?:gate|up|down|gate_up))_proj\.weight"
)
_CONFIG = "config.json"
_ONLY_FILE = "model.safetensors"  # of a folder without an index
_BESIDE_SUFFIXES = frozenset((".json", ".jinja", ".model", ".txt", ".md"))


def rounding_named(name: str) -> Rounding | None:
    """A way of storing a folder by its name or another it goes by; None for names of GGUF recipes and unknown ones.

    Raises:
        NotSupported: a scheme that folders come in, and that is not written.
    """
    typed = name.strip().upper().replace("_", "-")
    if typed not in scheme_names() or typed in ALL_RECIPES:
        return None
    found = ROUNDINGS.get(scheme_named(typed).name)
    if found is None:
        raise NotSupported(
            f"folders in {typed} are not made; those in {', '.join(ROUNDINGS)} are",
            hint="or name a type of llama.cpp's, such as Q4_K_M",
        )
    return found


def write(spec: ModelSpec, rounding: Rounding, out: Path, progress: Progress | None = None) -> None:
    """Write a checkpoint's folder anew, its linear layers rounded, float32 elsewhere as bfloat16.

    Until the folder is whole it has another name; after an error or Ctrl-C nothing is left of it.

    Args:
        spec: of a folder of safetensors files.
        progress: called with the bytes written and the bytes in all.

    Raises:
        BadInput: the model comes quantized, a weight is no number, or the folder is damaged.
        NotSupported: it has experts, parts beside the text's, or no linear layers that are known.
        NoSpace: the disk has no room for it.
        BadFile: it cannot be written there, or the source cannot be read on.
    """
    folder = _source(spec)
    files = [_File.of(path) for path in checkpoint_files(folder)]
    group = _check(spec, files, rounding)
    for file in files:
        file.place(rounding, group)
    config = _config(folder, files, rounding, group)
    total_bytes = sum(file.bytes for file in files)
    if not out.parent.is_dir():
        raise BadFile(out, "cannot be written: there is no such folder")
    require_space(out, total_bytes)
    with _whole_or_not_at_all(out, total_bytes) as part:
        _copy_beside(folder, part)
        written = 0
        for file in files:
            for step in file.write(part, rounding, group):
                written += step
                if progress is not None:
                    progress(written, total_bytes)
        if [file.header.path.name for file in files] != [_ONLY_FILE]:
            _write_json(part / INDEX_NAME, _index(files))
        _write_json(part / _CONFIG, config)


def _source(spec: ModelSpec) -> Path:
    if spec.format != "safetensors" or spec.file is None or not spec.file.is_dir():
        raise BadInput(
            f"{spec.name} is no folder of safetensors files, and only those can be stored so",
            hint="name such a folder, or a type of llama.cpp's such as Q4_K_M",
        )
    return spec.file


def _check(spec: ModelSpec, files: Sequence[_File], rounding: Rounding) -> int:
    """Weights of a group; 0 for one scale a row."""
    quantized = next((group for group in spec.tensors if group.type.quantized), None)
    if quantized is not None:
        raise BadInput(
            f"{spec.name} is quantized already ({quantized.type.name}); rounding it again loses more than rounding "
            "the original once",
            hint="name the original, in F16, BF16 or F32",
        )
    if spec.experts:
        raise NotSupported(
            f"{spec.name} has experts, which are not stored in {rounding.name} here",
            hint="make a GGUF file of it",
        )
    tensors = [tensor for file in files for tensor in file.header.tensors]
    other = next((tensor.name for tensor in tensors if beside(tensor.name)), None)
    if other is not None:
        raise NotSupported(
            f"{spec.name} has more than a text's part (`{other}`), which is not rounded rightly yet"
        )
    widths = {tensor.shape[1] for tensor in tensors if _is_linear(tensor)}
    if not widths or 0 in widths:
        raise NotSupported(f"{spec.name}: none of its tensors is known to be a linear layer's")
    if not rounding.grouped:
        return 0
    return next((group for group in _GROUPS if all(width % group == 0 for width in widths)), 0)


def _is_linear(tensor: StoredTensor) -> bool:
    known = tensor.dtype in _FLOATS and len(tensor.shape) == 2
    return known and _LINEAR.fullmatch(tensor.name) is not None


# --- rounding ------------------------------------------------------------------------------------------


def rounded(weights: Floats, rounding: Rounding, group: int, half: GgmlType) -> tuple[Bytes, Bytes]:
    """Rows of weights as they are stored, and their scales.

    Args:
        weights: (rows, columns).
        group: how many of a row share a scale; it divides the columns.
        half: number format of the scales.

    Returns:
        (rows, bytes of a row) twice: numbers, and scales in `half`.

    Raises:
        BadInput: a weight is no number.
    """
    rows, columns = weights.shape
    groups = weights.reshape(rows, columns // group, group)
    peaks = np.abs(groups).max(axis=2)
    if not bool(np.isfinite(peaks).all()):
        raise BadInput("it holds weights that are no numbers")
    by = _scale(peaks / np.float32(rounding.most), half)
    if rounding.grouped:
        by = _least_error(groups, by, rounding, half)
    steps = _steps(groups, by).reshape(rows, columns)
    scales = ggml.quantize(by, half)
    if not rounding.bits:
        return _e4m3(steps), scales
    numbers = _integers(steps, rounding.bits).astype(np.int8)
    if not rounding.packed:
        return numbers.view(np.uint8), scales
    return _packed(numbers.view(np.uint8) + np.uint8(1 << rounding.bits - 1), rounding.bits), scales


def _scale(wanted: Floats, half: GgmlType) -> Floats:
    """As it is read back from `half`."""
    return ggml.dequantize(ggml.quantize(wanted, half), half)


def _steps(groups: Floats, scales: Floats) -> Floats:
    """How many of its scale each weight is; 0 where the scale is 0."""
    by = scales[:, :, None]
    return np.divide(groups, by, out=np.zeros_like(groups), where=by > 0)


def _integers(steps: Floats, bits: int) -> Floats:
    return np.clip(np.rint(steps), -(1 << bits - 1), (1 << bits - 1) - 1)


def _least_error(groups: Floats, widest: Floats, rounding: Rounding, half: GgmlType) -> Floats:
    """The scale of each group, the widest or a smaller one that cuts its peaks, with the least squared error."""
    best, least = widest, np.full(widest.shape, np.inf, dtype=np.float32)
    for share in _SHARES:
        scales = _scale(widest * np.float32(share), half)
        numbers = _integers(_steps(groups, scales), rounding.bits)
        error = np.square(numbers * scales[:, :, None] - groups).sum(axis=2)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def _packed(numbers: Bytes, bits: int) -> Bytes:
    """Numbers of 4 or 8 bits in 32-bit words, the first in the lowest bits; the last word of a row filled with 0."""
    numbers = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % (32 // bits))))
    return numbers if bits == 8 else numbers[:, 0::2] | numbers[:, 1::2] << np.uint8(4)


def _e4m3(numbers: Floats) -> Bytes:
    """The nearest E4M3 (four bits of exponent, three of mantissa), of two as near the even one; at most 448."""
    size = np.minimum(np.abs(numbers), np.float32(448))
    bits = size.view(np.uint32)
    normal = (bits + 0x7FFFF + (bits >> 20 & 1) >> 20) - (120 << 3)  # exponents count from -7 instead of -127
    small = np.rint(size * 512)  # below 2**-6 numbers are 2**-9 apart
    code = np.where(size < 2**-6, small, normal).astype(np.uint8)
    return code | np.signbit(numbers).astype(np.uint8) << np.uint8(7)


# --- files ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _New:
    """A tensor to write; its first byte counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def bytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(slots=True)
class _File:
    """A file of the source, and what it becomes."""

    header: Header
    new: dict[str, _New]
    head: bytes = b""

    @classmethod
    def of(cls, path: Path) -> _File:
        with LocalFile(path, kind="safetensors file") as file:
            return cls(read_header(file), {})

    @property
    def bytes(self) -> int:
        return len(self.head) + sum(tensor.bytes for tensor in self.new.values())

    def place(self, rounding: Rounding, group: int) -> None:
        """Decide what is written where: wide numbers first, so that all lie at multiples of their width."""
        found = {
            name: new for tensor in self.header.tensors for name, new in _becomes(tensor, rounding, group)
        }
        names = sorted(found, key=lambda name: -DTYPE_BITS[found[name].dtype])
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        starts = {}
        for name in names:
            new = found[name]
            starts[name], at = at, at + new.bytes
            entries[name] = {"dtype": new.dtype, "shape": new.shape, "data_offsets": (starts[name], at)}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.head = struct.pack("<Q", len(text)) + text
        self.new = {
            name: _New(found[name].dtype, found[name].shape, len(self.head) + starts[name]) for name in names
        }

    def write(self, folder: Path, rounding: Rounding, group: int) -> Iterator[int]:
        """Write the file into a folder, and say how many bytes each step wrote."""
        with (
            (folder / self.header.path.name).open("xb", buffering=0) as file,
            LocalFile(self.header.path, kind="safetensors file") as source,
        ):
            yield write_all(file, self.head)
            for tensor in self.header.tensors:
                write = self._rounded if _is_linear(tensor) else self._copied
                yield from write(file, source, tensor, rounding, group)
            os.fsync(file.fileno())

    def _rounded(
        self, file: BinaryIO, source: LocalFile, tensor: StoredTensor, rounding: Rounding, group: int
    ) -> Iterator[int]:
        (weight, scale, *shape), kind = _names(tensor, rounding), _FLOATS[tensor.dtype]
        rows, columns = tensor.shape
        step = max(1, _SLAB_WEIGHTS // columns)
        at = [self.new[weight].start, self.new[scale].start]
        for first in range(0, rows, step):
            count = min(step, rows - first)
            row_bytes = kind.row_bytes(columns)
            data = self._read(source, tensor.start + first * row_bytes, count * row_bytes)
            weights = ggml.dequantize(data.reshape(count, row_bytes), kind)
            try:
                made = rounded(weights, rounding, group or columns, _FLOATS[_half(tensor)])
            except BadInput as error:
                raise BadInput(f"`{tensor.name}`: {error.message}") from error
            for i, part in enumerate(made):
                file.seek(at[i])
                at[i] += (written := write_all(file, np.ascontiguousarray(part).data.cast("B")))
                yield written
        for name in shape:
            file.seek(self.new[name].start)
            yield write_all(file, struct.pack("<2q", rows, columns))

    def _copied(
        self, file: BinaryIO, source: LocalFile, tensor: StoredTensor, _rounding: Rounding, _group: int
    ) -> Iterator[int]:
        file.seek(self.new[tensor.name].start)
        for start in range(tensor.start, tensor.end, _CHUNK_BYTES):
            data = self._read(source, start, min(_CHUNK_BYTES, tensor.end - start))
            if tensor.dtype == "F32":
                data = _bfloat16(data.view("<f4"))
            yield write_all(file, data.data)

    def _read(self, source: LocalFile, start: int, length: int) -> Bytes:
        """Bytes of the source, counted from the end of its header."""
        data = source.read(self.header.header_bytes + start, length)
        if len(data) != length:
            raise BadFile(self.header.path, "shrank while it was read")
        return np.frombuffer(data, dtype=np.uint8)


def _bfloat16(numbers: Floats) -> Bytes:
    """The nearest bfloat16, of two as near the even one; what is no number stays none."""
    bits = numbers.view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(numbers), 0x7FC0, nearest).astype("<u2").view(np.uint8)


def _becomes(tensor: StoredTensor, rounding: Rounding, group: int) -> Iterator[tuple[str, _New]]:
    """The names and shapes of what a tensor is stored as."""
    if not _is_linear(tensor):
        yield tensor.name, _New(_half(tensor), tensor.shape)
        return
    rows, columns = tensor.shape
    weight, scale, *shape = _names(tensor, rounding)
    if rounding.packed:
        yield weight, _New("I32", (rows, -(-columns * rounding.bits // 32)))
    else:
        yield weight, _New("I8" if rounding.bits else "F8_E4M3", (rows, columns))
    yield scale, _New(_half(tensor), (rows, columns // group if group else 1))
    for name in shape:
        yield name, _New("I64", (2,))


def _names(tensor: StoredTensor, rounding: Rounding) -> tuple[str, ...]:
    """Of the numbers, the scales and, of packed ones, the shape."""
    name = tensor.name
    packed = (f"{name}_packed", f"{name}_scale", f"{name}_shape")
    return packed if rounding.packed else (name, f"{name}_scale")


def _half(tensor: StoredTensor) -> str:
    return "BF16" if tensor.dtype == "F32" else tensor.dtype


@contextmanager
def _whole_or_not_at_all(out: Path, needed_bytes: int) -> Iterator[Path]:
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir()
        yield part
        part.rename(out)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if disk_is_full(error):
            raise no_space(out, needed_bytes) from None
        if isinstance(error, OSError):
            raise BadFile(out, f"cannot be written ({error.strerror})") from error
        raise


def _copy_beside(folder: Path, part: Path) -> None:
    """The tokenizer, the chat's template, the licence: what is neither weights nor says how they are stored."""
    for path in sorted(folder.iterdir()):
        kept = path.suffix in _BESIDE_SUFFIXES or path.name.startswith(("LICENSE", "LICENCE", "NOTICE"))
        if kept and path.is_file() and path.name not in (INDEX_NAME, _CONFIG):
            shutil.copyfile(own_file(folder, path.name), part / path.name)


def _write_json(path: Path, fields: Mapping[str, object]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _index(files: Sequence[_File]) -> dict[str, object]:
    total = sum(file.bytes - len(file.head) for file in files)
    where = {name: file.header.path.name for file in files for name in file.new}
    return {"metadata": {"total_size": total}, "weight_map": where}


def _config(folder: Path, files: Sequence[_File], rounding: Rounding, group: int) -> dict[str, object]:
    """The source's `config.json`, with how the weights are stored now."""
    config = config_fields(folder / _CONFIG)
    tensors = [tensor for file in files for tensor in file.header.tensors]
    if any(tensor.dtype == "F32" for tensor in tensors):
        config["dtype"] = "bfloat16"
        config.pop("torch_dtype", None)
    kept = {
        tensor.name.removesuffix(".weight")
        for tensor in tensors
        if len(tensor.shape) == 2 and tensor.name.endswith(".weight") and not _is_linear(tensor)
    }
    form = "pack-quantized" if rounding.packed else "int-quantized" if rounding.bits else "float-quantized"
    number: dict[str, Any] = {
        "num_bits": rounding.bits or 8,
        "type": "int" if rounding.bits else "float",
        "symmetric": True,
    }
    weights = {
        "strategy": "group" if group else "channel",
        "group_size": group or None,
        "dynamic": False,
    }
    inputs = {"strategy": "token", "group_size": None, "dynamic": True}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": number | weights,
                "input_activations": number | inputs if rounding.activations else None,
                "output_activations": None,
                "format": form,
            }
        },
        "ignore": sorted(kept | {"lm_head"}),  # which a model with tied embeddings has no tensor of
        "kv_cache_scheme": None,
    }
    return config
