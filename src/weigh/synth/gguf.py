"""Model files of true shapes with random weights, which engines load and run like the real thing.

Speed and memory of inference depend on shapes and number formats, not on what the weights say. So a file
with the tensors of a `ModelSpec`, filled with random blocks, stands in for a download; with
``weights=False`` it is a header and a hole of the right length, which is all that layout questions need.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from weigh.errors import BadInput, NotSupported
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import FILE_TYPES
from weigh.model.gguf_encoding import (
    ALIGNMENT,
    NewTensor,
    aligned,
    disk_is_full,
    header,
    no_space,
    pair,
    require_space,
    write_all,
    write_stream,
)
from weigh.model.spec import HyperValue, ModelSpec, TensorGroup
from weigh.synth.blocks import constant_weights, random_blocks

_NORMAL, _CONTROL = 1, 3  # token types

_CONSTANTS: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"\.bias$"), 0.0),
    (re.compile(r"ssm_a(\.weight)?$"), -1.0),  # decay rates: positive ones make states explode
    (re.compile(r"norm(_\d)?\.weight$|^rope_f|scale\.weight$|ssm_d(\.weight)?$"), 1.0),
)


def write_gguf(
    spec: ModelSpec,
    path: Path,
    *,
    weights: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write `spec` as a GGUF file and return its length in bytes.

    Args:
        weights: False leaves a hole where the weights would be: the file takes a few MiB on disk.
        progress: called with the bytes written and the bytes in all.

    Raises:
        NoSpace: the disk is too small; nothing is left of the file.
        NotSupported: a tensor has a number format that random weights are not made for.
    """
    tensors = _file_order(spec)
    head = header(_entries(spec), tensors)
    total_bytes = len(head) + sum(aligned(tensor.bytes) for tensor in tensors)
    require_space(path, total_bytes if weights else len(head))
    choose = random.Random(seed)
    try:
        with path.open("wb", buffering=0) as file:
            if weights:
                write_stream(file, head, tensors, lambda tensor: _data(tensor, seed, choose), progress)
            else:
                write_all(file, head)
                file.truncate(total_bytes)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if disk_is_full(error):
            raise no_space(path, total_bytes) from None
        raise
    return total_bytes


def truncated(spec: ModelSpec, layers: int) -> ModelSpec:
    """The same model with its first `layers` layers only; tensors outside the layers stay.

    Raises:
        BadInput: `layers` is not between 1 and what the model has.
    """
    if not 1 <= layers <= spec.layers:
        raise BadInput(f"{spec.name} has {spec.layers} layers; {layers} of them cannot be kept")
    if layers == _block_count(spec):
        return spec
    tensors = (replace(t, layers=_below(t.layers, layers)) for t in spec.tensors)
    mixers = (replace(m, layers=_below(m.layers, layers)) for m in spec.mixers)
    return replace(
        spec,
        layers=layers,
        # a group that has lost all its layers would look like one outside the layers
        tensors=tuple(
            _narrowed(t, spec, layers)
            for t, was in zip(tensors, spec.tensors, strict=True)
            if t.layers or not was.layers
        ),
        mixers=tuple(m for m in mixers if m.layers),
        hyper=_truncated_hyper(spec, layers),
        file=None,
        file_bytes=None,
    )


def _narrowed(tensor: TensorGroup, spec: ModelSpec, layers: int) -> TensorGroup:
    """Embeddings that every layer adds lie side by side in one tensor (Gemma 3n and 4)."""
    each = _int(spec.hyper.get("embedding_length_per_layer_input", 0))
    if not each or tensor.layers:
        return tensor
    return replace(tensor, shape=tuple(each * layers if n == each * spec.layers else n for n in tensor.shape))


def _block_count(spec: ModelSpec) -> int:
    """Layers as the file counts them: with those of multi-token prediction, which text does not pass."""
    return _int(spec.hyper.get("block_count", spec.layers))


def _truncated_hyper(spec: ModelSpec, layers: int) -> dict[str, HyperValue]:
    """Hyperparameters for the first `layers` layers: per-layer arrays cut, counts of layers lowered."""
    per_layer = (spec.layers, _block_count(spec))
    hyper = {
        key: value[:layers] if isinstance(value, tuple) and len(value) in per_layer else value
        for key, value in spec.hyper.items()
    }
    hyper["block_count"] = layers
    if "leading_dense_block_count" in hyper:
        hyper["leading_dense_block_count"] = min(layers, _int(hyper["leading_dense_block_count"]))
    if "attention.shared_kv_layers" in hyper:  # the last layers, which borrow keys and values
        own = spec.layers - _int(hyper["attention.shared_kv_layers"])
        hyper["attention.shared_kv_layers"] = max(0, layers - own)
    if "nextn_predict_layers" in hyper:  # they come last, so they are gone
        hyper["nextn_predict_layers"] = 0
    return hyper


def _int(value: HyperValue) -> int:
    if isinstance(value, (tuple, str)):
        raise BadInput(f"`{value}` stands where a number is expected")
    return int(value)


def _below(layers: tuple[int, ...], limit: int) -> tuple[int, ...]:
    return tuple(i for i in layers if i < limit)


def _file_order(spec: ModelSpec) -> list[NewTensor]:
    """Tensors as converters store them: those outside the layers first, then layer by layer."""
    outside = [_tensor(group, None) for group in spec.tensors if not group.layers]
    inside = sorted((layer, i) for i, t in enumerate(spec.tensors) for layer in t.layers)
    return outside + [_tensor(spec.tensors[i], layer) for layer, i in inside]


def _tensor(group: TensorGroup, layer: int | None) -> NewTensor:
    if not isinstance(group.type, GgmlType):
        raise NotSupported(f"a GGUF file cannot hold {group.type.name} (`{group.name}`)")
    return NewTensor(group.name if layer is None else group.name.format(layer), group.shape, group.type)


# --- weights ---------------------------------------------------------------------------------------


def _data(tensor: NewTensor, seed: int, choose: random.Random) -> Iterator[bytes | memoryview]:
    """The bytes of one tensor, a few MiB at a time."""
    kind = tensor.type
    for pattern, value in _CONSTANTS:
        if pattern.search(tensor.name):
            yield constant_weights(kind, value, tensor.elements)
            return
    pool = memoryview(random_blocks(kind, seed))
    # start at another block every time, so that no two tensors are the same
    start = choose.randrange(len(pool) // kind.block_bytes // 2) * kind.block_bytes
    left = tensor.bytes
    while left:
        chunk = pool[start : start + left]
        yield chunk
        left -= len(chunk)
        start = 0


# --- header ----------------------------------------------------------------------------------------


def _entries(spec: ModelSpec) -> list[bytes]:
    return [
        pair("general.architecture", spec.architecture),
        # llama.cpp asks for Phi-3's own special tokens in the vocabulary of anything so named
        pair("general.name", spec.name.replace("Phi-3", "Phi 3").replace("phi-3", "phi 3")),
        pair("general.alignment", ALIGNMENT),
        *(
            pair("general.file_type", number)
            for number, name in FILE_TYPES.items()
            if name == spec.quantization
        ),
        *(pair(_full_key(spec.architecture, key), value) for key, value in _hyper(spec).items()),
        *_tokenizer(spec.vocab),
        *_token_types(spec),
    ]


def _token_types(spec: ModelSpec) -> list[bytes]:
    """BERT's files count the kinds of sentences beside the vocabulary."""
    kinds = next((t.shape[1] for t in spec.tensors if t.name == "token_types.weight"), 0)
    return [pair("tokenizer.ggml.token_type_count", kinds)] if kinds else []


def _hyper(spec: ModelSpec) -> Mapping[str, HyperValue]:
    return {"vocab_size": spec.vocab, "block_count": spec.layers, **spec.hyper}


def _full_key(architecture: str, key: str) -> str:
    """Keys carry the architecture's name, but for those of Apertus's activation."""
    return key if key.startswith("xielu.") else f"{architecture}.{key}"


# --- tokenizer -------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _tokenizer(vocab: int) -> tuple[bytes, ...]:
    """A byte-level BPE tokenizer of `vocab` tokens: the 256 bytes, fillers, and two control tokens.

    llama.cpp refuses an empty list of merges, and its server wants a tokenizer it can run; hence one
    merge of two bytes, whose result exists.
    """
    if vocab < 259:
        raise NotSupported(f"a vocabulary of {vocab} tokens; byte-level BPE needs 259")
    letters = byte_letters()
    merged = letters[0] + letters[1]
    fillers = (f"<t{i}>" for i in range(vocab - 259))
    tokens = [*letters, merged, *fillers, "<|begin|>", "<|end|>"]
    types = (_NORMAL,) * (vocab - 2) + (_CONTROL,) * 2
    return (
        pair("tokenizer.ggml.model", "gpt2"),
        pair("tokenizer.ggml.pre", "llama-bpe"),
        pair("tokenizer.ggml.tokens", tuple(tokens)),
        pair("tokenizer.ggml.token_type", types),
        pair("tokenizer.ggml.merges", (f"{letters[0]} {letters[1]}",)),
        pair("tokenizer.ggml.bos_token_id", vocab - 2),
        pair("tokenizer.ggml.eos_token_id", vocab - 1),
    )


def byte_letters() -> list[str]:
    """One printable character per byte, as GPT-2 writes them: others start at code point 256."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(b if b in printable else next(others)) for b in range(256)]
