"""How large a GGUF file of a model is: its tensors exactly, its header by an estimate."""

from __future__ import annotations

from collections.abc import Mapping

from weigh.model.spec import ModelSpec

# A file is its tensors and a header, of which the tokenizer is nearly all.
_ALIGNMENT_BYTES = 32
_TENSOR_INFO_BYTES = 72  # name, shape, type and offset of one tensor
_METADATA_BYTES = 8192  # hyperparameters, description and the chat template
# Bytes of the tokenizer per token of the vocabulary: its text, length and kind, and with it a score (pieces),
# about one merge rule of two texts (byte pairs), two of them (vocabularies of many merges) or nothing (BERT's
# WordPiece). Measured on llama.cpp's `models/ggml-vocab-*.gguf`: 20.6 for BERT's, 22.6 for Llama 2's pieces,
# 20.9 for Baichuan's, 27.3 for XLM-RoBERTa's, 35 for GPT-2, Falcon and StarCoder, 39.0 for Qwen 2, 42.5 for
# Command R, 61.0 for Llama 3.
_SMALL_MERGES_TOKEN_BYTES, _MERGES_TOKEN_BYTES = 35, 39
_VOCABULARY_TOKEN_BYTES: Mapping[int, int] = {
    **dict.fromkeys((30522, 30528), 21),  # BERT
    **dict.fromkeys((32000, 32001, 32002, 32016, 32064, 32768, 64000, 256000, 262144, 262208, 262400), 23),
    **dict.fromkeys((250002, 250037, 250048), 27),  # XLM-RoBERTa
    **dict.fromkeys((128256, 131072, 151552, 201088, 202048), 61),  # Llama 3 and 4, Tekken, GLM-4, gpt-oss
}
# Vocabularies of the size of Gemma's pieces that are byte pairs.
_ARCHITECTURE_TOKEN_BYTES = {"gemma4": 60, "command-r": 42, "cohere2": 42}


def file_bytes(spec: ModelSpec, *, header_bytes: int | None = None) -> int:
    """Bytes of the GGUF file: the tensors, aligned, exactly; the header by an estimate.

    The tokenizer's texts are not known from shapes, so its bytes per token are those of typical files.

    Args:
        header_bytes: of a file of the same model, which its quantized files repeat; instead of the estimate.
    """
    data = tensors = 0
    for group in spec.tensors:
        count = group.count
        data += count * _aligned(group.tensor_bytes)
        tensors += count
    if header_bytes is None:
        header_bytes = tensors * _TENSOR_INFO_BYTES + _METADATA_BYTES + spec.vocab * _token_bytes(spec)
    return data + _aligned(header_bytes)


def _token_bytes(spec: ModelSpec) -> int:
    """The kind of tokenizer is told by the size of its vocabulary, which config files do state."""
    usual = _SMALL_MERGES_TOKEN_BYTES if spec.vocab < 70_000 else _MERGES_TOKEN_BYTES
    of_size = _VOCABULARY_TOKEN_BYTES.get(spec.vocab, usual)
    return _ARCHITECTURE_TOKEN_BYTES.get(spec.architecture, of_size)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
