"""Models of the Hugging Face hub by name, and its cache.

`huggingface_hub`, transformers, vLLM and llama.cpp download to it.

`models--ORG--NAME/` holds `refs/` (the commit a branch meant when it was last asked for), `snapshots/COMMIT/`
(links, by the files' names) and `blobs/` (the files, by their hashes; `.incomplete` while they come in).
A snapshot shows only files that came in whole, so one with shards missing is a download that stopped.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from weigh.errors import BadInput, UnknownName
from weigh.model.folder import sizes_below
from weigh.model.gguf import printable, read_gguf
from weigh.model.json_object import MOST_BYTES, json_object
from weigh.model.source import LocalFile
from weigh.model.spec import ModelSpec
from weigh.model.variants import gguf_variants, picked

_FOLDER = "models--"
_COMMIT = r"[0-9a-f]{40}"
_UNFINISHED = ".incomplete"


@dataclass(frozen=True, slots=True)
class HubReference:
    """What was typed: `choice` is a quantization or a GGUF file's name, "" for the only one."""

    repo: str
    revision: str = "main"
    choice: str = ""

    def __str__(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


def hub_reference(typed: str) -> HubReference:
    """`ORG/NAME[@REVISION][:CHOICE]`, with `hf:` before it or without.

    Raises:
        BadInput: no repository can be called that.
    """
    match = re.fullmatch(r"([^@:]+)(?:@([^:]+))?(?::(.+))?", typed.removeprefix("hf:").strip())
    if match is None or not is_repo_id(match[1]) or not _is_revision(match[2] or "main"):
        said = printable(typed[:120])
        raise BadInput(f"`{said}` names no repository of the hub", hint="write it like `hf:ORG/NAME:Q4_K_M`")
    return HubReference(match[1], match[2] or "main", match[3] or "")


def is_repo_id(text: str) -> bool:
    """Whether the hub would give a repository that name."""
    part = r"[A-Za-z0-9_][\w.-]{0,95}"
    return bool(re.fullmatch(rf"(?a:{part}(/{part})?)", text)) and ".." not in text and "--" not in text


def _is_revision(text: str) -> bool:
    return bool(re.fullmatch(r"(?a:\w[\w./-]{0,199})", text)) and ".." not in text


def hub_home() -> Path:
    """Where the hub's tools keep their files: HF_HOME, else below XDG_CACHE_HOME or ~/.cache."""
    if said := os.environ.get("HF_HOME"):
        return _expanded(said)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"


def hub_cache_folder() -> Path:
    """Where downloads are kept: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, or `hub` below `hub_home`."""
    said = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(said) if said else hub_home() / "hub"


def _expanded(said: str) -> Path:
    try:
        return Path(os.path.expandvars(said)).expanduser()
    except RuntimeError:  # nobody's home
        return Path(said)


@dataclass(frozen=True)
class Snapshot:
    """A version of a repository as far as it was downloaded.

    Attributes:
        folder: holds the files by their names.
        unfinished_bytes: in `.incomplete` files of the repository, of this version or another.
    """

    repo: str
    commit: str
    folder: Path
    unfinished_bytes: int

    @cached_property
    def sizes_bytes(self) -> Mapping[str, int]:
        """Its files by name; links out of the repository's own folder are passed over."""
        return sizes_below(self.folder, inside=self.folder.parent.parent)

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """The safetensors files that are there."""
        return tuple(name for name in self.sizes_bytes if name.endswith(".safetensors") and "/" not in name)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """The safetensors files that its index names and that did not come.

        Raises:
            BadFile: the index is damaged.
        """
        from weigh.model.checkpoint import INDEX_NAME, shard_names

        if INDEX_NAME not in self.sizes_bytes:
            return ()
        with LocalFile(self.folder / INDEX_NAME) as file:
            data = file.read(0, min(file.size_bytes, MOST_BYTES + 1))
        named = shard_names(self.folder / INDEX_NAME, json_object(self.folder / INDEX_NAME, data, what="it"))
        return tuple(name for name in named if name not in self.sizes_bytes)


def cached_repositories(cache: Path | None = None) -> list[str]:
    """Ids of the models' repositories in the cache, in alphabetical order."""
    folder = cache or hub_cache_folder()
    try:
        names = [path.name for path in folder.iterdir() if path.name.startswith(_FOLDER) and path.is_dir()]
    except OSError:
        return []
    repositories = (name.removeprefix(_FOLDER).replace("--", "/", 1) for name in names)
    return sorted(filter(is_repo_id, repositories), key=str.lower)


def snapshot(repo: str, revision: str = "main", cache: Path | None = None) -> Snapshot | None:
    """The downloaded version that a revision means, None when there is none.

    `main` stands for the newest one when no branch is remembered, as after a download by commit.
    """
    folder = (cache or hub_cache_folder()) / (_FOLDER + repo.replace("/", "--"))
    try:
        commit = _commit(folder, revision)
        if commit is None:
            return None
        found, unfinished_bytes = folder / "snapshots" / commit, _unfinished_bytes(folder)
        if not found.is_dir() and not unfinished_bytes:  # it is made when the first file has come
            return None
        return Snapshot(repo, commit, found, unfinished_bytes)
    except (OSError, ValueError):
        return None


def read_cached(reference: HubReference, cache: Path | None = None) -> ModelSpec | None:
    """The model that was downloaded from a repository; None when the whole of it is not there.

    Raises:
        BadFile: what is there is damaged.
        SeveralModels: several GGUF models are there, and `choice` picks none.
        NotSupported: it holds weights in no format that weigh reads.
    """
    found = snapshot(reference.repo, reference.revision, cache)
    if found is None:
        return None
    if variants := [v for v in gguf_variants(found.sizes_bytes) if not v.missing]:
        try:
            variant = picked(variants, reference.choice, str(reference), typed=f"hf:{reference}:")
        except UnknownName:  # the hub may hold it
            return None
        return replace(read_gguf(found.folder / variant.name), name=reference.repo)
    if not found.shards or found.missing:
        return None
    from weigh.model.checkpoint import read_checkpoint

    return replace(read_checkpoint(found.folder), name=reference.repo)


def _commit(folder: Path, revision: str) -> str | None:
    if re.fullmatch(_COMMIT, revision):
        return revision
    if ".." in revision or revision.startswith("/"):
        return None
    ref = folder / "refs" / revision
    if ref.is_file():
        with ref.open("rb") as file:
            said = file.read(100).decode(errors="replace").strip()
        return said if re.fullmatch(_COMMIT, said) else None
    return _newest(folder / "snapshots") if revision == "main" else None


def _newest(snapshots: Path) -> str | None:
    found = [path for path in snapshots.iterdir() if re.fullmatch(_COMMIT, path.name)]
    return max(found, key=lambda path: path.stat().st_mtime).name if found else None


def _unfinished_bytes(folder: Path) -> int:
    sizes = sizes_below(folder / "blobs", 0)
    return sum(size for name, size in sizes.items() if name.endswith(_UNFINISHED))
