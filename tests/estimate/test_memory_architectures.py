"""Memory of unusual architectures: the embedded engine's own layout, buffer by buffer."""

from __future__ import annotations

from pathlib import Path

import pytest

from weigh.engines.engine import Layout, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.estimate.memory import MemoryEstimate, memory
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.synth.gguf import write_gguf
from weigh.units import MIB

EXACT = (
    ("deepseek-ai/DeepSeek-V3.2", 32768),  # an indexer picks the tokens to attend to
    ("moonshotai/Kimi-Linear-48B-A3B-Instruct", 32768),  # delta attention and a latent
    ("Snowflake/snowflake-arctic-instruct", 4096),  # dense and experts side by side
    ("BAAI/bge-base-en-v1.5", 2048),  # no cache at all
    ("google/embeddinggemma-300m", 512),
)
WEIGHTS_AND_CACHE = (
    ("deepseek-ai/DeepSeek-V4-Flash", 32768),  # windows, pooled keys and the sums that make them
    ("MiniMaxAI/MiniMax-Text-01", 32768),  # lightning attention's states
    ("stepfun-ai/Step-3.5-Flash", 32768),  # more query heads in sliding layers
)


def both(name: str, context: int, folder: Path) -> tuple[MemoryEstimate, Layout]:
    spec = quantize(catalog().by_id[name].spec(), "Q4_K_M")
    engine, settings = EmbeddedLlamaCpp(), Settings(context_tokens=context, mmap=False)
    write_gguf(spec, folder / "model.gguf", weights=False)
    ours = memory(spec, settings, engine.cpu_features(("AVX2",)))
    return ours, engine.layout(folder / "model.gguf", settings)


@pytest.mark.parametrize(("name", "context"), EXACT + WEIGHTS_AND_CACHE)
def test_the_engine_reports_the_same_weights_and_cache(name: str, context: int, tmp_path: Path) -> None:
    ours, theirs = both(name, context, tmp_path)
    # each buffer's figure is cut to whole MiB; Kimi's states and latents, and V4's caches, are several buffers
    assert 0 <= ours.weights_bytes - theirs.weights_bytes < 2 * MIB
    assert 0 <= ours.kv_cache_bytes - theirs.kv_cache_bytes < 6 * MIB
    if (name, context) in EXACT:
        assert 0 <= ours.compute_bytes - theirs.compute_bytes < 2 * MIB
