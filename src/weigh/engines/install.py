"""Install an engine into a virtual environment of its own, and remove it again.

`uv` does it where it is on PATH, else pip. What is interrupted or fails is removed; what could not be removed
(a killed weigh, a machine switched off) is known by its receipt and made anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from weigh import units
from weigh.engines.environments import Environment, Receipt
from weigh.engines.recipes import Recipe
from weigh.errors import BadInput, EngineCrashed, NoSpace

Progress = Callable[[str, float], None]
_HAS_PIP = find_spec("pip") is not None
CHECK_S = 600.0  # importing vLLM takes half a minute, on a busy machine more
_SPARE_BYTES = 256 * units.MIB  # a file system that is full to the last byte helps nobody
_REQUIRED = "import importlib.metadata as m, json, sys; print(json.dumps(m.requires(sys.argv[1]) or []))"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_FOUND = re.compile(r"No matching distribution|no version of|was not found in the", re.I)
_FRAME = str.maketrans("", "", "╰─▶×│├")  # uv draws
_MOST_LETTERS = 300
_NO_ROOM = re.compile(r"No space left on device|os error 28|Disk quota exceeded", re.I)
_SAYS_WHAT = re.compile(r"^\s*(Collecting|Downloading|Installing|Building|Prepared|Resolved) (.*)$")


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes an installation takes beside what there is, on the file system that is shortest of it."""

    folder: Path
    needed_bytes: int
    free_bytes: int

    @property
    def enough(self) -> bool:
        return self.free_bytes >= self.needed_bytes + _SPARE_BYTES


def room(recipe: Recipe) -> Room:
    """Looked up before anything is written: packages go to the environment, downloads to temporary files."""
    folder = _existing(Environment(recipe.engine).folder)
    downloads = Path(tempfile.gettempdir())
    together = folder.stat().st_dev == downloads.stat().st_dev
    here = Room(
        folder,
        recipe.disk_bytes + (recipe.download_bytes if together else 0),
        shutil.disk_usage(folder).free,
    )
    there = Room(downloads, recipe.download_bytes, shutil.disk_usage(downloads).free)
    return here if together else min(here, there, key=lambda one: one.free_bytes - one.needed_bytes)


def add(recipe: Recipe, *, progress: Progress = lambda stage, done: None) -> Environment:
    """Install what `recipe` says, unless it is there and whole.

    Raises:
        NoSpace: the disk is too small for it.
        BadInput: its folder holds something else, or another weigh is at work there.
        EngineCrashed: a step failed, or what came out does not run.
    """
    environment = Environment(recipe.engine)
    with _alone(environment.folder.parent):
        if environment.usable:
            return environment
        _refuse_others_folder(environment)
        found = room(recipe)
        if not found.enough:
            raise NoSpace(
                f"{recipe.title} takes {units.gib(found.needed_bytes)}, and {found.folder} has only"
                f" {units.gib(found.free_bytes)} free"
            )
        _clear(environment)
        began_s = time.monotonic()
        try:
            environment.folder.mkdir(exist_ok=True)
            environment.write(Receipt(recipe.engine))
            _Making(environment, recipe, progress).all_of_it()
            size_bytes = _size_bytes(environment.folder)
            took_s = time.monotonic() - began_s
            environment.write(Receipt(recipe.engine, True, recipe.asked_for, size_bytes, took_s))
        except OSError as error:
            _clear(environment)
            raise _problem(recipe, str(error)) from None
        except BaseException:
            _clear(environment)
            raise
    return environment


def remove(name: str) -> int:
    """Remove the environment of an engine; the bytes it took, 0 when there was none.

    Raises:
        BadInput: its folder holds something that weigh did not make, another weigh is at work there, or it may
            not be removed.
    """
    environment = Environment(name)
    if not environment.folder.exists():
        return 0
    with _alone(environment.folder.parent):
        _refuse_others_folder(environment)
        size_bytes = _size_bytes(environment.folder)
        try:
            environment.write(Receipt(name))  # not whole from now on, however this ends
            _clear(environment)
        except OSError as error:
            raise BadInput(f"{environment.folder} cannot be removed: {error.strerror}") from None
        return size_bytes


class _Making:
    """The steps, each a program whose last lines explain its failure."""

    def __init__(self, environment: Environment, recipe: Recipe, progress: Progress) -> None:
        self._environment, self._recipe, self._progress = environment, recipe, progress
        self._uv = shutil.which("uv")
        self._free_bytes = shutil.disk_usage(environment.folder).free
        self._stage = ""

    def all_of_it(self) -> None:
        recipe, python = self._recipe, str(self._environment.python)
        self._say("making the environment")
        base = getattr(sys, "_base_executable", sys.executable)  # not of weigh's own environment
        folder = str(self._environment.folder)
        if self._uv:
            self._run((self._uv, "venv", "--allow-existing", "--no-project", "--python", base, folder))
        else:
            # weigh's own pip serves another environment as well; one of its own takes three seconds to make
            self._run((base, "-m", "venv", *(("--without-pip",) if _HAS_PIP else ()), folder))
        if recipe.torch:
            self._torch(recipe.torch)
        if recipe.without:
            first, *others = recipe.packages
            self._install("--no-deps", first)
            package = _NAME.match(first)
            assert package is not None
            required = json.loads(self._run((python, "-I", "-c", _REQUIRED, package[0]))[-1])
            self._install(*others, *kept(required, recipe.without))
            self._know_as(recipe, package[0])
        else:
            self._install(*recipe.packages)
        if recipe.unneeded:
            self._uninstall(*recipe.unneeded)
        self._say("seeing whether it runs")
        self._run((python, "-I", "-c", recipe.check), limit_s=CHECK_S)

    def _torch(self, package: str) -> None:
        """The build for the processor, from the places pip or uv is set up for. Where pip's have none, their usual
        build, which runs as well and is some gigabytes larger."""
        try:
            self._install(package)
        except EngineCrashed as error:
            if not _NOT_FOUND.search(error.message):
                raise
            usual = package.removesuffix("+cpu")
            self._install(*(("--torch-backend", "cpu", package) if self._uv else (usual,)))

    def _install(self, *words: str) -> None:
        own = () if self._uv else ("--no-input", "--progress-bar", "off")
        self._packages("install", *own, *words)

    def _uninstall(self, *names: str) -> None:
        self._packages("uninstall", *(() if self._uv else ("--yes",)), *names)

    def _packages(self, verb: str, *words: str) -> None:
        python = str(self._environment.python)
        if self._uv:
            self._run((self._uv, "pip", verb, "--python", python, *words))
        else:
            pip = (sys.executable, "-m", "pip", "--python", python) if _HAS_PIP else (python, "-m", "pip")
            self._run((*pip, "--disable-pip-version-check", verb, *words))

    def _know_as(self, recipe: Recipe, package: str) -> None:
        """A distribution of metadata alone, which the program asks for its version."""
        version = self._environment.version(package.replace("-", "_"))
        assert version is not None
        for packages in self._environment.package_folders():
            folder = packages / f"{recipe.known_as}-{version}+cpu.dist-info"
            folder.mkdir(exist_ok=True)
            metadata = f"Metadata-Version: 2.1\nName: {recipe.known_as}\nVersion: {version}+cpu\n"
            (folder / "METADATA").write_text(metadata, encoding="utf-8")
            (folder / "INSTALLER").write_text("weigh\n", encoding="utf-8")

    def _run(self, command: Sequence[str], *, limit_s: float | None = None) -> list[str]:
        """Its last lines.

        Raises:
            EngineCrashed: it failed, or took longer than `limit_s`.
            NoSpace: it failed because the disk is full.
        """
        lines: deque[str] = deque(maxlen=40)
        with _running(command) as process:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            began_s, rest, ended = time.monotonic(), b"", False
            while not ended:
                ended = process.poll() is not None  # asked before reading: what it wrote last is still read
                rest = self._read(process, rest, lines)
                self._say(self._stage)
                if limit_s is not None and time.monotonic() - began_s > limit_s:
                    raise EngineCrashed(
                        f"{self._recipe.title} was installed, and did not start in {units.seconds(limit_s)}"
                    )
            if process.returncode:
                raise _problem(self._recipe, _reason(lines), "\n".join(lines))
        return list(lines)

    def _read(self, process: subprocess.Popen[bytes], rest: bytes, lines: deque[str]) -> bytes:
        import select

        assert process.stdout is not None
        select.select([process.stdout], [], [], 0.2)
        read = process.stdout.read() or b""
        *whole, rest = (rest + read).split(b"\n")
        if not read and rest:  # a prompt, or the end
            whole, rest = [*whole, rest], b""
        for raw in whole:
            line = raw.decode(errors="replace").rstrip()
            if line:
                lines.append(line)
            if found := _SAYS_WHAT.match(line):
                self._stage = f"{found[1].lower()} {found[2]}"[:60]
        return rest

    def _say(self, stage: str) -> None:
        """Done: the share of the disk that has been taken, of what it took elsewhere."""
        self._stage = stage
        taken_bytes = self._free_bytes - shutil.disk_usage(self._environment.folder).free
        self._progress(stage, min(0.99, max(0.0, taken_bytes / self._recipe.disk_bytes)))


def kept(required: Sequence[str], without: frozenset[str]) -> list[str]:
    """Requirements as metadata list them, without those named and those of extras."""
    found = []
    for one in required:
        name = _NAME.match(one)
        marker = one.partition(";")[2]
        if name and name[0].lower().replace("_", "-") not in without and "extra ==" not in marker:
            found.append(one)
    return found


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with weigh, and with all it started when it is not done."""
    launcher = Path(__file__).with_name("launch.py")
    process = subprocess.Popen(
        (sys.executable, "-I", "-S", launcher, str(os.getpid()), "0", *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C at the terminal is weigh's to handle
        env=_environment(),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _environment() -> dict[str, str]:
    """Without what is set for weigh's own Python, and with packages going where they are told to go."""
    own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in own} | {"PIP_USER": "0"}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One weigh at a time; the lock ends with the process, and nothing is left of it."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BadInput(f"{folder} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"another weigh is at work in {folder}", hint="wait until it is done") from None
    except OSError as error:  # some network file systems have no locks
        raise BadInput(f"{folder} cannot be locked: {error.strerror}") from None
    else:
        yield
    finally:
        os.close(held)


def _refuse_others_folder(environment: Environment) -> None:
    folder = environment.folder
    if environment.receipt is not None or not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise BadInput(
            f"{folder} is there and was not made by weigh", hint="WEIGH_ENGINES names another place"
        )


def _clear(environment: Environment) -> None:
    """The receipt goes last, so that what is left of a removal that was broken off is known for weigh's own."""
    folder = environment.folder
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name == "weigh.json":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(folder)


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return folder if folder.is_dir() else _existing(folder.parent)


def _size_bytes(folder: Path) -> int:
    """On the disk, each file once."""
    seen: dict[tuple[int, int], int] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            found = (Path(where) / name).lstat()
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def _reason(lines: Sequence[str]) -> str:
    """From the last line that says what was wrong to the end: uv explains itself below it."""
    said = list(lines) or ["it said nothing"]
    errors = [n for n, line in enumerate(said) if re.match(r"\s*(ERROR|error|\w*Error)\b", line)]
    return " ".join(" ".join(said[errors[-1] if errors else -1 :]).translate(_FRAME).split())[:_MOST_LETTERS]


def _problem(recipe: Recipe, reason: str, said: str = "") -> EngineCrashed | NoSpace:
    if _NO_ROOM.search(said or reason):
        return NoSpace(f"the disk became full while {recipe.title} was installed; nothing of it is left")
    return EngineCrashed(f"{recipe.title} could not be installed: {reason}")
