"""Every model that is on this machine already: where it lies, what to type for it, and what it is.

Headers alone are read. A file that cannot be read is listed with the reason, and never stops the others;
one that several programs share is listed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from weigh.errors import BadInput
from weigh.model.folder import sizes_below
from weigh.model.gguf import printable, read_gguf
from weigh.model.hub_cache import HubReference, Snapshot, cached_repositories, read_cached, snapshot
from weigh.model.lm_studio import LmStudioModel, lm_studio_models, other_folders
from weigh.model.ollama import OllamaName, ollama_model, ollama_names, ollama_spec, ollama_stores
from weigh.model.spec import ModelSpec
from weigh.model.variants import GgufVariant, gguf_variants, telling_label

FOLDER_DEPTH = 4
CURRENT_DEPTH = 1  # the current folder may be a home or a whole disk


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine.

    Attributes:
        place: `Ollama`, `Hugging Face cache`, `LM Studio`, another program's name, or `folder`.
        name: what to type for it, `ollama:llama3.2:3b` or a path.
        path: its file (the first of several), or the folder of a checkpoint.
        format: `gguf` or `safetensors`; "" for a download of which nothing is whole yet.
        file_bytes: of all its files.
        spec: what it is; None when it cannot be read.
        problem: why it cannot be read, or what is missing; "" when it is whole.
        also: other names of the very same file.
    """

    place: str
    name: str
    path: Path
    format: str
    file_bytes: int
    spec: ModelSpec | None = None
    problem: str = ""
    also: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.problem

    @property
    def quantization(self) -> str | None:
        return self.spec.quantization if self.spec else None

    @property
    def parameters(self) -> int | None:
        return self.spec.parameters if self.spec else None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A model as a listing shows it; `found` lacks the spec until `read` gives it."""

    found: Found
    read: Callable[[], ModelSpec] | None


def inventory(folders: Sequence[Path] = ()) -> list[Found]:
    """The models of every known program, of `folders` (four levels deep) and of the current one (one level).

    Raises:
        BadInput: one of `folders` is none.
    """
    for folder in folders:
        try:
            there, is_folder = folder.exists(), folder.is_dir()
        except OSError as error:
            raise BadInput(f"`{printable(str(folder))}` cannot be read ({error.strerror})") from None
        if not is_folder:
            raise BadInput(
                f"`{printable(str(folder))}` {'is no folder' if there else 'does not exist'}",
                hint="`weigh model FILE` reads one file" if there else None,
            )
    unread: dict[object, _Candidate] = {}
    for candidate in _candidates(folders):
        key = _identity(candidate.found)
        if key in unread:
            first = unread[key]
            names = (*first.found.also, candidate.found.name)
            unread[key] = replace(first, found=replace(first.found, also=names))
        else:
            unread[key] = candidate
    return [_read(candidate) for candidate in unread.values()]


def _identity(found: Found) -> object:
    """What two names of the same file share."""
    try:
        path = found.path
        if path.is_dir():
            path = min(path.glob("*.safetensors"), default=path)
        info = path.stat()
    except OSError:
        return found.name
    return info.st_dev, info.st_ino


def _read(candidate: _Candidate) -> Found:
    found = candidate.found
    if candidate.read is None:
        return found
    try:
        spec = candidate.read()
    except BadInput as error:
        return replace(found, problem=error.message)
    except OSError as error:
        return replace(found, problem=f"cannot be read ({error.strerror})")
    return replace(found, spec=spec, file_bytes=spec.file_bytes or found.file_bytes)


def _candidates(folders: Sequence[Path]) -> Iterator[_Candidate]:
    for store in ollama_stores():
        for name in ollama_names(store):
            yield _of_ollama(store, name)
    for repo in cached_repositories():
        if (found := snapshot(repo)) is not None:
            yield from _of_cache(found)
    for model in lm_studio_models():
        yield from _of_lm_studio(model)
    for place, folder in other_folders():
        yield from _of_folder(place, folder, str(folder), FOLDER_DEPTH)
    for folder in folders:
        yield from _of_folder("folder", folder, str(folder), FOLDER_DEPTH)
    yield from _of_folder("folder", Path.cwd(), ".", CURRENT_DEPTH)


# --- one place after the other -------------------------------------------------------------------------


def _of_ollama(store: Path, name: OllamaName) -> _Candidate:
    found = Found("Ollama", f"ollama:{name}", store.joinpath("manifests", *name.parts), "gguf", 0)
    try:
        model = ollama_model(store, name)
    except BadInput as error:
        return _Candidate(replace(found, problem=error.message), None)
    size = model.weights.stat().st_size
    return _Candidate(replace(found, path=model.weights, file_bytes=size), partial(ollama_spec, model))


def _of_cache(found: Snapshot) -> Iterator[_Candidate]:
    place, typed = "Hugging Face cache", f"hf:{found.repo}"
    variants = gguf_variants(found.sizes_bytes)
    for variant in variants:
        label = telling_label(variant, variants)
        name = typed if len(variants) == 1 else f"{typed}:{label}"
        yield _of_variant(place, name, found.folder, variant)
    if not variants and (found.shards or found.unfinished_bytes):
        yield _checkpoint_of_cache(place, typed, found)


def _checkpoint_of_cache(place: str, typed: str, found: Snapshot) -> _Candidate:
    size = sum(found.sizes_bytes[name] for name in found.shards) + found.unfinished_bytes
    listed = Found(place, typed, found.folder, "safetensors" if found.shards else "", size)
    try:
        missing = len(found.missing)
    except BadInput as error:
        return _Candidate(replace(listed, problem=error.message), None)
    if missing or not found.shards:
        said = f": {missing} of its {missing + len(found.shards)} files are missing" if missing else ""
        return _Candidate(replace(listed, problem=f"its download did not end{said}"), None)
    return _Candidate(listed, partial(_cached, HubReference(found.repo)))


def _cached(reference: HubReference) -> ModelSpec:
    spec = read_cached(reference)
    if spec is None:
        raise BadInput(f"{reference} went away while it was listed")
    return spec


def _of_lm_studio(model: LmStudioModel) -> Iterator[_Candidate]:
    place, typed = "LM Studio", f"lmstudio:{model.id}"
    variants = gguf_variants(model.sizes_bytes)
    for variant in variants:
        name = typed if len(variants) == 1 else f"{typed}:{telling_label(variant, variants)}"
        yield _of_variant(place, name, model.folder, variant)
    if not variants:
        yield _checkpoint(place, typed, model.folder, sum(model.sizes_bytes.values()))


def _of_folder(place: str, folder: Path, typed: str, depth: int) -> Iterator[_Candidate]:
    """GGUF files, and folders that hold safetensors files beside a `config.json`."""
    sizes = sizes_below(folder, depth)
    for variant in gguf_variants(sizes):
        yield _of_variant(place, f"{typed}/{variant.name}", folder, variant)
    shards = {PurePosixPath(name).parent for name in sizes if name.endswith(".safetensors")}
    for parent in sorted(shards):
        if f"{parent / 'config.json'}" in sizes:
            size = sum(n for name, n in sizes.items() if PurePosixPath(name).parent == parent)
            name = typed if parent == PurePosixPath() else f"{typed}/{parent}"
            yield _checkpoint(place, name, folder / parent, size)


def _of_variant(place: str, name: str, folder: Path, variant: GgufVariant) -> _Candidate:
    path = folder / variant.name
    found = Found(place, name, path, "gguf", variant.size_bytes)
    if variant.missing:
        problem = f"{variant.missing} of its {variant.parts} parts are missing"
        return _Candidate(replace(found, problem=problem), None)
    return _Candidate(found, partial(read_gguf, path))


def _checkpoint(place: str, name: str, folder: Path, size_bytes: int) -> _Candidate:
    return _Candidate(Found(place, name, folder, "safetensors", size_bytes), partial(_stored, folder))


def _stored(folder: Path) -> ModelSpec:
    from weigh.model.checkpoint import read_checkpoint

    return read_checkpoint(folder)
