"""Programs that run models, each in a child process behind the interface of `engine.py`.

`WEIGH_ENGINE` chooses one: ``embedded``, ``llama-server``, or the path of a llama-server. Without it, a
llama-server on PATH comes first, because it is what its owner runs; docs/engines.md says more. Engines for
checkpoints run only when they are named.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from shutil import which

from weigh.engines.engine import Engine
from weigh.errors import EngineMissing, UnknownName

VARIABLE = "WEIGH_ENGINE"
NAMES = ("llama.cpp", "llama-server", "transformers", "vllm")


def engine_named(name: str) -> Engine:
    """One of `NAMES`; whether it is installed shows when it is asked for its version.

    Raises:
        UnknownName: no such engine.
    """
    from weigh.engines.llama_cpp import EmbeddedLlamaCpp
    from weigh.engines.llama_server import LlamaServer
    from weigh.engines.transformers import Transformers
    from weigh.engines.vllm import Vllm

    known = {engine.name: engine for engine in (EmbeddedLlamaCpp, LlamaServer, Transformers, Vllm)}
    if name not in known:
        from difflib import get_close_matches

        raise UnknownName(
            "engine", name, close=get_close_matches(name, NAMES), hint=f"one of {', '.join(NAMES)}"
        )
    return known[name]()


def engines() -> list[Engine]:
    """The engines for GGUF files found here, the one that serves best first."""
    from weigh.engines.llama_cpp import EmbeddedLlamaCpp
    from weigh.engines.llama_server import PROGRAM, LlamaServer

    found: list[Engine] = []
    if which(PROGRAM):
        found.append(LlamaServer())
    if find_spec("xllamacpp"):
        found.append(EmbeddedLlamaCpp())
    return found


def default_engine() -> Engine:
    """The engine that `WEIGH_ENGINE` names, else the first that is found.

    Raises:
        EngineMissing: there is none, or not the one named.
    """
    from weigh.engines.llama_cpp import EmbeddedLlamaCpp
    from weigh.engines.llama_server import LlamaServer

    named = os.environ.get(VARIABLE, "")
    if named == "embedded":
        return EmbeddedLlamaCpp()
    if named:
        server = LlamaServer(named)
        server.version()
        return server
    found = engines()
    if not found:
        raise EngineMissing(
            "no engine is installed here", hint="`pip install xllamacpp`, or put llama-server on PATH"
        )
    return found[0]
