"""What a token costs in attention, kind by kind, worked by hand."""

from __future__ import annotations

from weigh.estimate.work import AttentionWork, work
from weigh.model.catalog import catalog


def attention(name: str) -> set[AttentionWork]:
    return set(work(catalog().by_id[name].spec()).attention)


def test_layers_that_read_an_earlier_layers_cache_attend_too() -> None:
    # Gemma 3n E2B: 30 layers, every fifth full; the last ten keep nothing; 8 heads of 256
    flops = 2 * 8 * (256 + 256)
    found = attention("google/gemma-3n-E2B-it")
    assert found == {
        AttentionWork(16, flops, 512),
        AttentionWork(4, flops, 0),
        AttentionWork(8, flops, 512),
        AttentionWork(2, flops, 0),
    }


def test_layers_without_attention_cost_none() -> None:
    # Nemotron Nano 9B v2: 4 of 56 layers attend, with 40 heads of 128
    assert attention("nvidia/NVIDIA-Nemotron-Nano-9B-v2") == {AttentionWork(4, 2 * 40 * 256, 0)}


def test_keys_that_serve_as_values_count_twice_and_pooled_ones_by_their_number() -> None:
    flops = 2 * 64 * (512 + 512)
    assert attention("deepseek-ai/DeepSeek-V4-Flash") == {
        AttentionWork(2, flops, 128),
        AttentionWork(21, flops, 128),
        AttentionWork(21, flops // 4, 0),
        AttentionWork(20, flops, 128),
        AttentionWork(20, flops // 128, 0),
    }
