"""What goes wrong in a benchmark ends in one line and an exit code, keeps what was measured, and leaves nothing.

The real command in a process of its own, on the real engine; where a real one cannot be made to fail as wanted,
`stand_in_server.py` speaks its protocol.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.machine.conftest import Group, control_group
from tests.tiny_models import tiny_llama
from weigh.store import Store
from weigh.store.ledger import runs
from weigh.store.measurement import Measurement, measurements
from weigh.synth import write_gguf
from weigh.units import MIB

# the command as it is, but telling each stage in a line
PROGRAM = """
import sys
from weigh.cli import main, render
def told(self, stage, done):
    print("stage:", stage, file=sys.stderr, flush=True)
render.ProgressLine.__call__ = told
sys.exit(main(sys.argv[1:]))
"""
__all__ = ["control_group"]  # a fixture

LONG_S = 600  # a machine may stand still for minutes
QUICK = ("--no-calibrate", "--threads", "1", "--starts", "1", "--max-time", "1s")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some milliseconds a token, so that there is time to interfere."""
    path = tmp_path_factory.mktemp("models") / "slow.gguf"
    write_gguf(tiny_llama(layers=4, hidden=1024, feed_forward=4096, heads=16, kv_heads=8), path)
    return path


@dataclass
class Command:
    """A running `weigh`, and the folder that all it writes lies in."""

    process: subprocess.Popen[str]
    folder: Path
    told: list[str] = field(default_factory=list)
    engines: set[psutil.Process] = field(default_factory=set)

    def wait_for(self, stage: str) -> None:
        """Until it says that it is at a stage; its engines are remembered."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told.append(line.rstrip())
            self.note_engines()
            if stage in line:
                return
        pytest.fail(f"`{stage}` never came: {self.told}")

    def note_engines(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.engines |= set(psutil.Process(self.process.pid).children(recursive=True))

    def engine(self) -> psutil.Process | None:
        """One that is running, once there is one; None when the command is over before."""
        while self.process.poll() is None:
            self.note_engines()
            for one in self.engines:
                with suppress(psutil.NoSuchProcess):
                    if one.status() != psutil.STATUS_ZOMBIE:
                        return one
            time.sleep(0.01)
        return None

    def end(self) -> tuple[int, str, list[str]]:
        """Exit code, standard output, and what it said besides its stages."""
        out, err = self.process.communicate(timeout=LONG_S)
        said = [line for line in [*self.told, *err.splitlines()] if not line.startswith("stage:")]
        return self.process.returncode, out, said

    def kept(self) -> Measurement:
        (found,) = measurements(Store(self.folder / "weigh.db"))
        return found

    def assert_nothing_is_left(self) -> None:
        """No engine, no probe or scratch file, nothing in the temporary folder."""
        _, alive = psutil.wait_procs(list(self.engines), timeout=10)
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
        assert [path for path in (self.folder / "cache").rglob("*") if path.is_file()] == []
        assert list((self.folder / "tmp").iterdir()) == []
        assert {path.name for path in self.folder.iterdir()} <= {"cache", "tmp", "weigh.db", "server"}


@contextmanager
def weigh(folder: Path, *arguments: str, **environment: str) -> Iterator[Command]:
    (folder / "tmp").mkdir(exist_ok=True)
    own = {
        "WEIGH_STORE": str(folder / "weigh.db"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "WEIGH_ENGINE": "embedded",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | own | environment,
    )
    try:
        yield Command(process, folder)
    finally:
        process.kill()
        process.communicate()


def stand_in(folder: Path) -> str:
    script = folder / "server"
    text = Path(__file__).with_name("stand_in_server.py").read_text()
    script.write_text(f"#!{sys.executable}\n{text}")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


# --- the engine fails --------------------------------------------------------------------------------


def test_an_engine_that_is_killed_while_it_generates(tmp_path: Path, model: Path) -> None:
    with weigh(tmp_path, "bench", str(model), *QUICK, "--output", "3000") as command:
        command.wait_for("decode of 3,000")
        engine = command.engine()
        assert engine is not None
        engine.kill()
        code, out, said = command.end()
    assert code == 3
    assert said[-1] == "weigh: llama.cpp was ended by SIGKILL"
    kept = command.kept()
    assert {one.name for one in kept.measured} >= {"load_cached_s"}  # what was measured before
    assert kept.problems[-1] == "ended early: llama.cpp was ended by SIGKILL"
    assert kept.id[:8] in out
    command.assert_nothing_is_left()


def test_an_engine_over_its_memory_limit(tmp_path: Path, model: Path) -> None:
    """One sequence fits; the caches of 64 do not."""
    limits = ("--memory-limit", "150M", "--parallel", "1,64", "--output", "4", "--prompt", "16")
    with weigh(tmp_path, "bench", str(model), *QUICK, *limits) as command:
        code, out, said = command.end()
    assert code == 3
    assert said[-1] == "weigh: llama.cpp needs more memory than the limit of 0.15 GiB"
    kept = command.kept()
    assert {one.conditions.get("parallel", 1) for one in kept.measured} == {1}
    assert {one.name for one in kept.measured} >= {"decode_tokens_per_s", "ttft_s", "peak_memory_bytes"}
    assert "decode tokens/s" in out
    (run,) = runs(Store(tmp_path / "weigh.db"))
    assert run.decode_tokens_per_s.measured
    command.assert_nothing_is_left()


def test_an_engine_that_the_kernel_kills_for_lack_of_memory(
    tmp_path: Path, model: Path, control_group: Group
) -> None:
    """The kernel's own killer, in a memory group that the stand-in joins before it takes more and more."""
    limit = str(100 * MIB)
    swap = {"memory.memsw.limit_in_bytes": limit, "memory.swap.max": "0"}
    group = control_group({"memory.limit_in_bytes": limit, "memory.max": limit} | swap)
    given = {"WEIGH_ENGINE": stand_in(tmp_path), "STAND_IN": "eat", "GROUP": str(group / "cgroup.procs")}
    with weigh(tmp_path, "bench", str(model), *QUICK, **given) as command:
        command.wait_for("decode")
        command.engine()
        code, out, said = command.end()
    assert code == 3
    assert said[-1] == "weigh: llama-server was killed by the system for lack of memory"
    assert {"load_cached_s", "tpot_s"} <= {one.name for one in command.kept().measured}
    assert "decode tokens/s" in out
    command.assert_nothing_is_left()


def test_an_engine_that_hangs_at_load(tmp_path: Path, model: Path) -> None:
    engine = stand_in(tmp_path)
    with weigh(
        tmp_path, "bench", str(model), *QUICK, "--timeout", "1s", WEIGH_ENGINE=engine, STAND_IN="hang at load"
    ) as command:
        command.wait_for("loading")
        command.engine()
        code, out, said = command.end()
    assert (code, out) == (3, "")
    assert said[-1] == "weigh: llama-server was not ready after 1.0 s"
    assert measurements(Store(tmp_path / "weigh.db")) == []
    command.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("how", "line"),
    [("hang", "llama-server was silent for 1.0 s"), ("die", "llama-server ended with status 7")],
)
def test_an_engine_that_hangs_or_dies_in_the_middle_of_an_answer(
    tmp_path: Path, model: Path, how: str, line: str
) -> None:
    engine = stand_in(tmp_path)
    with weigh(
        tmp_path, "bench", str(model), *QUICK, "--timeout", "1s", WEIGH_ENGINE=engine, STAND_IN=how
    ) as command:
        command.wait_for("decode")
        command.engine()
        code, out, said = command.end()
    assert code == 3
    assert said[-1] == f"weigh: {line}"
    kept = command.kept()
    assert {"load_cached_s", "tpot_s"} <= {one.name for one in kept.measured}  # one answer came whole
    assert kept.problems[-1] == f"ended early: {line}"
    assert "not to be trusted: ended early" in out
    command.assert_nothing_is_left()


def test_a_port_that_is_taken(tmp_path: Path, model: Path) -> None:
    engine = stand_in(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with weigh(
            tmp_path, "bench", str(model), *QUICK, WEIGH_ENGINE=engine, STAND_IN="port taken", TAKEN_PORT=port
        ) as command:
            code, out, said = command.end()
    assert (code, out) == (3, "")
    assert said[-1].startswith("weigh: llama-server: OSError")
    assert "Address already in use" in said[-1]
    command.assert_nothing_is_left()


# --- two at once, and Ctrl-C -------------------------------------------------------------------------


def test_two_at_once_would_measure_each_other(tmp_path: Path, model: Path) -> None:
    with weigh(tmp_path, "bench", str(model), *QUICK, "--output", "20000") as first:
        first.wait_for("decode")
        with weigh(tmp_path, "bench", str(model), *QUICK) as second:
            code, out, said = second.end()
        assert (code, out) == (3, "")
        assert said[-1].startswith("weigh: another benchmark is running on this machine")
        first.process.send_signal(signal.SIGINT)
        assert first.end()[0] == 130
    assert first.kept().problems[-1] == "interrupted"
    first.assert_nothing_is_left()
    with weigh(tmp_path, "bench", str(model), *QUICK, "--output", "4", "--prompt", "8") as third:
        assert third.end()[0] == 0  # the lock went with its holder


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ("loading", None),
        ("decode of 3,000 tokens, 3 at once", "load_cached_s"),
        ("decode of 3,000", "load_cached_s"),
        ("prefill of 3,000", "decode_tokens_per_s"),
    ],
)
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, model: Path, stage: str, kept: str | None) -> None:
    asked = ("--output", "3000") if kept != "decode_tokens_per_s" else ("--output", "4", "--prompt", "3000")
    asked = (*asked, "--parallel", "3") if "at once" in stage else asked
    with weigh(tmp_path, "bench", str(model), *QUICK, *asked, "--context", "4096") as command:
        command.wait_for(stage)
        command.engine()
        command.process.send_signal(signal.SIGINT)
        code, out, said = command.end()
    assert code == 130
    assert said[-1] == "interrupted"
    if kept is None:
        assert out == ""
        assert measurements(Store(tmp_path / "weigh.db")) == []
    else:
        found = command.kept()
        assert kept in {one.name for one in found.measured}
        assert found.problems[-1] == "interrupted"
        assert "not to be trusted: interrupted" in out
    command.assert_nothing_is_left()
