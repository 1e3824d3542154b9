from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_models import tiny_llama
from weigh.engines.engine import Limits, Session, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.synth.gguf import write_gguf

# one thread: several spinning ones on cores that others use as well take a hundred times as long
SETTINGS = Settings(context_tokens=2048, threads=1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_gguf(tiny_llama(), path)
    return path


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 100 MB a token, so that there is time to interfere."""
    path = tmp_path_factory.mktemp("models") / "slow.gguf"
    write_gguf(tiny_llama(layers=4, hidden=2048, feed_forward=8192, heads=32, kv_heads=8), path)
    return path


@pytest.fixture(scope="module")
def session(model: Path) -> Iterator[Session]:
    with EmbeddedLlamaCpp().start(model, SETTINGS, Limits()) as running:
        yield running
