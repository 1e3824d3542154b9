"""The compute buffer, worked by hand where the widths are round. The engine's own figures: test_memory.py."""

from __future__ import annotations

from dataclasses import replace

from weigh.engines.engine import Settings
from weigh.estimate.compute_buffers import compute_bytes
from weigh.estimate.graph import Graph, graph
from weigh.estimate.kv_cache import cells
from weigh.model.catalog import catalog
from weigh.units import MIB


def shape(name: str) -> Graph:
    return graph(catalog().by_id[name].spec())


def buffer_bytes(graph_: Graph, settings: Settings) -> int:
    return compute_bytes(graph_, settings, cells(settings, 0))


def test_a_dense_model_needs_its_feed_forward_widths_and_five_residual_streams() -> None:
    # Llama 3.1 8B, 512 tokens of F32: gate, up and their product 3 x 28 MiB, five tensors of 8 MiB (two of
    # them for embeddings given directly), mask 4 MiB, and 18 KiB of small inputs
    found = buffer_bytes(shape("meta-llama/Llama-3.1-8B-Instruct"), Settings(context_tokens=4096))
    assert 0 <= found - (84 + 40 + 4) * MIB < 64 * 1024


def test_the_context_enters_through_the_mask_alone() -> None:
    llama = shape("meta-llama/Llama-3.1-8B-Instruct")
    short, long = Settings(context_tokens=4096), Settings(context_tokens=32768)
    assert buffer_bytes(llama, long) - buffer_bytes(llama, short) == (32768 - 4096) * 512 * 2


def test_a_micro_batch_is_never_longer_than_the_context() -> None:
    llama = shape("meta-llama/Llama-3.1-8B-Instruct")
    cut = Settings(context_tokens=256)
    assert buffer_bytes(llama, cut) == buffer_bytes(llama, replace(cut, ubatch_tokens=256))


def test_half_a_micro_batch_needs_half_the_buffer() -> None:
    llama = shape("meta-llama/Llama-3.1-8B-Instruct")
    whole, half = Settings(), Settings(ubatch_tokens=256)
    assert abs(2 * buffer_bytes(llama, half) - buffer_bytes(llama, whole)) < 64 * 1024


def test_recipes_of_one_model_share_a_graph() -> None:
    spec = catalog().by_id["Qwen/Qwen3-30B-A3B"].spec()
    assert graph(spec) is graph(replace(spec, quantization="other"))
