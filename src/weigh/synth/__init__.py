"""Model files of true shapes with random weights, so that a model can be run without being downloaded."""

from weigh.synth.files import synthetic_checkpoint, synthetic_file
from weigh.synth.gguf import truncated, write_gguf
from weigh.synth.shortened import shortened

__all__ = ["shortened", "synthetic_checkpoint", "synthetic_file", "truncated", "write_gguf"]
