"""The store in which Ollama keeps its models: read from its files, whether or not a server runs.

`manifests/HOST/NAMESPACE/MODEL/TAG` is a JSON list of layers, each a media type, a size and a digest;
`blobs/sha256-…` holds the layers under their digests. The weights are one GGUF file among them.

A store may have come from anywhere: names and digests are checked before paths are made of them, links are
followed only inside the store, and every size has to be the one the manifest gives.

Layout: https://github.com/ollama/ollama, `manifest/paths.go`, `manifest/manifest.go`, `types/model/name.go`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from weigh.errors import BadFile, BadInput, NotSupported, UnknownName
from weigh.model.folder import sizes_below
from weigh.model.gguf import printable, read_gguf, read_gguf_projector
from weigh.model.json_object import json_object
from weigh.model.source import LocalFile
from weigh.model.spec import ModelSpec, Scalar
from weigh.units import gib

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
MOST_MANIFEST_BYTES = 4 << 20  # models stored tensor by tensor name thousands of layers
MOST_SETTINGS_BYTES = 64 << 10
MOST_LAYER_BYTES = 1 << 50

_LAYER = "application/vnd.ollama.image."
_WEIGHTS, _PROJECTOR, _ADAPTER = _LAYER + "model", _LAYER + "projector", _LAYER + "adapter"
_SETTINGS, _TENSOR, _DRAFT = _LAYER + "params", _LAYER + "tensor", _LAYER + "draft"
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_CATALOG = "without `ollama:` the catalog is searched"
# Settings that decide memory or speed; the others are about sampling.
_TOLD = ("num_ctx", "num_gpu", "num_batch", "num_thread", "use_mmap", "main_gpu", "num_keep", "num_predict")


@dataclass(frozen=True, slots=True)
class OllamaName:
    """A name in full."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def parts(self) -> tuple[str, str, str, str]:
        return self.host, self.namespace, self.model, self.tag

    def __str__(self) -> str:
        """As Ollama lists it: without what goes without saying."""
        before = f"{self.host}/{self.namespace}/" if self.host.lower() != HOST else f"{self.namespace}/"
        return f"{'' if before.lower() == f'{NAMESPACE}/' else before}{self.model}:{self.tag}"


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """What a manifest says.

    Attributes:
        weights: the GGUF blob.
        settings: those its creator gave it (`num_ctx`, `num_gpu`, `temperature`, ...), not the server's.
        draft_bytes: of a smaller model that comes with it, to guess ahead; 0 without.
    """

    name: OllamaName
    weights: Path
    projectors: tuple[Path, ...] = ()
    adapter_bytes: int = 0
    draft_bytes: int = 0
    settings: Mapping[str, Scalar] | None = None


def ollama_stores() -> list[Path]:
    """The stores of this machine: OLLAMA_MODELS, this user's, and that of the Linux service."""
    said = os.environ.get("OLLAMA_MODELS", "").strip()
    places = [said] if said else []
    places += ["~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models"]
    places.append("/var/lib/ollama/models")
    found: dict[Path, Path] = {}
    for place in places:
        try:
            path = Path(place).expanduser()
            if (path / "manifests").is_dir():
                found.setdefault(path.resolve(), path)
        except (OSError, RuntimeError, ValueError):  # not ours to look into, or nobody's home
            continue
    return list(found.values())


def ollama_names(store: Path) -> Iterator[OllamaName]:
    """The names of a store's models, in alphabetical order."""
    for path in sorted(sizes_below(store / "manifests", 3, inside=store)):
        parts = path.split("/")
        if len(parts) == 4 and _is_valid(name := OllamaName(*parts)):
            yield name


def read_ollama(typed: str) -> ModelSpec:
    """The model Ollama knows by a name: `llama3.2`, `llama3.2:3b`, `hf.co/ORG/NAME:Q4_K_M`.

    Raises:
        UnknownName: no store has it; close names are attached.
        BadInput: no model can be called that.
        BadFile: its manifest or a blob is damaged, missing, or not what the manifest says.
        NotSupported: it runs elsewhere, or is stored in a format weigh does not read.
    """
    name = ollama_name(typed)
    stores = ollama_stores()
    for store in stores:
        if found := _there(store, name):
            return ollama_spec(ollama_model(store, found))
    raise _unknown(name, stores)


def _there(store: Path, name: OllamaName) -> OllamaName | None:
    """The name as the store spells it: Ollama takes upper case for lower."""
    if store.joinpath("manifests", *name.parts).is_file():
        return name
    return next((n for n in ollama_names(store) if str(n).lower() == str(name).lower()), None)


def _unknown(name: OllamaName, stores: Sequence[Path]) -> BadInput:
    if not stores:
        return BadInput(
            "no store of Ollama is on this machine", hint=f"OLLAMA_MODELS says where it is; {_CATALOG}"
        )
    names = [str(n) for store in stores for n in ollama_names(store)]
    tags = [n for n in names if n.rpartition(":")[0] == str(name).rpartition(":")[0]]
    close = tags[:3] or get_close_matches(str(name), names, 3, 0.5)
    return UnknownName("Ollama model", str(name), close=[f"ollama:{n}" for n in close], hint=_CATALOG)


def ollama_name(typed: str) -> OllamaName:
    """A name in full, what is not said being Ollama's own.

    Raises:
        BadInput: Ollama would give no model that name.
    """
    rest, _, tag = typed.strip().rpartition(":") if _has_tag(typed) else (typed.strip(), "", TAG)
    *before, model = rest.split("/")
    if len(before) <= 2:
        host, namespace = [HOST, NAMESPACE][: 2 - len(before)] + before
        if _is_valid(name := OllamaName(host, namespace, model, tag)):
            return name
    raise BadInput(
        f"`{printable(typed[:120])}` is no name that Ollama gives", hint="write `ollama:MODEL:TAG`"
    )


def _has_tag(typed: str) -> bool:
    return typed.rfind(":") > typed.rfind("/")


def _is_valid(name: OllamaName) -> bool:
    allowed = ((r"[\w.:-]", 349), (r"[\w-]", 79), (r"[\w.-]", 79), (r"[\w.-]", 79))
    return all(
        re.fullmatch(rf"(?a:\w{letters}{{0,{most}}})", part)
        for part, (letters, most) in zip(name.parts, allowed, strict=True)
    )


# --- a manifest ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str
    digest: str
    size_bytes: int


def ollama_model(store: Path, name: OllamaName) -> OllamaModel:
    """What a store's manifest says of a model, its blobs found and of the size it says.

    Raises:
        BadFile, NotSupported: as `read_ollama`.
    """
    path = store.joinpath("manifests", *name.parts)
    manifest = _json(_inside(store, path), MOST_MANIFEST_BYTES)
    layers = _layers(path, manifest.get("layers"))
    weights = [layer for layer in layers if layer.kind == _WEIGHTS]
    if not weights:
        raise _without_weights(store, path, name, layers, manifest)
    if len(weights) > 1:
        raise BadFile(path, f"names {len(weights)} files of weights; Ollama loads one")
    return OllamaModel(
        name,
        _blob(store, path, weights[0]),
        tuple(_blob(store, path, layer) for layer in layers if layer.kind == _PROJECTOR),
        sum(layer.size_bytes for layer in layers if layer.kind == _ADAPTER),
        sum(layer.size_bytes for layer in layers if layer.kind == _DRAFT),
        _settings(store, path, layers),
    )


def _json(path: Path, most_bytes: int) -> dict[str, object]:
    with LocalFile(path, kind="manifest") as file:
        if file.size_bytes > most_bytes:
            raise BadFile(path, f"has {file.size_bytes:,} bytes, more than any model's")
        return json_object(path, file.read(0, file.size_bytes), what="it")


def _layers(path: Path, entries: object) -> list[_Layer]:
    if not isinstance(entries, list | None):
        raise BadFile(path, "names no layers")
    return [_layer(path, entry) for entry in entries or ()]  # a model that runs elsewhere may have none


def _layer(path: Path, entry: object) -> _Layer:
    kind, digest, size = (
        (entry.get(key) for key in ("mediaType", "digest", "size")) if isinstance(entry, dict) else [None] * 3
    )
    if not isinstance(kind, str) or not isinstance(digest, str):
        raise BadFile(path, "has a layer without type or digest")
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise BadFile(path, f"names `{printable(digest[:80])}`, which is no sha256 digest")
    if type(size) is not int or not 0 <= size <= MOST_LAYER_BYTES:
        raise BadFile(path, f"gives a layer {printable(str(size)[:40])} bytes, which none has")
    return _Layer(kind.partition(";")[0].strip(), match[1], size)


def _blob(store: Path, manifest: Path, layer: _Layer) -> Path:
    """The file of a layer; versions before 0.1.30 put a colon into its name."""
    names = [f"sha256-{layer.digest}", f"sha256:{layer.digest}"]
    path = next((p for name in names if (p := store / "blobs" / name).exists()), None)
    if path is None:
        said = layer.kind.removeprefix(_LAYER)
        begun = any((store / "blobs").glob(f"{names[0]}-partial*"))
        problem = f"its {printable(said)} layer is {'only partly' if begun else 'not'} there"
        raise BadFile(manifest, problem, hint="`ollama pull` fetches what is missing")
    with LocalFile(_inside(store, path)) as file:
        if file.size_bytes != layer.size_bytes:
            raise BadFile(path, f"has {file.size_bytes:,} bytes where its manifest says {layer.size_bytes:,}")
    return path


def _inside(store: Path, path: Path) -> Path:
    try:
        if path.resolve().is_relative_to(store.resolve()):
            return path
    except (OSError, RuntimeError):  # a link to itself
        pass
    raise BadFile(path, "is a link that leads out of the store")


def _settings(store: Path, manifest: Path, layers: Sequence[_Layer]) -> dict[str, Scalar]:
    settings: dict[str, Scalar] = {}
    for layer in layers:
        if layer.kind == _SETTINGS:
            found = _json(_blob(store, manifest, layer), MOST_SETTINGS_BYTES)
            settings |= {
                printable(key): printable(value) if isinstance(value, str) else value
                for key, value in found.items()
                if isinstance(value, bool | int | float | str)
            }
    return settings


def _without_weights(
    store: Path, path: Path, name: OllamaName, layers: Sequence[_Layer], manifest: Mapping[str, object]
) -> BadInput:
    if any(layer.kind == _TENSOR for layer in layers):
        return NotSupported(f"Ollama stores {name} tensor by tensor, which weigh does not read yet")
    config = manifest.get("config")
    if config is not None and (host := _json_of(store, path, config).get("remote_host")):
        return NotSupported(
            f"{name} runs at {printable(str(host)[:80])}, not here: no weights are on this machine"
        )
    return BadFile(path, "names no weights")


def _json_of(store: Path, manifest: Path, entry: object) -> Mapping[str, object]:
    try:
        return _json(_blob(store, manifest, _layer(manifest, entry)), MOST_SETTINGS_BYTES)
    except BadFile:  # the weights are missing anyway, which is what gets said
        return {}


# --- the model -----------------------------------------------------------------------------------------


def ollama_spec(model: OllamaModel) -> ModelSpec:
    """The model as its GGUF blob says, named as Ollama names it; projectors lie beside it.

    Raises:
        BadFile: a blob is damaged.
    """
    spec = read_gguf(model.weights)
    beside = [tensor for path in model.projectors for tensor in read_gguf_projector(path)]
    return replace(
        spec,
        name=str(model.name),
        beside=(*spec.beside, *beside),
        notes=(*spec.notes, *_notes(model)),
    )


def _notes(model: OllamaModel) -> Iterator[str]:
    settings = model.settings or {}
    if said := ", ".join(f"{key} {settings[key]}" for key in _TOLD if key in settings):
        yield f"Ollama runs it with {said}"
    if model.adapter_bytes:
        yield f"an adapter of {gib(model.adapter_bytes)} is loaded with it, and not counted"
    if model.draft_bytes:
        yield f"a draft model of {gib(model.draft_bytes)} comes with it, and is not counted"
