"""Checkpoints of transformers: a `config.json` beside safetensors files, one or many.

The config says what the model is, the headers what is really there. The spec has the config's layers and
attention, and the headers' tensors in GGUF's words, to the byte; where the two disagree it says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from weigh.errors import BadFile, BadInput, NotSupported
from weigh.model.checkpoint_names import alternatives, beside
from weigh.model.checks import Said, contradictions
from weigh.model.config import config_fields, spec_from_config, text_part
from weigh.model.gguf import printable
from weigh.model.json_object import MOST_BYTES
from weigh.model.safetensors import Header, read_header
from weigh.model.source import LocalFile
from weigh.model.spec import ModelSpec, TensorGroup
from weigh.model.stored_types import NumberFormat
from weigh.model.stored_weights import Weight, weights
from weigh.model.unknown_model import spec_from_weights

MOST_SHARDS = 1 << 12  # the largest models come in some 200
MOST_TENSORS = 1 << 18  # experts by the hundred, each with scales, make up to 210,000
MOST_KINDS = 1 << 13  # of tensors, layers and experts aside; real models have up to some hundred
INDEX_NAME = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


def read_checkpoint(path: Path) -> ModelSpec:
    """The model in a folder of safetensors files with their `config.json`, or in a single file.

    Raises:
        BadFile: a file is missing, damaged, or a link that leads out of the folder.
        BadInput: the files do not make one model.
        NotSupported: pickled weights, an adapter, or an architecture that cannot be made out.
    """
    folder = path if path.is_dir() else path.parent
    index = _index(folder) if path.is_dir() else None
    headers = _headers(checkpoint_files(path))
    config = _fields(folder, "config.json")
    if config is None and (adapter := _fields(folder, "adapter_config.json")) is not None:
        raise NotSupported(adapter_message(str(folder), adapter))
    return spec_from_checkpoint(
        printable(folder.absolute().name if path.is_dir() or config else path.stem),
        config or {},
        headers,
        index=index,
        quantization=_fields(folder, "hf_quant_config.json"),
        file=path,
    )


def spec_from_checkpoint(
    name: str,
    config: Mapping[str, object],
    headers: Sequence[Header],
    *,
    index: Mapping[str, object] | None = None,
    quantization: Mapping[str, object] | None = None,
    file: Path | None = None,
) -> ModelSpec:
    """The model that a config and the headers of all its files describe, wherever they were read from.

    Args:
        name: what people call it, and what messages begin with.
        config: of `config.json`; empty when there is none.
        headers: of every safetensors file of the model, each once.
        index: of `model.safetensors.index.json`, when there is one.
        quantization: of `hf_quant_config.json`, where ModelOpt says what `config.json` does not.
        file: the folder, or the single file; None when it is remote.

    Raises:
        BadInput: the pieces do not make one model.
        NotSupported: a true model that weigh cannot read.
    """
    _check_tensors(name, headers)
    method = _quantization(config, quantization)
    stored = weights(headers, method)
    shapes = _shapes(name, config, stored)
    sorted_in = _sorted_in(shapes, stored, tied=text_part(config).get("tie_word_embeddings") is True)
    spec = replace(
        shapes,
        tensors=sorted_in.text.groups(shapes.tensors),
        beside=sorted_in.beside.groups(()),
        quantization=_scheme(stored),
        file=file,
        file_bytes=sum(header.size_bytes for header in headers),
        basis="file",
        format="safetensors",
        # parts that a config leaves uncounted are counted here
        notes=(*(n for n in shapes.notes if "not counted" not in n), *sorted_in.notes),
    )
    said = Said(config=config, quantization=method, index=index, headers=tuple(headers), shapes=shapes)
    return replace(spec, contradictions=contradictions(spec, said))


def adapter_message(name: str, config: Mapping[str, object]) -> str:
    """What an adapter is, in one line."""
    kind = config.get("peft_type")
    base = config.get("base_model_name_or_path")
    said = f" of `{printable(base)}`" if isinstance(base, str) and base else ""
    label = printable(kind) if isinstance(kind, str) and kind else "PEFT"
    return f"{name} is a {label[:20]} adapter{said}, which is no model by itself"


# --- files ---------------------------------------------------------------------------------------------


def checkpoint_files(path: Path) -> list[Path]:
    """The safetensors files of a folder that make one model, or the file itself.

    Raises:
        BadInput: there is none, some are missing, or they do not make one model.
    """
    if not path.is_dir():
        return [path]
    return [own_file(path, name) for name in _file_names(path, _index(path))]


def shard_names(path: Path, index: Mapping[str, object]) -> tuple[str, ...]:
    """The files an index names, each once and in order; nothing but plain names of this folder.

    Raises:
        BadFile: it names none, or one that is no plain name of a safetensors file.
    """
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise BadFile(path, "has no `weight_map`")
    names: dict[str, None] = {}
    for name in found.values():
        if not isinstance(name, str) or (name not in names and not _is_plain(name)):
            said = printable(str(name)[:80])
            raise BadFile(path, f"names `{said}`, which is no safetensors file beside it")
        names[name] = None
    if len(names) > MOST_SHARDS:
        raise BadFile(path, f"names {len(names):,} files, more than any model has")
    return tuple(sorted(names))


def _is_plain(name: str) -> bool:
    """Whether it can only be a file of the same folder: no path, no drive, nothing hidden."""
    return (
        name.endswith(".safetensors")
        and len(name) <= 255
        and name.isprintable()
        and not name.startswith(".")
        and not any(c in name for c in "/\\:")
    )


def _index(folder: Path) -> dict[str, object] | None:
    return _fields(folder, INDEX_NAME, most_bytes=MOST_BYTES)


def _fields(folder: Path, name: str, *, most_bytes: int = 8 << 20) -> dict[str, object] | None:
    """The fields of a JSON file of the folder; None when there is none."""
    if not (folder / name).exists() and not (folder / name).is_symlink():
        return None
    return config_fields(own_file(folder, name), most_bytes=most_bytes)


def _file_names(folder: Path, index: Mapping[str, object] | None) -> list[str]:
    """The safetensors files that make the model of a folder."""
    if index is not None:
        return _present(folder, list(shard_names(folder / INDEX_NAME, index)))
    names = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    names = [name for name in names if not name.startswith("consolidated")] or names  # Mistral's second copy
    if "model.safetensors" in names:
        return ["model.safetensors"]
    if names and (split := _SHARD.fullmatch(names[0])):
        count = int(split[3])
        if count > len(names):
            wanted = [f"{split[1]}-{number:05}-of-{split[3]}.safetensors" for number in range(1, count + 1)]
            return _present(folder, wanted)
        return [name for name in names if name.startswith(f"{split[1]}-")]
    if len(names) > 1:
        said = ", ".join(f"`{printable(name)}`" for name in names[:3])
        raise BadInput(
            f"{folder} holds {len(names)} safetensors files and no index: {said}", hint="name one of them"
        )
    return names or _none(folder)


def _none(folder: Path) -> list[str]:
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        problem = f"{folder} holds only pickled weights (`{printable(pickled[0])}`)"
        raise NotSupported(
            f"{problem}, which weigh never opens: they can run code",
            hint="use the model's safetensors files, or convert it where you trust it",
        )
    raise BadInput(f"{folder} holds no safetensors file")


def _present(folder: Path, names: list[str]) -> list[str]:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        problem = f"{len(missing)} of its {len(names)} files are missing, first `{missing[0]}`"
        raise BadFile(folder, problem, hint="download the model again")
    return names


def own_file(folder: Path, name: str) -> Path:
    """A file of the folder; a link may only lead into it, or into the blobs of the hub cache it is in.

    Raises:
        BadFile: it is a link that leads elsewhere.
    """
    path = folder / name
    if path.is_symlink():
        try:
            home, target = folder.resolve(), path.resolve()
        except (OSError, RuntimeError) as error:
            raise BadFile(path, "is a link that leads nowhere") from error
        blobs = home.parent.parent / "blobs"
        in_cache = home.parent.name == "snapshots" and target.parent == blobs
        if not in_cache and not target.is_relative_to(home):
            raise BadFile(path, "is a link that leads out of its folder", hint="name the folder it leads to")
    return path


def _headers(paths: Sequence[Path]) -> list[Header]:
    headers: list[Header] = []
    tensors = 0
    for path in paths:
        headers.append(_header(path))
        tensors += len(headers[-1].tensors)
        if tensors > MOST_TENSORS:
            raise BadFile(path.parent, f"its files hold more than the {MOST_TENSORS:,} tensors there can be")
    return headers


def _header(path: Path) -> Header:
    with LocalFile(path, kind="safetensors file") as file:
        return read_header(file)


def _check_tensors(name: str, headers: Sequence[Header]) -> None:
    names = Counter(tensor.name for header in headers for tensor in header.tensors)
    if not names:
        raise BadInput(f"{name}: its files hold no tensors")
    twice = next((tensor for tensor, count in names.items() if count > 1), None)
    if twice is not None:
        raise BadInput(f"{name}: tensor `{twice}` is in two of its files")
    if sum(".lora_A." in tensor or ".lora_B." in tensor for tensor in names) == len(names):
        raise NotSupported(f"{name} holds a LoRA adapter, which is no model by itself")


# --- the model -----------------------------------------------------------------------------------------


def _quantization(
    config: Mapping[str, object], modelopt: Mapping[str, object] | None
) -> Mapping[str, object]:
    """What the config says of the quantization, under any of the names it goes by; empty when nothing."""
    text = text_part(config)
    found = (text.get(key) for key in ("quantization_config", "compression_config", "quantization"))
    said = next((section for section in found if isinstance(section, dict)), None)
    if said is None and modelopt is not None and isinstance(inner := modelopt.get("quantization"), dict):
        said = {"quant_method": "modelopt", **inner}
    return said or {}


def _shapes(name: str, config: Mapping[str, object], stored: Sequence[Weight]) -> ModelSpec:
    """What the config alone describes; for an architecture that weigh does not know, what the weights show."""
    if text_part(config).get("model_type"):
        try:
            return spec_from_config(name, config)
        except NotSupported as error:
            return spec_from_weights(name, text_part(config), stored, why=error.message)
    return spec_from_weights(
        name, config, stored, why=f"{name}: there is no config.json that says what it is"
    )


def _scheme(stored: Iterable[Weight]) -> str:
    """What most quantized weights are, else the format of most bytes."""
    schemes: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    for weight in stored:
        if not beside(weight.place or weight.name):
            formats[weight.type.name] += weight.bytes
            if weight.scheme:
                schemes[weight.scheme] += weight.elements
    return (schemes or formats).most_common(1)[0][0] if formats else ""


@dataclass(slots=True)
class _Groups:
    """Tensors of one name, shape, type and extra, put together as they come."""

    layers: dict[tuple[str, tuple[int, ...], NumberFormat, int], list[int]] = field(default_factory=dict)

    def add(
        self, name: str, shape: tuple[int, ...], weight: Weight, size_bytes: int, layer: int | None
    ) -> None:
        bare = TensorGroup(name, shape, weight.type).tensor_bytes
        layers = self.layers.setdefault((name, shape, weight.type, size_bytes - bare), [])
        if len(self.layers) > MOST_KINDS:
            raise BadInput(
                f"`{name}` is one of more than {MOST_KINDS:,} kinds of tensors; no model has so many"
            )
        if layer is not None:
            layers.append(layer)

    def groups(self, order: Sequence[TensorGroup]) -> tuple[TensorGroup, ...]:
        """The groups, those of `order` in that order and first."""
        place = {group.name: i for i, group in reversed(list(enumerate(order)))}
        found = [
            TensorGroup(name, shape, kind, tuple(sorted(layers)), extra)
            for (name, shape, kind, extra), layers in self.layers.items()
        ]
        return tuple(sorted(found, key=lambda group: place.get(group.name, len(place))))


@dataclass(slots=True)
class _SortedIn:
    text: _Groups = field(default_factory=_Groups)
    beside: _Groups = field(default_factory=_Groups)
    notes: list[str] = field(default_factory=list)


def _sorted_in(shapes: ModelSpec, stored: Sequence[Weight], *, tied: bool) -> _SortedIn:
    """Weights under their GGUF names, those that decoding text does not use apart."""
    result = _SortedIn()
    roles = _Roles(shapes)
    for weight in stored:
        start = beside(weight.place or weight.name)
        if not start and weight.layer is not None and weight.layer >= shapes.layers:
            start = "mtp."  # layers behind the last, which only predict further tokens
        if start:
            _set_beside(result.beside, start, weight)
            continue
        for name, shape, size_bytes in roles.named(weight):
            if name == "output.weight" and tied:
                result.notes.append("the output matrix is stored although it is the token embedding")
                result.beside.add(name, shape, weight, size_bytes, None)
            else:
                result.text.add(name, shape, weight, size_bytes, weight.layer)
    return result


def _set_beside(groups: _Groups, start: str, weight: Weight) -> None:
    layer = "{}." if weight.layer is not None else ""
    groups.add(start + weight.place + layer + weight.name, weight.shape, weight, weight.bytes, weight.layer)


class _Roles:
    """The tensors that the config describes, each of which one weight may be."""

    def __init__(self, shapes: ModelSpec) -> None:
        self.groups: dict[tuple[str, int | None], TensorGroup] = {
            (group.name, layer): group for group in shapes.tensors for layer in group.layers or (None,)
        }
        self.taken: set[tuple[str, int | None]] = set()

    def named(self, weight: Weight) -> Iterable[tuple[str, tuple[int, ...], int]]:
        """Name, shape and bytes of the tensors that GGUF keeps for this weight: nearly always one."""
        known = alternatives(weight.name, inside=weight.layer is not None)
        for names in known:
            groups = [self.groups[name, weight.layer] for name in names if self._free(name, weight)]
            if len(groups) == len(names) and sum(group.elements for group in groups) == weight.elements:
                self.taken.update((name, weight.layer) for name in names)
                return _shared_out(weight, groups)
        name = known[-1][0] if known else ""
        if not name or (name, weight.layer) in self.taken:
            name = weight.name if weight.layer is None else f"blk.{{}}.{weight.name}"
        self.taken.add((name, weight.layer))
        return [(name, weight.shape, weight.bytes)]

    def _free(self, name: str, weight: Weight) -> bool:
        place = (name, weight.layer)
        return place in self.groups and place not in self.taken


def _shared_out(weight: Weight, groups: Sequence[TensorGroup]) -> Iterable[tuple[str, tuple[int, ...], int]]:
    """One weight as the tensors it is kept in, its bytes shared out by their size."""
    left = weight.bytes
    for group in groups[:-1]:
        size_bytes = weight.bytes * group.elements // weight.elements
        left -= size_bytes
        yield group.name, group.shape, size_bytes
    yield groups[-1].name, groups[-1].shape, left
