import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.tiny_models import tiny_llama
from weigh.model.gguf import read_gguf
from weigh.synth.files import remove_leftovers, synthetic_file

# a program that writes a synthetic file, says so, and waits inside the block
HOLDER = """
import sys, time
from pathlib import Path
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec, TensorGroup
from weigh.synth import synthetic_file
spec = ModelSpec("held", "llama", 1, 256, 1024, 512, 4096, (),
                 (TensorGroup("token_embd.weight", (256, 1024), GgmlType.Q4_0),), "Q4_0")
with synthetic_file(spec, Path(sys.argv[1])) as path:
    print("ready", flush=True)
    time.sleep(60)
"""


def held_file(folder: Path) -> subprocess.Popen[bytes]:
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    return program


def test_the_file_is_there_inside_the_block_and_gone_after(tmp_path: Path) -> None:
    with synthetic_file(tiny_llama(), tmp_path / "new") as path:
        assert read_gguf(path).layers == 2
    assert not list((tmp_path / "new").iterdir())


def test_an_exception_removes_it_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), synthetic_file(tiny_llama(), tmp_path):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_it_too(tmp_path: Path, number: signal.Signals) -> None:
    with held_file(tmp_path) as program:
        assert len(list(tmp_path.iterdir())) == 1
        program.send_signal(number)
        assert program.wait(20) != 0
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_removed_by_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    other = tmp_path / "someones-model.gguf"
    other.touch()
    with held_file(tmp_path) as program:
        assert remove_leftovers(tmp_path) == 0  # it is in use
        program.kill()
    assert remove_leftovers(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [other]


def test_the_handling_of_sigterm_is_as_before_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with synthetic_file(tiny_llama(), tmp_path):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_works_in_a_thread_where_no_handler_may_be_set(tmp_path: Path) -> None:
    sizes: list[int] = []

    def write() -> None:
        with synthetic_file(tiny_llama(), tmp_path) as path:
            sizes.append(path.stat().st_size)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert len(sizes) == 1
