"""Configs of shortened models say what the shortened shapes say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weigh.errors import NotSupported
from weigh.model.catalog import catalog
from weigh.model.checkpoint import read_checkpoint
from weigh.model.config import read_config
from weigh.model.spec import ModelSpec
from weigh.model.stored_quantization import stored
from weigh.synth import shortened, synthetic_checkpoint
from weigh.synth.checkpoint_config import checkpoint_config
from weigh.synth.files import remove_leftovers


def spec_of(name: str) -> ModelSpec:
    return stored(catalog().by_id[name].spec(), "BF16")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", 3),
        ("google/gemma-3-4b-it", 8),
        ("deepseek-ai/DeepSeek-V2-Lite", 2),
        ("ibm-granite/granite-4.0-h-tiny", 8),
        ("LiquidAI/LFM2-350M", 4),
        ("Qwen/Qwen3.5-0.8B", 4),
    ],
)
def test_the_first_layers_are_described_and_nothing_that_sees(tmp_path: Path, name: str, layers: int) -> None:
    short = shortened(spec_of(name), layers, vocab=4096)
    with synthetic_checkpoint(short, tmp_path, weights=False) as folder:
        read = read_config(folder)
        assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert (read.layers, read.vocab, read.beside) == (layers, 4096, ())
    assert stored(read, "BF16").parameters == short.parameters
    assert not list(tmp_path.iterdir())


def test_fewer_experts_are_described_too() -> None:
    short = shortened(spec_of("Qwen/Qwen3-30B-A3B"), 2, experts=16)
    assert checkpoint_config(short)["num_experts"] == 16


def test_weights_are_written_when_they_are_wanted(tmp_path: Path) -> None:
    short = shortened(spec_of("Qwen/Qwen2.5-0.5B-Instruct"), 1, vocab=1024)
    told: list[tuple[int, int]] = []
    with synthetic_checkpoint(
        short, tmp_path, progress=lambda done, total: told.append((done, total))
    ) as folder:
        assert remove_leftovers(tmp_path) == 0  # it is in use
        read = read_checkpoint(folder)
    assert read.tensor_bytes == short.tensor_bytes
    assert told[-1] == (short.tensor_bytes, short.tensor_bytes)


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "weigh-synthetic-killed-1-layers-1-00"
    left.mkdir()
    (left / "config.json").write_text(json.dumps({}))
    (tmp_path / "mine").mkdir()
    assert remove_leftovers(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_cannot_be_made_up_is_said() -> None:
    with pytest.raises(NotSupported, match="cannot be made up yet"):
        checkpoint_config(spec_of("openai-community/gpt2"))
    with pytest.raises(NotSupported, match="not FP8"):
        checkpoint_config(stored(catalog().by_id["Qwen/Qwen3-1.7B"].spec(), "FP8"))
