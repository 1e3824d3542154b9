"""Importance measured by the engine, held against what a model of known weights meets."""

from pathlib import Path

import numpy as np
import pytest

from tests.shrink.models import EXPERTS, gaussian_model
from weigh.engines.engine import Limits
from weigh.errors import EngineError
from weigh.shrink import ggml
from weigh.shrink.gguf_file import GgufWeights
from weigh.shrink.importance import measure_importance

TOKENS = [[3 + (n * 7) % 250 for n in range(60)], [5 + (n * 11) % 250 for n in range(40)]]


def test_the_first_layer_meets_the_normed_embedding(tmp_path: Path) -> None:
    path = gaussian_model(tmp_path / "model.gguf", num_hidden_layers=1)
    seen: list[int] = []
    found = measure_importance(
        path, TOKENS, tmp_path, text="some text", limits=Limits(), threads=1, done=seen.append
    )
    source = GgufWeights(path)
    by_name = {tensor.name: tensor for tensor in source.tensors}
    embedding, norm = (
        ggml.dequantize(source.rows(by_name[name], 0, rows), by_name[name].type)
        for name, rows in (("token_embd.weight", 512), ("blk.0.attn_norm.weight", 1))
    )
    # the last token of a window is not run: nothing follows it
    rows = embedding[[token for window in TOKENS for token in window[:-1]]].astype(np.float64)
    rows *= norm / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + 1e-5)
    expected = np.square(rows).mean(axis=0)
    assert np.allclose(found.values["blk.0.attn_q.weight"][0], expected, rtol=1e-3)
    assert found.values["blk.0.ffn_down.weight"].shape == (1, 512)
    assert "output.weight" in found.values
    assert seen == [1, 2]
    assert (found.datasets, found.chunks) == (("some text",), 2)


def test_experts_are_refused(tmp_path: Path) -> None:
    path = gaussian_model(tmp_path / "m.gguf", **EXPERTS)
    with pytest.raises(EngineError, match="it has experts"):
        measure_importance(path, TOKENS, tmp_path, text="t", limits=Limits(), threads=1)
