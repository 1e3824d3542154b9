from pathlib import Path

import pytest

from weigh.engines import NAMES, default_engine, engine_named, engines
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.engines.llama_server import LlamaServer
from weigh.errors import EngineMissing, UnknownName


@pytest.fixture
def server_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "llama-server"
    path.write_text("#!/bin/sh\necho 'version: 7000 (0123abcd)'\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("WEIGH_ENGINE", raising=False)
    return path


def test_an_installed_server_comes_before_the_embedded_engine(server_on_path: Path) -> None:
    assert [type(e) for e in engines()] == [LlamaServer, EmbeddedLlamaCpp]
    assert default_engine().version() == "llama-server 7000 (0123abcd)"


def test_the_embedded_engine_is_there_when_no_server_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("WEIGH_ENGINE", raising=False)
    assert [type(e) for e in engines()] == [EmbeddedLlamaCpp]
    assert default_engine().version().startswith("xllamacpp 20")


def test_the_variable_chooses(server_on_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGH_ENGINE", "embedded")
    assert isinstance(default_engine(), EmbeddedLlamaCpp)
    monkeypatch.setenv("WEIGH_ENGINE", str(server_on_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert isinstance(default_engine(), LlamaServer)
    monkeypatch.setenv("WEIGH_ENGINE", "/nowhere/llama-server")
    with pytest.raises(EngineMissing, match="/nowhere/llama-server"):
        default_engine()


def test_every_engine_is_had_by_its_name_and_says_what_it_takes() -> None:
    takes = {name: engine_named(name).takes for name in NAMES}
    assert takes == {
        "llama.cpp": "gguf",
        "llama-server": "gguf",
        "transformers": "safetensors",
        "vllm": "safetensors",
    }
    with pytest.raises(UnknownName, match="did you mean `vllm`"):
        engine_named("vlm")
