"""Ollama's store, laid out byte by byte as Ollama does it: what is read from it, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.model.gguf_files import GgufFile, TensorInfo, llama_file, llama_tensors, llama_values
from tests.model.hub_server import gguf_bytes
from tests.model.ollama_store import LIBRARY, OllamaStore
from weigh.errors import BadFile, BadInput, NotSupported, UnknownName
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.ollama import ollama_model, ollama_name, ollama_names, ollama_stores, read_ollama

WEIGHTS = gguf_bytes(llama_file())
PROJECTOR = gguf_bytes(
    GgufFile(
        {"general.architecture": "clip", "clip.has_vision_encoder": True},
        [TensorInfo("v.blk.0.attn_q.weight", (64, 64), GgmlType.F16.id), TensorInfo("mm.0.bias", (64,))],
    )
)
DIGEST = "0" * 64


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OllamaStore:
    """The only store of this machine, with `tiny:1b` in it."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = OllamaStore(tmp_path / "models")
    found.add(f"{LIBRARY}/tiny/1b", ("model", WEIGHTS), ("license", b"MIT"), ("template", b"{{ .Prompt }}"))
    return found


def problem(typed: str) -> str:
    """Why a model cannot be had, in one line."""
    with pytest.raises(BadInput) as caught:
        read_ollama(typed)
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- what is read ---------------------------------------------------------------------------------------


def test_a_model_is_its_gguf_blob_under_ollamas_name(store: OllamaStore, tmp_path: Path) -> None:
    spec = read_ollama("tiny:1b")
    assert spec.file is not None
    assert spec == replace(read_gguf(spec.file), name="tiny:1b")
    assert spec.file.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("path", "typed", "said"),
    [
        ("registry.ollama.ai/library/tiny/latest", "tiny", "tiny:latest"),
        ("registry.ollama.ai/mattw/pygmalion/7b", "mattw/pygmalion:7b", "mattw/pygmalion:7b"),
        ("hf.co/org/Tiny-GGUF/Q4_K_M", "hf.co/org/Tiny-GGUF:Q4_K_M", "hf.co/org/Tiny-GGUF:Q4_K_M"),
        ("hf.co/org/Tiny-GGUF/Q4_K_M", "HF.co/Org/tiny-gguf:q4_k_m", "hf.co/org/Tiny-GGUF:Q4_K_M"),
        ("localhost:5000/a/b/c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("registry.ollama.ai/library/tiny/latest", "registry.ollama.ai/library/tiny", "tiny:latest"),
    ],
)
def test_names_are_understood_and_said_as_ollama_does(
    store: OllamaStore, path: str, typed: str, said: str
) -> None:
    store.add(path, ("model", WEIGHTS))
    assert read_ollama(typed).name == said


def test_settings_that_decide_memory_and_speed_are_told(store: OllamaStore) -> None:
    params = {"num_ctx": 8192, "num_gpu": 20, "temperature": 0.7, "stop": ["<|end|>"]}
    store.add(f"{LIBRARY}/set/up", ("model", WEIGHTS), ("params", json.dumps(params).encode()))
    model = ollama_model(store.folder, ollama_name("set:up"))
    assert model.settings == {"num_ctx": 8192, "num_gpu": 20, "temperature": 0.7}
    assert read_ollama("set:up").notes == ("Ollama runs it with num_ctx 8192, num_gpu 20",)


def test_a_projector_lies_beside_the_model_and_counts_in_no_sum(store: OllamaStore) -> None:
    store.add(f"{LIBRARY}/see/1b", ("model", WEIGHTS), ("projector", PROJECTOR))
    spec, plain = read_ollama("see:1b"), read_ollama("tiny:1b")
    assert spec.parameters == plain.parameters
    assert sum(group.total_bytes for group in spec.beside) == 64 * 64 * 2 + 64 * 4


def test_an_encoder_in_the_same_file_lies_beside_too(store: OllamaStore) -> None:
    tensors = [*llama_tensors(), TensorInfo("v.patch_embd.weight", (64, 64), GgmlType.F16.id)]
    store.add(f"{LIBRARY}/see/2b", ("model", gguf_bytes(GgufFile(llama_values(), tensors))))
    spec = read_ollama("see:2b")
    assert [group.name for group in spec.beside] == ["v.patch_embd.weight"]
    assert spec.parameters == read_ollama("tiny:1b").parameters


def test_adapters_and_drafts_are_told(store: OllamaStore) -> None:
    store.add(
        f"{LIBRARY}/more/1b", ("model", WEIGHTS), ("adapter", bytes(1 << 20)), ("draft", bytes(2 << 20))
    )
    adapter, draft = read_ollama("more:1b").notes
    assert "an adapter of 1.0 MiB" in adapter
    assert "a draft model of 2.0 MiB" in draft


def test_blobs_of_old_versions_have_a_colon(store: OllamaStore) -> None:
    (blob,) = store.blobs(len(WEIGHTS))
    blob.rename(blob.with_name(blob.name.replace("-", ":")))
    assert read_ollama("tiny:1b").basis == "file"


def test_all_names_of_a_store_are_listed(store: OllamaStore) -> None:
    store.add("hf.co/org/a/b", ("model", WEIGHTS))
    (store.folder / "manifests" / LIBRARY / "tiny" / "no name").write_text("{}")
    (store.folder / "manifests" / "stray").write_text("{}")
    assert [str(name) for name in ollama_names(store.folder)] == ["hf.co/org/a:b", "tiny:1b"]


def test_the_store_is_the_one_of_the_variable_then_this_users(
    store: OllamaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OllamaStore(tmp_path / "home" / ".ollama" / "models")
    own.add(f"{LIBRARY}/mine/1b", ("model", WEIGHTS))
    assert ollama_stores()[:2] == [store.folder, own.folder]
    assert read_ollama("mine:1b").name == "mine:1b"
    monkeypatch.delenv("OLLAMA_MODELS")
    assert ollama_stores()[0] == own.folder


# --- what is not there ----------------------------------------------------------------------------------


def test_another_tag_is_proposed(store: OllamaStore) -> None:
    with pytest.raises(
        UnknownName, match="unknown Ollama model `tiny:latest`; did you mean `ollama:tiny:1b`"
    ):
        read_ollama("tiny")


def test_a_close_name_is_proposed(store: OllamaStore) -> None:
    with pytest.raises(UnknownName, match="did you mean `ollama:tiny:1b`"):
        read_ollama("tyni:1b")


def test_no_store_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weigh.model.ollama.ollama_stores", list)
    assert problem("tiny") == "no store of Ollama is on this machine"


@pytest.mark.parametrize(
    "typed",
    [
        *(
            "",
            ":",
            "a:",
            ":b",
            "../x",
            "a/../b:c",
            "..:..",
            ".hidden",
            "a/b/c/d",
            "a b",
            "a\x1b[31m",
            "a\n:b",
        ),
        *("x" * 81, "a//b", "/etc/passwd", "a:b:c", "na.me/space:x"),
    ],
)
def test_what_ollama_calls_no_model_never_becomes_a_path(store: OllamaStore, typed: str) -> None:
    said = problem(typed)
    assert "is no name that Ollama gives" in said


def test_a_model_that_runs_elsewhere_is_not_here(store: OllamaStore) -> None:
    config = {"remote_host": "https://ollama.com:443", "remote_model": "big"}
    store.add(f"{LIBRARY}/big/cloud", config=config)
    with pytest.raises(NotSupported, match=r"big:cloud runs at https://ollama\.com:443, not here"):
        read_ollama("big:cloud")


def test_a_model_stored_by_tensors_is_not_supported(store: OllamaStore) -> None:
    store.add(f"{LIBRARY}/mlx/1b", ("tensor; name=a; dtype=BF16; shape=1", b"12"))
    with pytest.raises(NotSupported, match="tensor by tensor"):
        read_ollama("mlx:1b")


# --- stores that mean no good ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (None, "names no weights"),
        ([], "names no weights"),
        ({"a": 1}, "names no layers"),
        ([7], "has a layer without type or digest"),
        ([{"mediaType": 1, "digest": "x", "size": 1}], "has a layer without type or digest"),
        ([{"mediaType": "x", "digest": "sha256:../../etc/passwd", "size": 1}], "which is no sha256 digest"),
        ([{"mediaType": "x", "digest": "sha256:" + "g" * 64, "size": 1}], "which is no sha256 digest"),
        ([{"mediaType": "x", "digest": "sha256:" + DIGEST + "/..", "size": 1}], "which is no sha256 digest"),
        ([{"mediaType": "x", "digest": "\x1b[2J", "size": 1}], "which is no sha256 digest"),
        ([{"mediaType": "x", "digest": "sha256:" + DIGEST, "size": -1}], "gives a layer -1 bytes"),
        ([{"mediaType": "x", "digest": "sha256:" + DIGEST, "size": 1 << 80}], "bytes, which none has"),
        ([{"mediaType": "x", "digest": "sha256:" + DIGEST, "size": True}], "gives a layer True bytes"),
        ([{"mediaType": "x", "digest": "sha256:" + DIGEST, "size": 1}], "names no weights"),
        (
            [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + DIGEST, "size": 1}],
            "its model layer is not there",
        ),
        (
            [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + DIGEST, "size": 1}]
            * 2,
            "names 2 files of weights",
        ),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(store: OllamaStore, layers: object, said: str) -> None:
    path = store.write(f"{LIBRARY}/bad/1b", layers)
    found = problem("bad:1b")
    assert found.startswith(f"{path}: ")
    assert said in found


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{" * 100_000, b'{"layers": 1, "layers": 2}', b"\xff"]
)
def test_a_manifest_that_is_no_object_is_refused(store: OllamaStore, content: bytes) -> None:
    store.write(f"{LIBRARY}/bad/1b", []).write_bytes(content)
    assert "bad/1b: " in problem("bad:1b")


def test_a_giant_manifest_is_not_read(store: OllamaStore) -> None:
    path = store.write(f"{LIBRARY}/bad/1b", [])
    os.truncate(path, 100 << 30)
    assert "has 107,374,182,400 bytes, more than any model's" in problem("bad:1b")


def test_a_manifest_that_is_a_pipe_is_not_waited_for(store: OllamaStore) -> None:
    path = store.write(f"{LIBRARY}/bad/1b", [])
    path.unlink()
    os.mkfifo(path)
    assert "unknown Ollama model" in problem("bad:1b")


def test_a_download_that_did_not_end_is_said_so(store: OllamaStore) -> None:
    (blob,) = store.blobs(len(WEIGHTS))
    blob.rename(blob.with_name(f"{blob.name}-partial"))
    assert "its model layer is only partly there" in problem("tiny:1b")


def test_a_blob_of_another_size_is_refused(store: OllamaStore) -> None:
    (blob,) = store.blobs(len(WEIGHTS))
    os.truncate(blob, 1000)
    assert f"has 1,000 bytes where its manifest says {len(WEIGHTS):,}" in problem("tiny:1b")


def test_a_link_out_of_the_store_is_not_followed(store: OllamaStore, tmp_path: Path) -> None:
    (blob,) = store.blobs(len(WEIGHTS))
    outside = tmp_path / "outside.gguf"
    blob.rename(outside)
    blob.symlink_to(outside)
    assert problem("tiny:1b") == f"{blob}: is a link that leads out of the store"
    blob.unlink()
    blob.symlink_to(blob)
    assert "its model layer is not there" in problem("tiny:1b")


def test_a_link_inside_the_store_is_followed(store: OllamaStore) -> None:
    (blob,) = store.blobs(len(WEIGHTS))
    blob.rename(store.folder / "elsewhere")
    blob.symlink_to(store.folder / "elsewhere")
    assert read_ollama("tiny:1b").basis == "file"


def test_a_store_may_itself_be_a_link(
    store: OllamaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(store.folder)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "link"))
    assert read_ollama("tiny:1b").basis == "file"


def test_settings_of_another_form_are_passed_over_or_refused(store: OllamaStore) -> None:
    odd = json.dumps({"num_ctx": {"a": 1}, "num_gpu": "\x1b[31m", "num_batch": None}).encode()
    store.add(f"{LIBRARY}/odd/1b", ("model", WEIGHTS), ("params", odd))
    assert read_ollama("odd:1b").notes == ("Ollama runs it with num_gpu \\x1b[31m",)
    store.add(f"{LIBRARY}/odd/2b", ("model", WEIGHTS), ("params", b"[1]"))
    with pytest.raises(BadFile, match="is no JSON object"):
        read_ollama("odd:2b")


def test_a_damaged_projector_is_named(store: OllamaStore) -> None:
    store.add(f"{LIBRARY}/see/3b", ("model", WEIGHTS), ("projector", WEIGHTS))
    assert "is no projector" in problem("see:3b")
