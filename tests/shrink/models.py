"""Small models with weights like those of trained ones, in GGUF."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from weigh.model.config import spec_from_config
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf_encoding import NewTensor
from weigh.shrink import ggml, gguf_file
from weigh.shrink.gguf_file import GgufWeights
from weigh.synth.gguf import write_gguf

LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "num_hidden_layers": 3,
}
EXPERTS: dict[str, object] = {
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 1,
}


def gaussian_model(path: Path, seed: int = 0, **config: object) -> Path:
    """A model of these shapes in F16, its matrices normal with a few large weights, its norms near one."""
    spec = spec_from_config("small", LLAMA | config)
    tensors = tuple(replace(t, type=GgmlType.F16 if len(t.shape) > 1 else GgmlType.F32) for t in spec.tensors)
    write_gguf(replace(spec, tensors=tensors), path)
    source = GgufWeights(path)
    random = np.random.default_rng(seed)

    def data(tensor: NewTensor) -> Iterator[memoryview]:
        weights = random.standard_normal((tensor.elements // tensor.shape[0], tensor.shape[0]))
        weights = 1 + 0.1 * weights if len(tensor.shape) == 1 else 0.05 * weights * (1 + weights**2 / 8)
        yield ggml.quantize(weights.astype(np.float32), tensor.type).data.cast("B")

    gguf_file.write(path, source.entries, source.tensors, data)
    return path
