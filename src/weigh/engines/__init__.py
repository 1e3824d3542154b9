"""Programs that run models: started here in a child process (`engine.py`), or reached by URL (`served.py`).

`WEIGH_ENGINE` chooses one: ``embedded``, ``llama-server``, or the path of a llama-server. Without it, a
llama-server on PATH comes first, because it is what its owner runs; docs/engines.md says more. Engines for
checkpoints run only when they are named.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from shutil import which
from typing import TYPE_CHECKING

from weigh.engines.engine import Engine, Limits, Settings
from weigh.errors import EngineMissing, UnknownName

if TYPE_CHECKING:
    from weigh.engines.served import ServedModel

VARIABLE = "WEIGH_ENGINE"
NAMES = ("llama.cpp", "llama-server", "transformers", "vllm")
URL_NAMES = ("openai", "ollama")


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
        raise _unknown(name, NAMES)
    return known[name]()


def served_model(
    url: str,
    engine: str | None = None,
    *,
    model: str | None = None,
    key_variable: str | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> ServedModel:
    """A model in a server that runs already.

    Args:
        engine: one of `URL_NAMES`; None to find out which of them the server speaks.
        model: None for the only one it has.
        key_variable: of the environment, holding the key; None for OPENAI_API_KEY, where that may go.
        settings: what Ollama is told to load the model with; other servers are as they are.

    Raises:
        UnknownName: no such engine, or the server has not that model.
        BadInput, EngineError: as the adapters.
    """
    from weigh.engines.ollama import OllamaModel, is_ollama
    from weigh.engines.openai_api import OpenAiModel

    if engine is not None and engine not in URL_NAMES:
        raise _unknown(engine, URL_NAMES)
    if engine == "ollama" or (engine is None and is_ollama(url)):
        return OllamaModel(url, model=model, settings=settings, limits=limits)
    return OpenAiModel(url, model=model, key_variable=key_variable, limits=limits)


def _unknown(name: str, known: tuple[str, ...]) -> UnknownName:
    from difflib import get_close_matches

    hint = f"one of {', '.join(known)}"
    return UnknownName("engine", name, close=get_close_matches(name, known), hint=hint)


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
