"""Checkpoints of transformers: a `config.json` beside safetensors files, one or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weigh.errors import BadFile
from weigh.model.gguf import printable
from weigh.model.safetensors import Header
from weigh.model.spec import ModelSpec

INDEX_NAME = "model.safetensors.index.json"


def spec_from_checkpoint(
    name: str,
    config: Mapping[str, object],
    headers: Sequence[Header],
    *,
    index: Mapping[str, object] | None = None,
    quantization: Mapping[str, object] | None = None,
    file: Path | None = None,
) -> ModelSpec:
    """The model that a config and the headers of all its files describe, wherever they were read from.

    Args:
        name: what people call it, and what messages begin with.
        config: of `config.json`; empty when there is none.
        headers: of every safetensors file of the model, each once.
        index: of `model.safetensors.index.json`, when there is one.
        quantization: of `hf_quant_config.json`, where ModelOpt says what `config.json` does not.
        file: the folder, or the single file; None when it is remote.

    Raises:
        BadInput: the pieces do not make one model.
        NotSupported: a true model that weigh cannot read.
    """
    raise NotImplementedError


def shard_names(path: Path, index: Mapping[str, object]) -> tuple[str, ...]:
    """The files an index names, each once and in order; nothing but plain names of this folder.

    Raises:
        BadFile: it names none, or one that is no plain name of a safetensors file.
    """
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise BadFile(path, "has no `weight_map`")
    names = {name: None for name in found.values() if isinstance(name, str)}
    if any(not isinstance(name, str) for name in found.values()) or not all(map(_is_plain, names)):
        wrong = next((n for n in found.values() if not isinstance(n, str) or not _is_plain(n)), None)
        raise BadFile(path, f"names `{printable(str(wrong)[:80])}`, which is no safetensors file beside it")
    return tuple(sorted(names))


def _is_plain(name: str) -> bool:
    """Whether it can only be a file of the same folder: no path, no drive, nothing hidden."""
    return (
        name.endswith(".safetensors")
        and len(name) <= 255
        and name.isprintable()
        and not name.startswith(".")
        and not any(c in name for c in "/\\:")
    )
