"""Hostile and odd stores of other tools: Ollama's, and the cache of the hub's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case
from tests.hostile.checkpoint_cases import TINY as CHECKPOINT
from tests.hostile.gguf_cases import TINY
from tests.model.gguf_files import llama_file
from tests.model.hub_cache_files import cache_repository
from tests.model.hub_server import COMMIT, checkpoint_files, gguf_bytes
from tests.model.ollama_store import LIBRARY, OllamaStore

_MODEL = "application/vnd.ollama.image.model"
_ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\nsecond line\u202e"
_TYPED = "ollama:tiny:1b"
_NAME = f"{LIBRARY}/tiny/1b"
_OLLAMA = {"OLLAMA_MODELS": "{}", "HOME": "{}/home"}
_CACHE = {"HF_HUB_CACHE": "{}", "HF_HUB_OFFLINE": "1", "HOME": "{}/home"}
_REPO = "org/name"


def cases() -> Iterator[Case]:
    yield from _manifests()
    yield from _blobs()
    yield from _names()
    yield from _caches()


def _ollama(name: str, fill: Callable[[OllamaStore], object], says: str = "", typed: str = _TYPED) -> Case:
    def make(folder: Path) -> str:
        fill(OllamaStore(folder))
        return typed

    return Case(f"ollama: {name}", make, says, {} if says else TINY, _OLLAMA)


def _manifests() -> Iterator[Case]:
    weights = gguf_bytes(llama_file())
    yield _ollama("as usual", lambda store: store.add(_NAME, ("model", weights), ("license", b"MIT")))
    for name, data in (
        ("empty", b""),
        ("zeros", bytes(100)),
        ("cut", b'{"layers": ['),
        ("a list", b"[]"),
        ("NaN", b'{"layers": [NaN]}'),
        ("deep", b'{"layers":' + b"[" * 100_000),
        ("layers twice", b'{"layers": [], "layers": []}'),
        ("layers is a text", b'{"layers": "x"}'),
        ("no layers", b"{}"),
        ("no object", b"7"),
    ):
        yield _ollama(f"manifest: {name}", _manifest_of(data), "JSON|layers|object|is empty|twice|weights")

    def layer(digest: object = "sha256:" + "0" * 64, size: object = 1, kind: object = _MODEL) -> list[object]:
        return [{"mediaType": kind, "digest": digest, "size": size}]

    for digest in (
        "sha256:../../../../etc/passwd",
        "sha256:" + "../" * 20 + "etc/passwd",
        "/etc/passwd",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "g" * 64,
        "sha1:" + "0" * 40,
        "sha256-" + "0" * 60 + "/../",
        "",
        f"sha256:{_ESCAPES}",
        "sha256:" + "\uff10" * 64,  # digits of another script
        5,
        None,
        ["sha256:" + "0" * 64],
    ):
        said = str(digest)[:30].encode("unicode_escape").decode()
        yield _ollama(f"digest {said} {len(str(digest))}", _layers(layer(digest)), "digest")
    for size in (-1, 1.5, "1", None, True, 1 << 64, 10**40):
        yield _ollama(f"a layer of {str(size)[:20]} bytes", _layers(layer(size=size)), "bytes|size")
    for kind in (5, None, [_MODEL]):
        yield _ollama(f"a layer of type {kind}", _layers(layer(kind=kind)), "type")
    yield _ollama("an unknown layer", _layers(layer(kind=f"x/{_ESCAPES}")), "weights|layer")
    yield _ollama("a layer that is no object", _layers(["x"]), "layer")
    yield _ollama(
        "two models", lambda store: store.add(_NAME, ("model", weights), ("model", weights + b"x")), "2 files"
    )
    yield _ollama("twenty thousand layers", _layers(layer() * 20_000), "20000 files")

    def pipe(store: OllamaStore) -> None:
        path = store.folder / "manifests" / _NAME
        path.parent.mkdir(parents=True)
        os.mkfifo(path)

    yield _ollama("manifest: a pipe", pipe, "unknown|pipe|device|no store")
    yield _ollama(
        "manifest: a link out of the store", _linked_manifest("/etc/passwd"), "link|out of the store"
    )
    yield _ollama("manifest: a link to /dev/zero", _linked_manifest("/dev/zero"), "unknown|link|device")

    def sparse(store: OllamaStore) -> None:
        _manifest_of(b"{")(store)
        os.truncate(store.folder / "manifests" / _NAME, 10**12)

    yield _ollama("manifest: a terabyte", sparse, "more than any")


def _manifest_of(data: bytes) -> Callable[[OllamaStore], object]:
    def fill(store: OllamaStore) -> None:
        path = store.folder / "manifests" / _NAME
        path.parent.mkdir(parents=True)
        path.write_bytes(data)

    return fill


def _linked_manifest(target: str) -> Callable[[OllamaStore], object]:
    def fill(store: OllamaStore) -> None:
        path = store.folder / "manifests" / _NAME
        path.parent.mkdir(parents=True)
        path.symlink_to(target)

    return fill


def _layers(layers: object) -> Callable[[OllamaStore], object]:
    return lambda store: store.write(_NAME, layers)


def _blobs() -> Iterator[Case]:
    weights = gguf_bytes(llama_file())

    def changed(change: Callable[[Path], object]) -> Callable[[OllamaStore], object]:
        def fill(store: OllamaStore) -> None:
            store.add(_NAME, ("model", weights))
            change(store.blobs(len(weights))[0])

        return fill

    def linked(target: str) -> Callable[[OllamaStore], object]:
        def change(blob: Path) -> None:
            blob.unlink()
            blob.symlink_to(target)

        return changed(change)

    def inside(blob: Path) -> None:
        blob.rename(blob.with_name("elsewhere"))
        blob.symlink_to("elsewhere")

    def pipe(blob: Path) -> None:
        blob.unlink()
        os.mkfifo(blob)

    yield _ollama("a blob that is not there", changed(Path.unlink), "not there")
    yield _ollama("a blob longer than said", changed(lambda blob: os.truncate(blob, 10**12)), "bytes where")
    yield _ollama("a blob shorter than said", changed(lambda blob: os.truncate(blob, 100)), "bytes where")
    yield _ollama("a blob that leads out of the store", linked("/etc/passwd"), "out of the store|link")
    yield _ollama("a blob that leads to /dev/zero", linked("/dev/zero"), "out of the store|link|device")
    yield _ollama("a blob that leads to itself", linked("x" * 20), "not there|link")
    yield _ollama("a blob that is a pipe", changed(pipe), "pipe|device")
    yield _ollama("a link inside the store", changed(inside))
    yield _ollama(
        "a blob that is no model", lambda store: store.add(_NAME, ("model", b"\x80\x02cos")), "pickle|GGUF"
    )
    lying = b'{"num_ctx": 1e999, "temperature": NaN}'
    yield _ollama(
        "settings that are no JSON", lambda s: s.add(_NAME, ("model", weights), ("params", lying)), "JSON"
    )
    odd = json.dumps({"num_ctx": _ESCAPES, "stop": [[[]]], "x": {"y": 1}, "num_gpu": -1}).encode()
    yield _ollama("settings of other kinds", lambda s: s.add(_NAME, ("model", weights), ("params", odd)))


def _names() -> Iterator[Case]:
    weights = gguf_bytes(llama_file())
    for typed in (
        "../../etc/passwd",
        "/etc/passwd",
        "..:..",
        "a/../b:c",
        "a/b/c/d/e",
        "x:" + "y" * 500,
        _ESCAPES,
        "a\0b",
        "",
        ":",
        "hf.co/../..:x",
        "\u202etiny",
    ):
        said = typed[:20].encode("unicode_escape").decode()
        yield _ollama(
            f"the name `{said}`",
            lambda store: store.add(_NAME, ("model", weights)),
            "no name|unknown|does not exist",
            f"ollama:{typed}",
        )


def _caches() -> Iterator[Case]:
    def cached(
        name: str, change: Callable[[Path, Path], object], says: str = "", typed: str = f"hf:{_REPO}"
    ) -> Case:
        def make(folder: Path) -> str:
            snapshot = cache_repository(folder, _REPO, checkpoint_files())
            change(folder / "models--org--name", snapshot)
            return typed

        return Case(f"cache: {name}", make, says, {} if says else CHECKPOINT, _CACHE)

    def led(target: str) -> Callable[[Path, Path], object]:
        def change(repo: Path, snapshot: Path) -> None:
            (snapshot / "model.safetensors").unlink()
            (snapshot / "model.safetensors").symlink_to(target)

        return change

    def ref(data: bytes) -> Callable[[Path, Path], object]:
        return lambda repo, snapshot: (repo / "refs" / "main").write_bytes(data)

    yield cached("links into its blobs", lambda repo, snapshot: None)
    yield cached("a link to a secret", led("/etc/passwd"), "reach|offline|network|holds|missing|link")
    yield cached("a link to /dev/zero", led("/dev/zero"), "reach|offline|network|holds|missing|link|device")
    yield cached("a link to itself", led("model.safetensors"), "reach|offline|network|holds|missing|link")
    for name, data in (
        ("a way up", b"../../../../etc"),
        ("a path", b"/etc"),
        ("zeros", bytes(40)),
        ("escapes", _ESCAPES.encode()),
        ("nothing", b""),
        ("a commit that is not there", b"f" * 40),
    ):
        yield cached(f"the branch holds {name}", ref(data), "offline|network|reach")
    for typed in (
        "hf:../../etc/passwd",
        "hf:org/name@../../x",
        "hf:org/name@" + "a" * 5000,
        "hf:org/name:../../etc/passwd",
        f"hf:{_ESCAPES}",
        "hf:",
        "hf:org",
        "hf:a/b/c/d",
        "hf:org\0/name",
    ):
        said = typed[:24].encode("unicode_escape").decode()
        yield cached(
            f"the name `{said}`",
            lambda repo, snapshot: None,
            "names no|offline|network|unknown|already|recipe|quantization|holds",
            typed,
        )
    yield cached("a commit by name", lambda repo, snapshot: None, typed=f"hf:{_REPO}@{COMMIT}")
