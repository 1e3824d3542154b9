"""LM Studio's folder and those of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model.gguf_files import llama_file
from weigh.errors import BadInput, UnknownName
from weigh.model.lm_studio import lm_studio_folders, lm_studio_model, lm_studio_models, other_folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLAMA_CACHE", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def add(models: Path, *names: str) -> Path:
    for name in names:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        llama_file().write(models / name)
    return models


def test_models_are_publisher_and_name(home: Path) -> None:
    add(
        home / ".lmstudio" / "models",
        "pub/Tiny-GGUF/a-Q4_K_M.gguf",
        "pub/Tiny-GGUF/a-Q8_0.gguf",
        "p/B/b.gguf",
    )
    models = lm_studio_models()
    assert [model.id for model in models] == ["p/B", "pub/Tiny-GGUF"]
    assert sorted(models[1].sizes_bytes) == ["a-Q4_K_M.gguf", "a-Q8_0.gguf"]


def test_loose_files_and_other_files_are_no_models(home: Path) -> None:
    models = add(home / ".lmstudio" / "models", "loose.gguf", "pub/loose.gguf")
    (models / "pub" / "notes").mkdir()
    (models / "pub" / "notes" / "read.me").write_text("")
    assert lm_studio_models() == []


@pytest.mark.parametrize("typed", ["pub/Tiny-GGUF", "PUB/tiny-gguf", "tiny", "Tiny-GGUF", "other/tiny"])
def test_a_model_is_found_by_its_name_with_or_without_publisher(home: Path, typed: str) -> None:
    add(home / ".lmstudio" / "models", "pub/Tiny-GGUF/a.gguf")
    assert lm_studio_model(typed).id == "pub/Tiny-GGUF"


def test_of_two_publishers_one_has_to_be_named(home: Path) -> None:
    add(home / ".lmstudio" / "models", "a/Tiny/a.gguf", "b/Tiny-GGUF/a.gguf")
    with pytest.raises(UnknownName, match="did you mean `lmstudio:a/Tiny` or `lmstudio:b/Tiny-GGUF`"):
        lm_studio_model("tiny")
    assert lm_studio_model("a/tiny").id == "a/Tiny"


def test_a_close_name_is_proposed(home: Path) -> None:
    add(home / ".lmstudio" / "models", "pub/Tiny-GGUF/a.gguf")
    with pytest.raises(
        UnknownName, match="unknown model of LM Studio `tyni`; did you mean `lmstudio:pub/Tiny"
    ):
        lm_studio_model("tyni")


def test_no_models_are_said_so(home: Path) -> None:
    with pytest.raises(BadInput, match="LM Studio has no models on this machine"):
        lm_studio_model("tiny")


def test_the_folder_is_where_the_pointer_the_settings_and_custom_say(home: Path, tmp_path: Path) -> None:
    folders = [add(tmp_path / name / "models", "p/m/a.gguf") for name in ("pointed", "chosen")]
    (home / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'pointed'}\n")
    settings = {"downloadsFolder": str(folders[1])}
    (tmp_path / "pointed" / "settings.json").write_text(json.dumps(settings))
    old = add(home / ".cache" / "lm-studio" / "models", "p/m/a.gguf")
    own = add(home / ".lmstudio" / "models", "p/m/a.gguf")
    assert lm_studio_folders() == [folders[1], folders[0], own, old]


@pytest.mark.parametrize("content", ["", "\0", "relative/path", "x" * 100_000, "~nobody-is-called-so/x"])
def test_a_pointer_that_leads_nowhere_is_passed_over(home: Path, content: str) -> None:
    (home / ".lmstudio-home-pointer").write_text(content)
    own = add(home / ".lmstudio" / "models", "p/m/a.gguf")
    assert lm_studio_folders() == [own]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"downloadsFolder": 7}', '{"downloadsFolder": "x"}'])
def test_settings_of_another_form_are_passed_over(home: Path, content: str) -> None:
    own = add(home / ".lmstudio" / "models", "p/m/a.gguf")
    (home / ".lmstudio" / "settings.json").write_text(content)
    assert lm_studio_folders() == [own]


def test_other_programs_folders_are_known(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".cache/llama.cpp", ".local/share/nomic.ai/GPT4All", "jan/models"):
        (home / name).mkdir(parents=True)
    assert [place for place, _ in other_folders()] == ["llama.cpp cache", "GPT4All", "Jan"]
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path))
    assert other_folders()[0] == ("llama.cpp cache", tmp_path)
