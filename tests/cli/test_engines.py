"""`weigh engines`: what it lists, and what it says to those who install."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import answer, ask
from tests.engines.test_install import wheel
from weigh.engines import installed, recipes
from weigh.engines.recipes import Recipe

NAMES = ["llama.cpp", "llama-server", "llama-bench", "transformers", "vllm", "ollama", "openai", "tf-serving"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Engines of its own, an empty PATH, and no Ollama anywhere."""
    monkeypatch.setenv("WEIGH_ENGINES", str(tmp_path / "engines"))
    monkeypatch.delenv("WEIGH_VLLM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(place: Path, name: str, text: str) -> Path:
    path = place / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in answer(capsys, "engines")["engines"]}


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A server that answers as Ollama's documentation says; what it answers can be changed."""
    says = [b'{"version": "0.31.2"}']

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/version" else 404)
            self.send_header("Content-Length", str(len(says[0])))
            self.end_headers()
            self.wfile.write(says[0])

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_port}")
        yield says
        server.shutdown()


# --- what is listed ----------------------------------------------------------------------------------


def test_every_engine_is_listed_with_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert list(found) == NAMES
    assert found["llama.cpp"]["found"] is True
    assert found["llama.cpp"]["version"].startswith("xllamacpp 20")
    assert found["openai"]["found"] is None
    for name in ("llama-server", "llama-bench", "vllm", "ollama", "tf-serving"):
        assert found[name]["found"] is False
        assert found[name]["get"]
        assert found[name]["problem"]
        assert found[name]["takes"]
    assert found["vllm"]["get"] == "weigh engines add vllm"
    code, out, err = ask(capsys, "engines")
    assert (code, err) == (0, "")
    assert "Found here" in out
    assert "weigh engines add vllm" in out
    assert all(one["get"] in out for one in found.values())
    assert max(map(len, out.splitlines())) <= 110  # also where no terminal wraps it


def test_programs_are_asked_for_their_version(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    server = program(place, "llama-server", "echo 'version: 7000 (0123abcd)' >&2")
    program(place, "llama-bench", "exit 1")  # it has no such option, and is not asked
    found = listed(capsys)
    assert found["llama-server"] | {"found": True, "where": str(server)} == found["llama-server"]
    assert found["llama-server"]["version"] == "version: 7000 (0123abcd)"
    assert (found["llama-bench"]["found"], found["llama-bench"]["version"]) == (True, "")


def test_a_program_that_hangs_is_no_engine(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "LIMIT_S", 0.3)
    program(place, "llama-server", "exec /bin/sleep 60")
    found = listed(capsys)["llama-server"]
    assert found["found"] is False
    assert "did not end in" in found["problem"]


def test_a_program_that_does_not_run_is_no_engine(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    program(place, "tensorflow_model_server", "echo nothing of use")
    program(place, "llama-server", "").write_bytes(b"\x7fELF, cut off")
    found = listed(capsys)
    assert "does not name a version" in found["tf-serving"]["problem"]
    assert "does not run" in found["llama-server"]["problem"]


def test_ollama_is_asked_where_it_is_said_to_be(
    capsys: pytest.CaptureFixture[str], ollama: list[bytes]
) -> None:
    found = listed(capsys)["ollama"]
    assert (found["found"], found["version"]) == (True, "ollama 0.31.2")
    ollama[0] = b'{"version": ["\\u001b[2J"]}'
    assert listed(capsys)["ollama"]["version"] == "ollama of unknown version"
    ollama[0] = b"<html>"
    assert "not JSON" in listed(capsys)["ollama"]["problem"]


def test_an_environment_that_is_broken_is_said_to_be(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    folder = place / "engines" / "vllm"
    folder.mkdir(parents=True)
    (folder / "weigh.json").write_text('{"whole": false}')
    found = listed(capsys)["vllm"]
    assert found["found"] is False
    assert found["problem"] == f"{folder}: its installation was not finished"


# --- installing --------------------------------------------------------------------------------------


@pytest.fixture
def tiny(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny package stands in for vLLM: it takes a second instead of minutes."""
    index = place / "index"
    index.mkdir()
    wheel(index, "tiny-engine")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    made = Recipe("vllm", "a tiny engine", ("tiny-engine==1.0",), "import tiny_engine", 1000, 1 << 20)
    monkeypatch.setitem(recipes._ON_CPU, "vllm", made)
    monkeypatch.setitem(recipes._ON_CUDA, "vllm", made)
    return index


def test_it_is_added_and_removed(capsys: pytest.CaptureFixture[str], place: Path, tiny: Path) -> None:
    made = answer(capsys, "engines", "add", "vllm", "--yes")
    assert (made["engine"], made["whole"], made["was_there"]) == ("vllm", True, False)
    assert made["folder"] == str(place / "engines" / "vllm")
    code, out, _ = ask(capsys, "engines", "add", "vllm")  # there already: nothing to ask
    assert code == 0
    assert "was there already" in out
    assert answer(capsys, "engines", "remove", "vllm", "--yes")["removed_bytes"] >= made["size_bytes"]
    assert ask(capsys, "engines", "remove", "vllm")[:2] == (0, "vllm was not there\n")


def test_nothing_is_installed_where_nobody_can_be_asked(
    capsys: pytest.CaptureFixture[str], place: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = ask(capsys, "engines", "add", "vllm")
    assert (code, out) == (2, "")
    assert "a tiny engine: tiny-engine==1.0" in err
    assert "GiB are free" in err
    assert "--yes goes ahead" in err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: "n")
    assert ask(capsys, "engines", "add", "vllm")[0] == 1
    assert not (place / "engines" / "vllm").exists()


def test_what_no_package_installs_is_said_how(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ask(capsys, "engines", "add", "ollama", "--yes")
    assert code == 2
    assert "Ollama's own installer" in err
    code, _, err = ask(capsys, "engines", "add", "vlm")
    assert code == 2
    assert "did you mean `vllm`" in err
    code, _, err = ask(capsys, "engines", "add", "llama.cpp")
    assert "it is here already" in err


def test_a_failure_is_one_line_and_an_exit_code(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    (tiny / "tiny_engine-1.0-py3-none-any.whl").unlink()
    code, out, err = ask(capsys, "engines", "add", "vllm", "--yes")
    assert (code, out) == (3, "")
    assert "No matching distribution" in err.splitlines()[-1]
