"""llama.cpp inside a Python package (xllamacpp): the engine that everybody has."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.engines.engine import HOST, Layout, Limits, Settings
from weigh.engines.packages import package_version
from weigh.errors import EngineMissing

if TYPE_CHECKING:
    from weigh.engines.http_session import HttpSession

_PACKAGE = "xllamacpp"
_LOAD_WHOLE, _LOAD_MAPPED = 0, 1  # llama.h `enum llama_load_mode`
INFO, TRACE = 3, 4
# As its own system info prints for the x86-64 and arm64 wheels on PyPI.
_BUILT_FOR = frozenset({"AVX2", "FMA", "F16C", "NEON", "DOTPROD", "I8MM"})


class EmbeddedLlamaCpp:
    """See `weigh.engines.engine.Engine`."""

    name = "llama.cpp"
    takes = "gguf"

    def version(self) -> str:
        version = package_version(_PACKAGE)
        if version is None:
            raise EngineMissing(f"the package `{_PACKAGE}` is not installed", hint=f"pip install {_PACKAGE}")
        return f"{_PACKAGE} {version}"

    def start(self, model: Path, settings: Settings, limits: Limits) -> HttpSession:
        """Load `model` in a child process and wait until it answers."""
        from weigh.engines.http_session import HttpSession, require_file

        self.version()
        require_file(model)
        return HttpSession(command(parameters(model, settings)), limits, what=self.name)

    def cpu_features(self, instruction_sets: Sequence[str]) -> tuple[str, ...]:
        """One build for every machine: x86 wheels stop at AVX2."""
        return tuple(name for name in instruction_sets if name in _BUILT_FOR)

    def layout(self, model: Path, settings: Settings) -> Layout:
        """The engine's own figures for memory, without allocating; a header-only file is enough.

        llama.cpp's fit step lays out model, KV cache and compute buffers and prints a table. What it
        would do next (here: stop at a check, since nothing was allocated) is not waited for.

        Raises:
            EngineError: the engine does not take the model, or says nothing of memory.
        """
        from weigh.engines.http_session import require_file
        from weigh.engines.layout import layout_said_by

        self.version()
        require_file(model)
        ask = {"fit_params": True, "no_alloc": True, "verbosity": TRACE}
        return layout_said_by(command(parameters(model, settings) | ask), what=self.name)


def command(parameters: dict[str, object]) -> tuple[str, ...]:
    """`-P` keeps this folder out of the child's import path."""
    script = Path(__file__).with_name("xllamacpp_child.py")
    return (sys.executable, "-P", str(script), json.dumps(parameters))


def parameters(model: Path, settings: Settings) -> dict[str, object]:
    """Names of `xllamacpp.CommonParams`, which are those of llama.cpp's `common_params`."""
    given: dict[str, object] = {
        "model.path": str(model),
        "hostnames": [HOST],
        "port": 0,  # any free one
        "n_ctx": settings.context_tokens * settings.parallel,  # shared out among the sequences
        "n_parallel": settings.parallel,
        "n_batch": settings.batch_tokens,
        "n_ubatch": settings.ubatch_tokens,
        "cache_type_k": settings.kv_type_k.id,
        "cache_type_v": settings.kv_type_v.id,
        "load_mode": _LOAD_MAPPED if settings.mmap else _LOAD_WHOLE,
        "fit_params": False,
        "cache_ram_mib": 0,  # prompts kept beside the KV cache would blur the memory measured
        "sse_ping_interval": -1,  # pings would hide that the engine hangs
        "ui": False,
        "verbosity": INFO,
    }
    if settings.threads is not None:
        given["cpuparams.n_threads"] = settings.threads
        given["cpuparams_batch.n_threads"] = settings.threads
    return given
