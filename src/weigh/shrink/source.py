"""A model's files opened for their weights, GGUF and safetensors alike."""

from __future__ import annotations

from weigh.errors import BadInput
from weigh.model.spec import ModelSpec
from weigh.shrink.gguf_file import GgufWeights, Weights


def open_weights(spec: ModelSpec) -> Weights:
    """The weights of a model that lies on this machine.

    Raises:
        BadInput: there is no file of it here, or its files are damaged.
        NotSupported: a checkpoint of an architecture or tokenizer that is not converted.
    """
    if spec.file is None or spec.format not in ("gguf", "safetensors"):
        raise BadInput(
            f"{spec.name} is not on this machine as a file, so it cannot be shrunk",
            hint="name a GGUF file or a folder of safetensors files; `weigh models` lists what is here",
        )
    if spec.format == "gguf":
        return GgufWeights(spec.file)
    from weigh.shrink.convert import CheckpointWeights

    return CheckpointWeights(spec.file)
