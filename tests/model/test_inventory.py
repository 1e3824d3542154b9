"""What is on a machine: one of every place, sound and damaged, shared and unfinished."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.model.gguf_files import GgufFile, llama_file, llama_tensors, llama_values
from tests.model.hub_cache_files import cache_repository
from tests.model.hub_server import CHECKPOINT_WEIGHTS, checkpoint_files, gguf_bytes
from tests.model.ollama_store import LIBRARY, OllamaStore
from weigh.errors import BadInput
from weigh.model.inventory import Found, inventory
from weigh.model.resolve import resolve

PARAMETERS = 1_257_728  # of `llama_file`, as worked out in test_gguf.py


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without models."""
    home = tmp_path / "home"
    (home / "here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in (
        "OLLAMA_MODELS",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HOME",
        "XDG_CACHE_HOME",
        "LLAMA_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(home / "here")
    return home


def different(number: int) -> GgufFile:
    """A file like no other."""
    return llama_file(general__name=f"model {number}")


def everywhere(home: Path) -> Path:
    """One model in each place; gives a folder of the user's own."""
    OllamaStore(home / ".ollama" / "models").add(f"{LIBRARY}/tiny/1b", ("model", gguf_bytes(different(1))))
    cache = home / ".cache" / "huggingface" / "hub"
    files = {"a-Q4_K_M.gguf": gguf_bytes(different(2)), "a-Q8_0.gguf": gguf_bytes(different(3))}
    cache_repository(cache, "org/tiny-GGUF", files)
    cache_repository(cache, "org/tiny", checkpoint_files(shards=2))
    for number, name in enumerate(
        (
            ".lmstudio/models/pub/Tiny/a.gguf",
            ".cache/llama.cpp/org_tiny.gguf",
            "own/deep/er/b.gguf",
            "here/c.gguf",
        ),
        4,
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        different(number).write(home / name)
    return home / "own"


def test_every_place_is_looked_into(home: Path) -> None:
    found = inventory([everywhere(home)])
    assert [(f.place, f.name, f.format) for f in found] == [
        ("Ollama", "ollama:tiny:1b", "gguf"),
        ("Hugging Face cache", "hf:org/tiny", "safetensors"),
        ("Hugging Face cache", "hf:org/tiny-GGUF:Q4_K_M", "gguf"),
        ("Hugging Face cache", "hf:org/tiny-GGUF:Q8_0", "gguf"),
        ("LM Studio", "lmstudio:pub/Tiny", "gguf"),
        ("llama.cpp cache", f"{home}/.cache/llama.cpp/org_tiny.gguf", "gguf"),
        ("folder", f"{home}/own/deep/er/b.gguf", "gguf"),
        ("folder", "./c.gguf", "gguf"),
    ]
    assert all(f.complete for f in found)
    assert {f.parameters for f in found} == {PARAMETERS, CHECKPOINT_WEIGHTS}


def test_what_is_to_be_typed_leads_to_the_very_model(home: Path) -> None:
    for found in inventory([everywhere(home)]):
        spec = resolve(found.name)
        assert found.spec is not None
        assert spec.file is not None
        assert (spec.file.resolve(), spec.file_bytes) == (found.path.resolve(), found.file_bytes)


def test_the_same_file_under_several_names_is_listed_once(home: Path) -> None:
    store = OllamaStore(home / ".ollama" / "models")
    manifest = store.add(f"{LIBRARY}/tiny/1b", ("model", gguf_bytes(llama_file())))
    manifest.with_name("latest").write_bytes(manifest.read_bytes())
    (blob,) = store.blobs(len(gguf_bytes(llama_file())))
    (home / "here" / "link.gguf").symlink_to(blob)
    os.link(blob, home / "here" / "hard.gguf")
    (found,) = inventory()
    assert found.name == "ollama:tiny:1b"
    assert found.also == ("ollama:tiny:latest", "./hard.gguf", "./link.gguf")


def test_one_damaged_file_stops_no_other(home: Path) -> None:
    good = llama_file().write(home / "here" / "good.gguf")
    (home / "here" / "zip.gguf").write_bytes(b"PK\x03\x04")
    (home / "here" / "cut.gguf").write_bytes(good.read_bytes()[:5000])
    (home / "here" / "broken").mkdir()
    (home / "here" / "broken" / "config.json").write_text("{")
    (home / "here" / "broken" / "model.safetensors").write_bytes(b"\xff" * 100)
    OllamaStore(home / ".ollama" / "models").write(f"{LIBRARY}/bad/1b", [7])
    found = {f.name: f for f in inventory()}
    assert found["./good.gguf"].complete
    problems = {name: f.problem for name, f in found.items() if not f.complete}
    assert set(problems) == {"ollama:bad:1b", "./zip.gguf", "./cut.gguf", "./broken"}
    assert "is a zip archive" in problems["./zip.gguf"]
    assert "is cut short" in problems["./cut.gguf"]
    assert all(f.isprintable() for f in problems.values())
    assert found["./zip.gguf"].parameters is found["./zip.gguf"].quantization is None


def test_a_download_that_did_not_end_says_what_is_missing(home: Path) -> None:
    cache = home / ".cache" / "huggingface" / "hub"
    files = checkpoint_files(shards=3)
    del files["model-00003-of-00003.safetensors"]
    cache_repository(cache, "org/tiny", files)
    begun = cache_repository(cache, "org/begun", {})
    (begun.parents[1] / "blobs" / "abc.incomplete").write_bytes(bytes(1000))
    cache_repository(cache, "org/words-only", {"config.json": b"{}", "tokenizer.json": b"{}"})
    tensors = llama_tensors()
    part = GgufFile(llama_values() | {"split.no": 0, "split.count": 2}, tensors[:10])
    part.write(home / "here" / "m-00001-of-00002.gguf")
    problems = {f.name: (f.problem, f.file_bytes) for f in inventory()}
    shards = sum(len(data) for name, data in files.items() if name.endswith(".safetensors"))
    part_bytes = part.data_start() + part.data_bytes()
    assert problems == {
        "hf:org/begun": ("its download did not end", 1000),
        "hf:org/tiny": ("its download did not end: 1 of its 3 files are missing", shards),
        "./m-00001-of-00002.gguf": ("1 of its 2 parts are missing", part_bytes),
    }


def test_files_of_one_quantization_are_told_apart_by_name(home: Path) -> None:
    for number, name in enumerate(("pub/Tiny/a-Q4_K_M.gguf", "pub/Tiny/b-Q4_K_M.gguf")):
        path = home / ".lmstudio" / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        different(number).write(path)
    names = [f.name for f in inventory()]
    assert names == ["lmstudio:pub/Tiny:a-Q4_K_M.gguf", "lmstudio:pub/Tiny:b-Q4_K_M.gguf"]
    assert resolve(names[1]).name == "pub/Tiny"


def test_the_current_folder_is_not_searched_deeply(home: Path) -> None:
    for name in ("sub/a.gguf", "sub/sub/b.gguf"):
        (home / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        llama_file().write(home / "here" / name)
    assert [f.name for f in inventory()] == ["./sub/a.gguf"]


def test_projectors_and_loose_safetensors_files_are_no_models(home: Path) -> None:
    llama_file().write(home / "here" / "mmproj-model-f16.gguf")
    (home / "here" / "lora.safetensors").write_bytes(b"")
    assert inventory() == []


@pytest.mark.parametrize("name", ["none", "a\0b"])
def test_a_named_folder_that_is_not_there_is_said(home: Path, name: str) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        inventory([home / "here" / name])


def test_a_file_named_as_a_folder_is_said(home: Path) -> None:
    llama_file().write(home / "here" / "model.gguf")
    with pytest.raises(BadInput, match="is no folder"):
        inventory([home / "here" / "model.gguf"])


def test_many_models_are_each_read_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "many"
    folder.mkdir()
    for number in range(50):
        different(number).write(folder / f"{number:02}.gguf")
    reads: list[Found] = []
    monkeypatch.setattr(
        "weigh.model.inventory.read_gguf", lambda path: reads.append(path) or resolve(str(path))
    )
    assert len(inventory([folder, folder])) == len(reads) == 50
