"""Every engine weigh knows: whether it is found here, in which version, where, and how to get it.

Nothing heavy is imported for it: versions of packages are read off their metadata, programs are asked for
theirs in a child process, servers by one request; all at once, and none is waited for longer than `LIMIT_S`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from weigh.engines.endpoint import Endpoint
from weigh.engines.environments import Environment
from weigh.engines.ollama import VARIABLE, server_url
from weigh.engines.packages import package_version
from weigh.errors import EngineError, Unreachable, WeighError

LIMIT_S = 5.0
_SPEED = ("load", "TTFT", "prefill", "decode", "memory")
_SERVED = ("TTFT", "decode")


@dataclass(frozen=True, slots=True)
class Known:
    """An engine as it stands on this machine.

    Attributes:
        found: None for what is reached by URL alone: there is nothing to look for.
        version: as it says itself; "" when it does not.
        where: a path, an address, or the package it is part of.
        takes: the models it runs.
        measures: what weigh measures with it.
        get: how to get it, a command where one does it; "" when it is found.
        problem: why one that is there does not serve, or why it was not found.
    """

    name: str
    what: str
    takes: str
    measures: tuple[str, ...]
    found: bool | None = False
    version: str = ""
    where: str = ""
    get: str = ""
    problem: str = ""


def known_engines() -> list[Known]:
    """All of them, those started here first."""
    looks: tuple[Callable[[], Known], ...] = (
        _embedded,
        _llama_server,
        _llama_bench,
        _transformers,
        _vllm,
        _ollama,
        _openai,
        _tf_serving,
    )
    with ThreadPoolExecutor(len(looks)) as pool:
        return list(pool.map(lambda look: look(), looks))


def _embedded() -> Known:
    one = Known("llama.cpp", "llama.cpp inside weigh (xllamacpp)", "GGUF", (*_SPEED, "layout"))
    version = package_version("xllamacpp")
    if version is None:
        return replace(one, get="pip install xllamacpp")
    return replace(one, found=True, version=f"xllamacpp {version}", where="package xllamacpp")


def _llama_server() -> Known:
    from weigh.engines.llama_server import PROGRAM

    one = Known(PROGRAM, "llama.cpp's server, yours", "GGUF", (*_SPEED, "layout"))
    return _program(one, PROGRAM, "--version", get="llama.cpp's package or build, with llama-server on PATH")


def _llama_bench() -> Known:
    one = Known("llama-bench", "llama.cpp's own benchmark", "GGUF", ("its results, imported",))
    return _program(one, "llama-bench", "", get="comes with llama.cpp's package or build")


def _transformers() -> Known:
    from weigh.engines.transformers import Transformers

    one = Known(
        "transformers",
        "Hugging Face transformers on PyTorch",
        "safetensors",
        _SPEED,
        get="weigh engines add transformers",
    )
    return _engine(one, Transformers(), lambda engine: engine.python)


def _vllm() -> Known:
    from weigh.engines.vllm import Vllm

    one = Known("vllm", "vLLM's server", "safetensors", _SPEED, get="weigh engines add vllm")
    return _engine(one, Vllm(), lambda engine: engine.path)


def _engine(one: Known, engine: Any, where: Callable[[Any], str]) -> Known:
    environment = Environment(one.name)
    try:
        version = engine.version()
    except EngineError as error:
        broken = environment.problem
        return replace(one, problem=f"{environment.folder}: {broken}" if broken else error.message)
    return replace(one, found=True, version=version, where=where(engine), get="")


def _ollama() -> Known:
    one = Known("ollama", "Ollama's server, yours", "GGUF, by its names", _SPEED)
    get = "Ollama's own installer, then `ollama serve`; OLLAMA_HOST names a server elsewhere"
    host = VARIABLE
    try:
        host = server_url()
        answer = Endpoint(host, connect_s=1.0, silence_s=LIMIT_S).get("/api/version")
    except Unreachable:
        installed = shutil.which("ollama")
        problem = f"no server answers at {host}" + (f", but {installed} is here" if installed else "")
        return replace(one, problem=problem, get=get)
    except WeighError as error:
        return replace(one, problem=error.message, get=get)
    return replace(one, found=True, version=f"ollama {_said(answer)}", where=host)


def _openai() -> Known:
    return Known(
        "openai",
        "any server that speaks OpenAI's protocol",
        "whatever it serves",
        _SERVED,
        found=None,
        get="weigh bench URL",
    )


def _tf_serving() -> Known:
    one = Known("tf-serving", "TensorFlow Serving", "SavedModel", ("predict requests",))
    return _program(
        one,
        "tensorflow_model_server",
        "--version",
        get="TensorFlow's own packages or container image; weigh bench URL --engine tf-serving",
    )


def _program(one: Known, program: str, option: str, *, get: str) -> Known:
    """A program on PATH; `option` makes it print its version, "" where it has none."""
    path = shutil.which(program)
    if path is None:
        return replace(one, get=get, problem=f"no `{program}` on PATH")
    if not option:
        return replace(one, found=True, where=path)
    try:
        done = subprocess.run(
            (path, option), capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return replace(
            one, where=path, problem=f"`{program} {option}` did not end in {LIMIT_S:.0f} s", get=get
        )
    except OSError as error:
        return replace(one, where=path, problem=f"does not run: {error.strerror}", get=get)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "version" in line.lower()]
    if not lines:
        return replace(one, where=path, problem=f"`{program} {option}` does not name a version", get=get)
    return replace(one, found=True, version=lines[0].strip()[:80], where=path)


def _said(answer: Any) -> str:
    """A version, from a server that may be anybody's."""
    version = answer.get("version") if isinstance(answer, dict) else None
    return version[:40] if isinstance(version, str) and version.isprintable() else "of unknown version"
