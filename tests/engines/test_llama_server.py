import shutil
from pathlib import Path

import pytest

from tests.engines.conftest import SETTINGS
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_server import PROGRAM, LlamaServer
from weigh.errors import EngineCrashed, EngineMissing

installed = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"{PROGRAM} is not on PATH")


def script(folder: Path, text: str) -> LlamaServer:
    path = folder / "server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return LlamaServer(path)


@installed
def test_an_installed_server_loads_and_generates(model: Path) -> None:
    with LlamaServer().start(model, SETTINGS, Limits()) as session:
        made = session.generate(range(5, 105), 20)
        assert (made.prompt_tokens, made.output_tokens, len(made.token_times_s)) == (100, 20, 20)
        assert session.generate(range(5, 105), 1, reuse_cache=True).cached_tokens == 99
        assert session.memory().file_bytes > model.stat().st_size


@installed
def test_an_installed_server_foretells_its_memory(slow_model: Path) -> None:
    layout = LlamaServer().layout(slow_model, Settings(context_tokens=4096, parallel=2, threads=1))
    # 2 sequences x 4096 tokens x 4 layers x (K and V) x 8 heads x 64 x 2 bytes = 64 MiB
    assert layout.kv_cache_bytes == 64 << 20
    # it rewrites matrices for the instructions it finds, sometimes into larger blocks
    assert 0.95 < layout.weights_bytes / slow_model.stat().st_size < 1.5


@installed
def test_an_installed_server_says_why_it_refuses_a_model(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(model.read_bytes()[:400_000])
    with pytest.raises(EngineCrashed, match="corrupted or incomplete"):
        LlamaServer().start(path, SETTINGS, Limits())


def test_a_server_that_is_not_there_is_missing() -> None:
    with pytest.raises(EngineMissing, match="no-such-server"):
        LlamaServer("no-such-server").version()


def test_a_program_that_names_no_version_is_no_llama_server(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="does not name a version"):
        script(tmp_path, "echo hello").version()


def test_an_old_server_gets_only_the_options_it_knows(tmp_path: Path, model: Path) -> None:
    # it prints its arguments as an error, the way a refused option is reported
    old = script(
        tmp_path, 'case "$1" in --help) echo "--no-mmap --no-webui";; *) echo "error: $*"; exit 1;; esac'
    )
    with pytest.raises(EngineCrashed) as error:
        old.start(model, Settings(context_tokens=1024, parallel=4, mmap=False), Limits())
    given = error.value.message.split()
    assert given[given.index("--ctx-size") + 1] == "4096"
    assert {"--no-mmap", "--no-webui"} <= set(given)
    assert not {"--fit", "--load-mode", "--sse-ping-interval", "--cache-ram", "--threads"} & set(given)
