"""Model files of true shapes with random weights, so that a model can be run without being downloaded."""

from weigh.synth.files import synthetic_file
from weigh.synth.gguf import truncated, write_gguf

__all__ = ["synthetic_file", "truncated", "write_gguf"]
