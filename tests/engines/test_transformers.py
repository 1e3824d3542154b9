"""transformers on small checkpoints, for real; skipped where it is not installed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import venv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.model.checkpoint_files import LLAMA_CONFIG
from weigh.engines.engine import Limits, Settings
from weigh.engines.environments import Environment, Receipt
from weigh.engines.transformers import Transformers, TransformersSession
from weigh.errors import (
    BadFile,
    BadInput,
    EngineCrashed,
    EngineMissing,
    EngineTimeout,
    NotSupported,
    OutOfMemory,
)
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.stored_quantization import stored
from weigh.synth import shortened, synthetic_checkpoint
from weigh.synth.safetensors import write_checkpoint

pytestmark = pytest.mark.skipif(
    not (find_spec("torch") and find_spec("transformers")), reason="torch and transformers are not installed"
)
ENGINE = Transformers()
SETTINGS = Settings(context_tokens=2048, threads=1)
PROMPT = range(5, 105)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def folder_with(folder: Path, **config: object) -> Path:
    """A config alone, which is run on made-up weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG | {"dtype": "bfloat16"} | config))
    return folder


def tokens(session: TransformersSession, prompt: list[int], *, reuse_cache: bool) -> list[int]:
    request = {"prompt": prompt, "output_tokens": 8, "reuse_cache": reuse_cache}
    return [line["token"] for line in session._lines(request) if "token" in line]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    # exact enough that the likeliest token does not hang on the order of sums
    write_checkpoint(folder, LLAMA_CONFIG | {"dtype": "float32"}, scheme="F32")
    return folder


@pytest.fixture(scope="module")
def session(checkpoint: Path) -> Iterator[TransformersSession]:
    with ENGINE.start(checkpoint, SETTINGS, Limits()) as running:
        yield running


# --- what it does ------------------------------------------------------------------------------------


def test_exactly_the_tokens_asked_for_come_with_their_times(session: TransformersSession) -> None:
    made = session.generate(PROMPT, 40)
    assert (made.prompt_tokens, made.cached_tokens, made.output_tokens) == (100, 0, 40)
    assert len(made.token_times_s) == 40
    assert list(made.token_times_s) == sorted(made.token_times_s)
    assert made.token_times_s[0] >= made.prefill_s > 0
    assert len(made.step_times_s) == 39
    assert sum(made.step_times_s) == pytest.approx(made.decode_s)
    assert session.generate(PROMPT, 1).decode_s == 0
    assert session.load_s > 0


def test_a_prompt_in_the_cache_is_found_only_when_asked_for(session: TransformersSession) -> None:
    session.generate(PROMPT, 2)
    longer = session.generate([*PROMPT, *[7] * 20], 2, reuse_cache=True)
    assert longer.prompt_tokens + longer.cached_tokens == 120
    assert 100 <= longer.cached_tokens <= 101  # the first token it made may be a 7
    other = session.generate([*PROMPT, 8], 2, reuse_cache=True)
    assert (other.prompt_tokens, other.cached_tokens) == (1, 100)
    fresh = session.generate(PROMPT, 2)
    assert (fresh.prompt_tokens, fresh.cached_tokens) == (100, 0)


def test_what_is_found_in_the_cache_gives_the_same_tokens(session: TransformersSession) -> None:
    one, other = [*PROMPT, *range(200, 230)], [*PROMPT, *range(250, 290)]
    fresh = tokens(session, other, reuse_cache=False)
    tokens(session, one, reuse_cache=False)
    assert tokens(session, other, reuse_cache=True) == fresh
    assert len(fresh) == 8


def test_requests_it_cannot_take_are_refused_in_one_line(session: TransformersSession) -> None:
    with pytest.raises(BadInput, match=r"3000 \+ 1 tokens exceed the context of 2048"):
        session.generate([7] * 3000, 1)
    with pytest.raises(BadInput, match="outside the vocabulary of 300"):
        session.generate([300], 1)
    assert session.generate(PROMPT, 2).output_tokens == 2  # and the session lives on


def test_settings_it_does_not_have_are_refused(checkpoint: Path) -> None:
    with pytest.raises(NotSupported, match="one sequence at a time"):
        ENGINE.start(checkpoint, Settings(parallel=2), Limits())
    with pytest.raises(NotSupported, match="the model's own format"):
        ENGINE.start(checkpoint, Settings(kv_type_k=GgmlType.Q8_0), Limits())


def test_a_shortened_model_of_the_catalog_runs_on_made_up_weights(tmp_path: Path) -> None:
    spec = stored(catalog().by_id["Qwen/Qwen3-30B-A3B"].spec(), "BF16")
    short = shortened(spec, 1, vocab=1024, experts=8)
    with (
        synthetic_checkpoint(short, tmp_path, weights=False) as folder,
        ENGINE.start(folder, SETTINGS, Limits()) as session,
    ):
        assert session.generate(PROMPT, 4).output_tokens == 4
        assert session.memory().private_bytes > short.tensor_bytes > 100e6


def test_it_runs_in_the_environment_that_was_made_for_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real environment, which has the packages of this one by a `.pth` file, since installing them takes minutes."""
    monkeypatch.setenv("WEIGH_ENGINES", str(tmp_path))
    environment = Environment("transformers")
    venv.create(environment.folder)
    (packages,) = environment.package_folders()
    (packages / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    for name, version in (("transformers", "5.1.0"), ("torch", "2.9.0")):
        metadata = packages / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    environment.write(Receipt("transformers", whole=True))
    assert ENGINE.python == sys.executable  # weigh's own comes first
    monkeypatch.setattr("weigh.engines.packages.package_version", lambda package: None)  # weigh without them
    assert ENGINE.version() == "transformers 5.1.0, torch 2.9.0"
    with ENGINE.start(checkpoint, SETTINGS, Limits()) as session:
        assert session.command[0] == str(environment.python)
        assert session.generate(PROMPT, 2).output_tokens == 2
    environment.write(Receipt("transformers"))
    with pytest.raises(EngineMissing, match="`transformers` is not installed") as error:
        ENGINE.version()
    assert error.value.hint == "weigh engines add transformers"


# --- what goes wrong ---------------------------------------------------------------------------------


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is not a folder"):
        ENGINE.start(tmp_path / "nowhere", SETTINGS, Limits())
    with pytest.raises(BadFile, match=r"holds no config\.json"):
        ENGINE.start(tmp_path, SETTINGS, Limits())


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(BadFile, match="pickled, which can run code"):
        ENGINE.start(folder, SETTINGS, Limits())


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m", model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    )
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n")
    with pytest.raises(EngineCrashed) as error:
        ENGINE.start(folder, SETTINGS, Limits())
    assert "\n" not in error.value.message
    assert not (tmp_path / "was run").exists()


def test_a_truncated_file_is_one_clear_line(tmp_path: Path, checkpoint: Path) -> None:
    folder = folder_with(tmp_path / "m")
    whole = (checkpoint / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    before = children()
    with pytest.raises(EngineCrashed, match="SafetensorError") as error:
        ENGINE.start(folder, SETTINGS, Limits())
    assert "\n" not in error.value.message
    assert children() == before


def test_an_allocation_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", vocab_size=8_000_000)  # x 64 x 2 bytes, twice: 1.9 GiB
    before = children()
    with pytest.raises(OutOfMemory, match=r"limit of 0\.75 GiB"):
        ENGINE.start(folder, SETTINGS, Limits(memory_bytes=3 << 28))
    assert children() == before


def test_a_start_that_takes_too_long_is_given_up(checkpoint: Path) -> None:
    before = children()
    with pytest.raises(EngineTimeout, match="not ready after"):
        ENGINE.start(checkpoint, SETTINGS, Limits(start_s=0.1))
    assert children() == before


def test_a_hang_and_a_death_are_one_clear_line(checkpoint: Path) -> None:
    before = children()
    with ENGINE.start(checkpoint, SETTINGS, Limits(silence_s=0.5)) as hanging:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EngineTimeout, match="silent for 500 ms"):
            hanging.generate(PROMPT, 10)
        assert children() == before
    with ENGINE.start(checkpoint, SETTINGS, Limits()) as dying:
        (pid,) = children() - before
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(EngineCrashed, match="SIGKILL"):
            dying.generate(PROMPT, 1900)
    assert children() == before
