import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.engines.conftest import SETTINGS
from tests.tiny_models import tiny_llama
from weigh.engines.engine import Limits, Session, Settings
from weigh.engines.http_session import HttpSession
from weigh.engines.llama_cpp import TRACE, EmbeddedLlamaCpp, command, parameters
from weigh.errors import BadFile, BadInput, EngineCrashed, EngineError, EngineTimeout, OutOfMemory
from weigh.model.ggml_types import GgmlType
from weigh.synth.gguf import write_gguf
from weigh.units import MIB

ENGINE = EmbeddedLlamaCpp()
PROMPT = range(5, 105)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def load_and_say(model: Path) -> None:
    with ENGINE.start(model, SETTINGS, Limits()) as session:
        assert session.generate(PROMPT, 4).output_tokens == 4


# --- what it does ------------------------------------------------------------------------------------


def test_exactly_the_tokens_asked_for_come_with_their_times(session: Session) -> None:
    made = session.generate(PROMPT, 40)
    assert (made.prompt_tokens, made.cached_tokens, made.output_tokens) == (100, 0, 40)
    assert len(made.token_times_s) == 40
    assert list(made.token_times_s) == sorted(made.token_times_s)
    # the clocks of both sides agree: the first token cannot arrive before the prompt is done
    assert made.token_times_s[0] >= made.prefill_s > 0
    assert made.token_times_s[-1] - made.token_times_s[0] <= made.token_times_s[-1]
    assert made.decode_s > 0


def test_a_prompt_in_the_cache_is_found_only_when_asked_for(session: Session) -> None:
    session.generate(PROMPT, 2)
    again = session.generate(PROMPT, 2, reuse_cache=True)
    assert (again.prompt_tokens, again.cached_tokens) == (1, 99)  # the last token must run for its logits
    fresh = session.generate(PROMPT, 2)
    assert (fresh.prompt_tokens, fresh.cached_tokens) == (100, 0)


def test_a_request_beyond_the_context_is_refused_in_one_line(session: Session) -> None:
    with pytest.raises(BadInput, match=r"3000 tokens.*2048") as refusal:
        session.generate([7] * 3000, 1)
    assert "\n" not in refusal.value.message
    assert session.generate(PROMPT, 2).output_tokens == 2  # and the session lives on


def test_memory_covers_the_file_and_what_is_private(session: Session, model: Path) -> None:
    memory = session.memory()
    kv_cache_bytes = 2 * 2 * 64 * 2 * 2 * 2048  # K and V x 2 heads x 64 x 2 bytes x 2 layers x 2048 tokens
    assert memory.private_bytes > kv_cache_bytes
    assert memory.file_bytes > model.stat().st_size
    assert memory.peak_private_bytes >= memory.private_bytes
    assert memory.peak_bytes >= memory.private_bytes + memory.file_bytes


def test_without_mmap_the_weights_are_private(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    # Q8_0 is not repacked here, so that all weights stay where they were loaded
    size = write_gguf(tiny_llama(vocab=131072, embedding_type=GgmlType.Q8_0), path)
    private = {}
    for mmap in (True, False):
        settings = Settings(context_tokens=256, threads=1, mmap=mmap)
        with ENGINE.start(path, settings, Limits()) as session:
            private[mmap] = session.memory().private_bytes
    assert private[False] - private[True] == pytest.approx(size, rel=0.3)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_K", "Q6_K", "Q3_K", "Q2_K", "IQ4_XS", "MXFP4", "BF16"])
def test_number_formats_load_and_their_logits_are_numbers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    embedding = GgmlType.Q8_0 if kind == "MXFP4" else GgmlType[kind]
    write_gguf(tiny_llama(layers=3, matrix_type=GgmlType[kind], embedding_type=embedding), path)
    with ENGINE.start(path, SETTINGS, Limits()) as session:
        assert isinstance(session, HttpSession)
        request = {
            "prompt": list(PROMPT),
            "n_predict": 3,
            "n_probs": 5,
            "ignore_eos": True,
            "stream": True,
            "timings_per_token": True,
        }
        tokens = [t for e in session._events(request) for t in e.get("completion_probabilities", [])]
    assert tokens
    for token in tokens:
        # of 1024 tokens the likeliest has at least 1/1024 = exp(-6.9); a NaN would come as null
        best = [each["logprob"] for each in token["top_logprobs"]]
        assert 0 >= best[0] >= -7
        assert best == sorted(best, reverse=True)


@pytest.mark.parametrize("architecture", ["llama", "qwen3moe"])
def test_mixtures_of_experts_load_and_generate(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "mixture.gguf"
    write_gguf(tiny_llama(architecture=architecture, experts=8, experts_used=2), path)
    load_and_say(path)


def test_the_memory_it_foretells_is_what_it_takes(slow_model: Path) -> None:
    settings = Settings(context_tokens=4096, parallel=2, threads=1)
    foretold = ENGINE.layout(slow_model, settings)
    loading = command(parameters(slow_model, settings) | {"verbosity": TRACE})
    with HttpSession(loading, Limits(), what="llama.cpp") as session:
        log = "\n".join(session._child.log())
    kv_mib, compute_mib = (
        sum(float(size) for size in re.findall(rf"{kind} buffer size = +([\d.]+) MiB", log))
        for kind in ("KV", "compute")
    )
    # 2 sequences x 4096 tokens x 4 layers x (K and V) x 8 heads x 64 x 2 bytes = 64 MiB
    assert foretold.kv_cache_bytes == kv_mib * MIB == 64 * MIB
    assert foretold.compute_bytes == pytest.approx(compute_mib * MIB, abs=MIB)
    # a table of whole MiB, cut off below: up to one less for each of its two rows
    tensor_bytes = sum(
        t.total_bytes
        for t in tiny_llama(layers=4, hidden=2048, feed_forward=8192, heads=32, kv_heads=8).tensors
    )
    assert tensor_bytes - 2 * MIB <= foretold.weights_bytes <= tensor_bytes + MIB


def test_a_header_is_enough_to_ask_about_a_model_larger_than_memory(tmp_path: Path) -> None:
    giant = tiny_llama(layers=126, hidden=16384, feed_forward=53248, heads=128, kv_heads=8, head_dim=128)
    path = tmp_path / "giant.gguf"
    write_gguf(giant, path, weights=False)
    layout = ENGINE.layout(path, Settings(context_tokens=4096, threads=1))
    assert layout.kv_cache_bytes == 4096 * 126 * 2 * 8 * 128 * 2
    assert layout.weights_bytes == pytest.approx(giant.tensor_bytes, rel=0.001)


def test_two_models_run_side_by_side(model: Path) -> None:
    with ENGINE.start(model, SETTINGS, Limits()) as one, ENGINE.start(model, SETTINGS, Limits()) as two:
        assert one.generate(PROMPT, 3).output_tokens == two.generate(PROMPT, 3).output_tokens == 3


def test_two_requests_at_once_share_a_session(model: Path) -> None:
    settings = Settings(context_tokens=512, parallel=2, threads=1)
    made: list[int] = []
    with ENGINE.start(model, settings, Limits()) as session:
        threads = [
            threading.Thread(target=lambda: made.append(session.generate(PROMPT, 20).output_tokens))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert made == [20, 20]


# --- what goes wrong ---------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[EngineError]) -> bool:
    return "\n" not in error.value.message and "Traceback" not in error.value.message


def test_a_closed_session_leaves_no_process(model: Path) -> None:
    before = children()
    session = ENGINE.start(model, SETTINGS, Limits())
    assert children() > before
    session.close()
    session.close()
    assert children() == before
    with pytest.raises(EngineError):
        session.generate(PROMPT, 1)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadFile, match=r"nowhere\.gguf: cannot be read"):
        ENGINE.start(Path("nowhere.gguf"), SETTINGS, Limits())


@pytest.mark.parametrize(
    ("length", "said"), [(20, "read header"), (400_000, "corrupted or incomplete")], ids=["header", "tensors"]
)
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, model: Path, length: int, said: str) -> None:
    before = children()
    path = tmp_path / "cut.gguf"
    path.write_bytes(model.read_bytes()[:length])
    with pytest.raises(EngineCrashed, match=said) as error:
        ENGINE.start(path, SETTINGS, Limits())
    assert one_line(error)
    with pytest.raises(EngineCrashed) as error:
        ENGINE.layout(path, SETTINGS)
    assert one_line(error)
    assert children() == before


def test_a_killed_engine_is_one_clear_line(slow_model: Path) -> None:
    before = children()
    with ENGINE.start(slow_model, SETTINGS, Limits()) as session:
        (pid,) = children() - before
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(EngineCrashed, match="SIGKILL") as error:
            session.generate(PROMPT, 1900)
        assert one_line(error)
    assert children() == before


def test_an_allocation_beyond_the_limit_is_refused(model: Path) -> None:
    before = children()
    wide = Settings(context_tokens=4 << 20, threads=1)  # x 2 layers x 512 bytes = 4 GiB
    with pytest.raises(OutOfMemory, match=r"limit of 1\.00 GiB") as error:
        ENGINE.start(model, wide, Limits(memory_bytes=1 << 30))
    assert one_line(error)
    assert children() == before


def test_memory_that_grows_past_the_limit_ends_the_engine(model: Path) -> None:
    before = children()
    # 128 MiB of KV cache, which the kernel's own limit lets pass: it allows for stacks and libraries
    wide = Settings(context_tokens=256 << 10, threads=1)
    limits = Limits(memory_bytes=64 << 20)
    with (
        pytest.raises(OutOfMemory, match=r"limit of 64\.0 MiB") as error,
        ENGINE.start(model, wide, limits) as session,
    ):
        session.generate(PROMPT, 1900)
    assert one_line(error)
    assert children() == before


def test_a_start_that_takes_too_long_is_given_up(model: Path) -> None:
    before = children()
    with pytest.raises(EngineTimeout, match="not ready after"):
        ENGINE.start(model, SETTINGS, Limits(start_s=0.001))
    assert children() == before


def test_silence_is_given_up(slow_model: Path) -> None:
    before = children()
    with ENGINE.start(slow_model, SETTINGS, Limits(silence_s=0.2)) as session:
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)  # a hang, as seen from here
        with pytest.raises(EngineTimeout, match="silent for 200 ms"):
            session.generate(PROMPT, 10)
        assert children() == before


PROGRAM = """
import sys
from pathlib import Path
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
with EmbeddedLlamaCpp().start(Path(sys.argv[1]), Settings(context_tokens=2048, threads=1), Limits()) as session:
    print("ready", flush=True)
    session.generate(range(5, 105), 1900)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_engine_goes_when_weigh_goes(slow_model: Path, number: signal.Signals) -> None:
    arguments = [sys.executable, "-c", PROGRAM, str(slow_model)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        (engine,) = psutil.Process(program.pid).children(recursive=True)
        program.send_signal(number)
        assert program.wait(20) != 0
    deadline_s = time.monotonic() + 10
    while engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
