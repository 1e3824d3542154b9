"""An installed `llama-server`: the user's own build, made for their machine and its GPUs."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from weigh.engines.engine import Layout, Limits, Settings
from weigh.engines.http_session import HOST, HttpSession
from weigh.engines.layout import layout_said_by
from weigh.errors import EngineCrashed, EngineMissing

PROGRAM = "llama-server"
_INFO, _TRACE = "3", "4"
_VERSION = re.compile(r"^version: (.+)$", re.MULTILINE)


class LlamaServer:
    """See `weigh.engines.engine.Engine`."""

    name = PROGRAM

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
        command = (*self._command(model, settings), "--fit", "off", "--verbosity", _INFO)
        return HttpSession(command, limits, what=self.name)

    def layout(self, model: Path, settings: Settings) -> Layout:
        """The engine's own figures for memory, before it loads anything; a header-only file is enough.

        The server runs its fit step first and prints a table; it is ended there.
        """
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
            "--load-mode": "mmap" if settings.mmap else "none",
            "--cache-ram": 0,  # prompts kept beside the KV cache would blur the memory measured
            "--sse-ping-interval": -1,  # pings would hide that the engine hangs
        }
        if settings.threads is not None:
            options |= {"--threads": settings.threads, "--threads-batch": settings.threads}
        words = (str(word) for option in options.items() for word in option)
        return (self.path, *words, "--no-kv-unified", "--no-webui")


@lru_cache(maxsize=8)
def _version(path: str) -> str:
    try:
        done = subprocess.run(
            (path, "--version"), capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineCrashed(f"`{path} --version` failed: {error}") from None
    found = _VERSION.search(done.stdout + done.stderr)
    if found is None:
        raise EngineCrashed(f"`{path} --version` does not name a version")
    return f"{PROGRAM} {found[1]}"
