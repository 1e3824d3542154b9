"""Models of the Hugging Face hub, read where they lie: headers by ranged requests, nothing downloaded.

What the hub answers is checked like a file from a stranger; `remote.py` bounds what is read of it.

The addresses are those that `huggingface_hub` uses, and so are the variables: HF_ENDPOINT, HF_TOKEN (or the
file `hf auth login` writes), HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, urlsplit

from weigh.errors import BadFile, BadInput, NotSupported, Unreachable
from weigh.model.catalog import catalog
from weigh.model.checkpoint import INDEX_NAME, adapter_message, shard_names, spec_from_checkpoint
from weigh.model.gguf import printable, read_gguf
from weigh.model.hub_cache import HubReference, cached_repositories, hub_home, hub_reference, snapshot
from weigh.model.json_object import json_object
from weigh.model.remote import Refusal, RemoteFile, Web
from weigh.model.safetensors import Header, read_header
from weigh.model.source import Source
from weigh.model.spec import ModelSpec
from weigh.model.variants import GgufVariant, gguf_variants, picked

if TYPE_CHECKING:
    from concurrent.futures import Future

ENDPOINT = "https://huggingface.co"
MOST_LISTING_BYTES = 16 << 20  # repositories of 10,000 files take some 4 MiB
MOST_JSON_BYTES = 32 << 20  # indexes of the largest models take 25
MOST_FILE_BYTES = 1 << 50
CONNECTIONS = 8
OFFLINE_HINT = "without a network name a file, a folder, or a model of the catalog"

Progress: TypeAlias = Callable[[int, int], None]  # headers read, of how many


# --- where the hub is, and who asks --------------------------------------------------------------------


def endpoint() -> str:
    """Where the hub is: HF_ENDPOINT, else huggingface.co.

    Raises:
        BadInput: HF_ENDPOINT is no address.
    """
    said = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    parts = urlsplit(said)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"HF_ENDPOINT is `{printable(said)}`, which is no address of a hub")
    return said


def is_offline() -> bool:
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def _token() -> str | None:
    """Who asks. What is no token is not repeated to anyone: it may be another secret."""
    said = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or _token_of_file()
    token = said.strip()
    if token and not re.fullmatch(r"[\x21-\x7e]{1,1000}", token):
        raise BadInput("the hub's token is not one word of plain letters", hint="look at HF_TOKEN")
    return token or None


def _token_of_file() -> str:
    path = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser()
    try:
        with path.open("rb") as file:
            return file.read(4096).decode(errors="replace") if path.is_file() else ""
    except (OSError, ValueError):
        return ""


# --- a repository ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repository:
    """A listed repository; to a reader it is a folder called after its id.

    Attributes:
        commit: the one listed, so that all files read are of one version.
        sizes_bytes: of its files, by name.
    """

    reference: HubReference
    commit: str
    sizes_bytes: Mapping[str, int]
    web: Web

    def exists(self, path: Path) -> bool:
        return self._name(path) in self.sizes_bytes

    def open(self, path: Path) -> AbstractContextManager[Source]:
        return nullcontext(self.file(self._name(path)))

    def path(self, name: str) -> Path:
        return Path(self.reference.repo) / name

    def _name(self, path: Path) -> str:
        return path.relative_to(self.reference.repo).as_posix()

    def file(self, name: str) -> RemoteFile:
        if name not in self.sizes_bytes:
            raise BadFile(self.path(name), "is not in the repository")
        size = self.sizes_bytes[name]
        return RemoteFile(self.path(name), size, partial(self._stretch, name, size))

    def _stretch(self, name: str, size_bytes: int, offset: int, length: int) -> bytes:
        address = f"{endpoint()}/{self.reference.repo}/resolve/{quote(self.commit, safe='')}/{quote(name)}"
        try:
            return self.web.stretch(address, offset, length, size_bytes)
        except Refusal as refusal:
            raise _refused(refusal, self.reference) from None
        except Unreachable as error:
            raise Unreachable(f"{self.path(name)}: {error.message}") from error

    def json(self, name: str) -> Mapping[str, object] | None:
        """A small JSON file, None when there is none."""
        if name not in self.sizes_bytes:
            return None
        if self.sizes_bytes[name] > MOST_JSON_BYTES:
            raise BadFile(self.path(name), "is larger than that of any model")
        return json_object(self.path(name), self.file(name).read(0, self.sizes_bytes[name]), what="it")


def repository(reference: HubReference) -> Repository:
    """What the hub holds under a reference.

    Raises:
        Unreachable: there is no network, or no leave, or no such repository, or its answer cannot be.
    """
    if is_offline():
        problem = f"{reference} is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to ask the hub"
        raise Unreachable(problem + _meant(reference, cached_repositories()), hint=OFFLINE_HINT)
    web = Web(endpoint(), _token())
    address = f"/api/models/{reference.repo}/revision/{quote(reference.revision, safe='')}?blobs=true"
    try:
        data = web.whole(endpoint() + address, MOST_LISTING_BYTES)
    except Refusal as refusal:
        raise _refused(refusal, reference) from None
    except Unreachable as error:
        raise Unreachable(f"{reference}: {error.message}", hint=OFFLINE_HINT) from error
    return _listed(reference, json_object(Path(reference.repo), data, what="the hub's answer"), web)


def _listed(reference: HubReference, answer: Mapping[str, object], web: Web) -> Repository:
    commit, siblings = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        raise Unreachable(f"the hub's answer about {reference} names no commit")
    if not isinstance(siblings, list):
        raise Unreachable(f"the hub's answer about {reference} lists no files")
    files = (entry for entry in siblings if isinstance(entry, dict))
    sizes = {
        name: size
        for name, size in ((entry.get("rfilename"), entry.get("size")) for entry in files)
        if isinstance(name, str) and _is_file_name(name)
        if type(size) is int and 0 <= size <= MOST_FILE_BYTES
    }
    return Repository(reference, commit, sizes, web)


def _is_file_name(name: str) -> bool:
    """Whether it can only mean a file below the repository."""
    parts = name.split("/")
    return len(name) <= 1000 and name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _refused(refusal: Refusal, reference: HubReference) -> Unreachable:
    """A refusal in plain words. Source of the codes: `huggingface_hub`, `utils/_http.py`."""
    hint: str | None
    gated = refusal.code == "GatedRepo"
    if refusal.status == 403 or gated:
        said = "is gated" if gated else "is not for you to read"
        hint = f"accept its terms at {endpoint()}/{reference.repo}, and put your token into HF_TOKEN"
    elif refusal.status == 401:
        said = "does not exist, or is private" + _meant(reference, catalog().by_id)
        hint = "if it is yours, put your token into HF_TOKEN"
    elif refusal.status == 404:
        what = {"RevisionNotFound": "that revision", "EntryNotFound": "that file"}.get(refusal.code)
        said = f"has not {what}" if what else "is not on the hub" + _meant(reference, catalog().by_id)
        hint = None
    elif refusal.status == 429:
        wait = refusal.retry_after_s
        said = "cannot be read now: the hub asks to wait" + (f" {wait} s" if wait else "")
        hint = "a token in HF_TOKEN raises the hub's limits"
    else:
        said, hint = f"cannot be read: the hub answers with status {refusal.status}", None
    return Unreachable(f"{reference} {said}", hint=hint)


def _meant(reference: HubReference, known: Iterable[str]) -> str:
    """A question about the repositories that are nearly called so."""
    close = get_close_matches(reference.repo, [repo for repo in known if repo != reference.repo], 3, 0.8)
    return f"; did you mean {' or '.join(f'`hf:{repo}`' for repo in close)}?" if close else ""


# --- a model of it --------------------------------------------------------------------------------------


def gguf_files(typed: str) -> list[GgufVariant]:
    """The GGUF models of a repository on the hub, smallest first.

    Raises:
        Unreachable: as `repository`.
    """
    return gguf_variants(repository(hub_reference(typed)).sizes_bytes)


def read_hub(reference: HubReference, progress: Progress | None = None) -> ModelSpec:
    """The model that a repository holds, called after it. `choice` picks among GGUF models alone.

    Args:
        progress: called in this thread as the headers of a checkpoint's files come in.

    Raises:
        Unreachable: as `repository`.
        SeveralModels, UnknownName: no GGUF model was chosen, or one that is not there.
        NotSupported: it holds weights in no format that weigh reads.
    """
    try:
        found = repository(reference)
    except Unreachable as error:
        raise _with_part(error, reference) from error
    variants = gguf_variants(found.sizes_bytes)
    shards = [name for name in found.sizes_bytes if name.endswith(".safetensors")]
    if variants and (reference.choice or len(variants) == 1 or not shards):
        variant = picked(variants, reference.choice, str(reference), typed=f"hf:{reference}:")
        return replace(read_gguf(found.path(variant.name), found), name=reference.repo, file=None)
    if shards:
        return _checkpoint(found, progress)
    return _from_config(found)


def _with_part(error: Unreachable, reference: HubReference) -> Unreachable:
    """The error, with what the cache holds of a download that did not end."""
    part = snapshot(reference.repo, reference.revision)
    if part is None or not (part.missing or part.unfinished_bytes):
        return error
    count = len(part.missing) + len(part.shards)
    said = f": {len(part.missing)} of its {count} files are missing" if part.missing else ""
    return Unreachable(f"{error.message}; its download to the cache did not end{said}", hint=error.hint)


def _from_config(found: Repository) -> ModelSpec:
    """From its shapes alone, when the weights are in a format that is not opened."""
    from weigh.model.config import spec_from_config

    config = found.json("config.json")
    if config is None:
        raise NotSupported(f"{found.reference} holds neither GGUF nor safetensors files, nor a `config.json`")
    note = "its weights are in a format that weigh does not open: shapes from its config.json"
    spec = spec_from_config(found.reference.repo, config)
    return replace(spec, notes=(*spec.notes, note))


def _checkpoint(found: Repository, progress: Progress | None) -> ModelSpec:
    config, index = found.json("config.json"), found.json(INDEX_NAME)
    if config is None and (adapter := found.json("adapter_config.json")) is not None:
        raise NotSupported(adapter_message(str(found.reference), adapter))
    return spec_from_checkpoint(
        found.reference.repo,
        config or {},
        _headers(found, _shards(found, index), progress),
        index=index,
        quantization=found.json("hf_quant_config.json"),
    )


def _shards(found: Repository, index: Mapping[str, object] | None) -> Sequence[str]:
    """The files of the checkpoint: as its index says, else the one of the usual name, else the only one."""
    if index is not None:
        return shard_names(found.path(INDEX_NAME), index)
    names = [name for name in found.sizes_bytes if name.endswith(".safetensors") and "/" not in name]
    names = [name for name in names if not name.startswith("consolidated")] or names  # Mistral's second copy
    if "model.safetensors" in names:
        return ["model.safetensors"]
    if len(names) != 1:
        raise NotSupported(f"{found.reference} holds {len(names)} safetensors files and no `{INDEX_NAME}`")
    return names


def _headers(found: Repository, names: Sequence[str], progress: Progress | None) -> list[Header]:
    """Of all files, several at a time; an interruption or a failure ends those under way."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        asked: list[Future[Header]] = [pool.submit(read_header, found.file(name)) for name in names]
        try:
            for done, future in enumerate(as_completed(asked), 1):
                future.result()
                if progress is not None:
                    progress(done, len(names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            found.web.abort()
            raise
    return [future.result() for future in asked]
