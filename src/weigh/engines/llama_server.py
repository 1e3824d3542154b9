"""An installed `llama-server`: the user's own build, made for their machine and its GPUs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.engines.engine import HOST, Layout, Limits, Settings
from weigh.errors import EngineCrashed, EngineMissing, NotSupported

if TYPE_CHECKING:
    from weigh.engines.http_session import HttpSession

PROGRAM = "llama-server"
_TRACE = "4"
_VERSION = re.compile(r"^version: (.+)$", re.MULTILINE)


class LlamaServer:
    """See `weigh.engines.engine.Engine`."""

    name = PROGRAM
    takes = "gguf"

    def __init__(self, program: Path | str = PROGRAM) -> None:
        """`program` is a path, or a name that is looked up on PATH when it is needed."""
        self._program = str(program)

    @property
    def path(self) -> str:
        found = shutil.which(self._program)
        if found is None:
            raise EngineMissing(f"`{self._program}` is not an installed program")
        return found

    def version(self) -> str:
        return _version(self.path)

    def start(self, model: Path, settings: Settings, limits: Limits) -> HttpSession:
        """Load `model` in a child process and wait until it answers."""
        from weigh.engines.http_session import HttpSession, require_file

        require_file(model)
        command = (*self._command(model, settings), *self._if_known("--fit", "off"))
        return HttpSession(command, limits, what=self.name)

    def cpu_features(self, instruction_sets: Sequence[str]) -> tuple[str, ...]:
        """Taken for built for this machine, or picking its kernels when it starts."""
        return tuple(instruction_sets)

    def layout(self, model: Path, settings: Settings) -> Layout:
        """The engine's own figures for memory, before it loads anything; a header-only file is enough.

        The server runs its fit step first and prints a table; it is ended there.

        Raises:
            NotSupported: this llama-server is from before December 2025 and has no such step.
        """
        from weigh.engines.http_session import require_file
        from weigh.engines.layout import layout_said_by

        require_file(model)
        if not self._if_known("--fit"):
            raise NotSupported(f"{self.version()} cannot say how much memory it would take")
        command = (*self._command(model, settings), "--fit", "on", "--verbosity", _TRACE)
        return layout_said_by(command, what=self.name)

    def _command(self, model: Path, settings: Settings) -> tuple[str, ...]:
        options = {
            "--model": model,
            "--host": HOST,
            "--port": 0,  # any free one
            "--ctx-size": settings.context_tokens * settings.parallel,  # shared out among the sequences
            "--parallel": settings.parallel,
            "--batch-size": settings.batch_tokens,
            "--ubatch-size": settings.ubatch_tokens,
            "--cache-type-k": settings.kv_type_k.name.lower(),
            "--cache-type-v": settings.kv_type_v.name.lower(),
        }
        if settings.threads is not None:
            options |= {"--threads": settings.threads, "--threads-batch": settings.threads}
        words = (str(word) for option in options.items() for word in option)
        return (
            self.path,
            *words,
            *self._loading(settings),
            *self._if_known("--cache-ram", "0"),  # prompts kept beside the KV cache blur the memory measured
            *self._if_known("--sse-ping-interval", "-1"),  # pings would hide that the engine hangs
            *self._if_known("--no-kv-unified"),
            *self._if_known("--device", "none"),  # the processor is what is calibrated and estimated here
            *self._if_known("--no-webui"),
        )

    def _loading(self, settings: Settings) -> tuple[str, ...]:
        """Newer servers have modes, older ones a switch."""
        mode = self._if_known("--load-mode", "mmap" if settings.mmap else "none")
        return mode or (() if settings.mmap else ("--no-mmap",))

    def _if_known(self, *option: str) -> tuple[str, ...]:
        """The option when this build has it: it is left out where older ones would refuse to start."""
        return option if re.search(rf"(?<![\w-]){option[0]}(?![\w-])", _help(self.path)) else ()


def _version(path: str) -> str:
    found = _VERSION.search(_output(path, "--version"))
    if found is None:
        raise EngineCrashed(f"`{path} --version` does not name a version")
    return f"{PROGRAM} {found[1]}"


def _help(path: str) -> str:
    return _output(path, "--help")


@lru_cache(maxsize=8)
def _output(path: str, option: str) -> str:
    """What the program prints about itself.

    Raises:
        EngineCrashed: it does not run.
    """
    try:
        done = subprocess.run(
            (path, option), capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineCrashed(f"`{path} {option}` failed: {error}") from None
    return done.stdout + done.stderr
