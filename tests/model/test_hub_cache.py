"""The Hugging Face cache, laid out as `huggingface_hub` was seen to do it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.model.gguf_files import llama_file
from tests.model.hub_cache_files import cache_repository
from tests.model.hub_server import CHECKPOINT_WEIGHTS, COMMIT, checkpoint_files, gguf_bytes
from weigh.errors import BadFile, BadInput
from weigh.model.hub_cache import (
    HubReference,
    cached_repositories,
    hub_cache_folder,
    hub_reference,
    read_cached,
    snapshot,
)
from weigh.model.variants import SeveralModels

OTHER = "f" * 40
GGUF = gguf_bytes(llama_file())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "home/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/huggingface/hub"),
        ({"XDG_CACHE_HOME": "{}/xdg", "HF_HOME": "{}/hf"}, "hf/hub"),
        ({"HF_HOME": "$HOME/hf"}, "home/hf/hub"),
        ({"HF_HOME": "{}/hf", "HUGGINGFACE_HUB_CACHE": "{}/old"}, "old"),
        ({"HUGGINGFACE_HUB_CACHE": "{}/old", "HF_HUB_CACHE": "~/new"}, "home/new"),
    ],
)
def test_the_cache_lies_where_the_hubs_tools_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert hub_cache_folder() == tmp_path / folder


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("org/name", HubReference("org/name")),
        ("hf:org/name:Q4_K_M", HubReference("org/name", choice="Q4_K_M")),
        ("org/name@v1.0", HubReference("org/name", "v1.0")),
        ("org/name@refs/pr/1:sub/a.gguf", HubReference("org/name", "refs/pr/1", "sub/a.gguf")),
        ("gpt2", HubReference("gpt2")),
    ],
)
def test_a_reference_is_a_repository_a_revision_and_a_choice(typed: str, meant: HubReference) -> None:
    assert hub_reference(typed) == meant


def test_a_downloaded_checkpoint_is_read_under_its_id(cache: Path) -> None:
    cache_repository(cache, "org/tiny", checkpoint_files(shards=3))
    spec = read_cached(HubReference("org/tiny"))
    assert spec is not None
    assert (spec.name, spec.format, spec.parameters) == ("org/tiny", "safetensors", CHECKPOINT_WEIGHTS)


def test_gguf_files_are_found_in_subfolders_and_chosen(cache: Path) -> None:
    other = gguf_bytes(llama_file(general__name="other"))
    cache_repository(cache, "org/tiny-GGUF", {"a-Q4_K_M.gguf": GGUF, "sub/a-Q8_0.gguf": other})
    spec = read_cached(hub_reference("org/tiny-GGUF:Q8_0"))
    assert spec is not None
    assert spec.file is not None
    assert spec.file.name == "a-Q8_0.gguf"
    with pytest.raises(SeveralModels, match="holds 2 GGUF models"):
        read_cached(HubReference("org/tiny-GGUF"))


def test_a_choice_that_was_not_downloaded_is_left_to_the_hub(cache: Path) -> None:
    cache_repository(cache, "org/tiny-GGUF", {"a-Q4_K_M.gguf": GGUF})
    assert read_cached(hub_reference("org/tiny-GGUF:Q8_0")) is None


def test_the_branch_says_which_snapshot(cache: Path) -> None:
    cache_repository(cache, "org/tiny", checkpoint_files(), commit=OTHER, ref=None)
    cache_repository(cache, "org/tiny", checkpoint_files())
    cache_repository(cache, "org/tiny", checkpoint_files(), commit="e" * 40, ref="refs/pr/1")
    found = {
        revision: (s.commit if (s := snapshot("org/tiny", revision)) else None)
        for revision in ("main", OTHER, "refs/pr/1", "v2", "a" * 40)
    }
    expected = {"main": COMMIT, OTHER: OTHER, "refs/pr/1": "e" * 40, "v2": None, "a" * 40: None}
    assert found == expected


def test_without_a_branch_the_newest_snapshot_is_meant(cache: Path) -> None:
    old = cache_repository(cache, "org/tiny", checkpoint_files(), commit=OTHER, ref=None)
    cache_repository(cache, "org/tiny", checkpoint_files(), ref=None)
    os.utime(old, (1, 1))
    found = snapshot("org/tiny")
    assert found is not None
    assert found.commit == COMMIT


def test_shards_that_did_not_come_are_counted(cache: Path) -> None:
    files = checkpoint_files(shards=3)
    del files["model-00002-of-00003.safetensors"]
    folder = cache_repository(cache, "org/tiny", files)
    (folder.parents[1] / "blobs" / "abc.incomplete").write_bytes(bytes(1000))
    found = snapshot("org/tiny")
    assert found is not None
    assert found.missing == ("model-00002-of-00003.safetensors",)
    assert found.unfinished_bytes == 1000
    assert read_cached(HubReference("org/tiny")) is None


def test_a_download_of_which_nothing_came_yet_is_known(cache: Path) -> None:
    folder = cache_repository(cache, "org/tiny", {})
    (folder.parents[1] / "blobs" / "abc.incomplete").write_bytes(bytes(1000))
    found = snapshot("org/tiny")
    assert found is not None
    assert not found.sizes_bytes
    assert found.unfinished_bytes == 1000


def test_a_part_missing_of_a_split_gguf_file_is_not_the_whole(cache: Path) -> None:
    cache_repository(cache, "org/tiny", {"a-Q4_K_M-00001-of-00002.gguf": GGUF})
    assert read_cached(HubReference("org/tiny")) is None


def test_repositories_are_listed_by_id(cache: Path) -> None:
    assert cached_repositories() == []
    for repo in ("org/b", "gpt2", "Org/a"):
        cache_repository(cache, repo, {})
    for name in ("datasets--org--c", "models--..--x", "models--a b--c", ".locks"):
        (cache / name).mkdir()
    (cache / "models--a--file").write_text("")
    assert cached_repositories() == ["gpt2", "Org/a", "org/b"]


# --- caches that mean no good ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["../../../../etc", "", "main", "A" * 40, "0" * 10_000, "\0"])
def test_a_branch_that_names_no_commit_leads_nowhere(cache: Path, content: str) -> None:
    folder = cache_repository(cache, "org/tiny", checkpoint_files())
    (folder.parents[1] / "refs" / "main").write_text(content)
    assert snapshot("org/tiny") is None


@pytest.mark.parametrize("revision", ["../../x", "/etc/passwd", "a/../../b", "a\0b", "x" * 5000])
def test_a_revision_never_leads_out_of_the_repository(cache: Path, revision: str) -> None:
    cache_repository(cache, "org/tiny", checkpoint_files())
    assert snapshot("org/tiny", revision) is None


def test_links_out_of_the_repository_are_passed_over(cache: Path, tmp_path: Path) -> None:
    folder = cache_repository(cache, "org/tiny", checkpoint_files(shards=2))
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(checkpoint_files(shards=2)["model-00001-of-00002.safetensors"])
    shard = folder / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(outside)
    (folder / "loop.gguf").symlink_to("loop.gguf")
    (folder / "up").symlink_to(cache, target_is_directory=True)
    found = snapshot("org/tiny")
    assert found is not None
    assert found.missing == ("model-00001-of-00002.safetensors",)
    assert read_cached(HubReference("org/tiny")) is None


def test_a_damaged_index_is_named(cache: Path) -> None:
    files = checkpoint_files(shards=2) | {"model.safetensors.index.json": b'{"weight_map": {"a": "../x"}}'}
    cache_repository(cache, "org/tiny", files)
    with pytest.raises(BadFile, match=r"index\.json: names"):
        read_cached(HubReference("org/tiny"))


@pytest.mark.parametrize("typed", ["", "hf:", "a/b/c", "a/..", "-a/b", "a/b@", "a/b@..", "a/b:", "a\nb/c"])
def test_what_is_no_reference_is_said_so(typed: str) -> None:
    with pytest.raises(BadInput, match="names no repository of the hub") as caught:
        hub_reference(typed)
    assert str(caught.value).isprintable()
