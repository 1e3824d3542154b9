"""A model known by its `config.json` alone: what a converted F16 GGUF of it would hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from weigh.errors import BadFile, BadInput, NotSupported
from weigh.model.architectures import FAMILIES, Draft, Fields
from weigh.model.mixers import mixers
from weigh.model.spec import ModelSpec

MOST_CONFIG_BYTES = 8 << 20  # real ones are a few KiB; those with per-layer rope factors some 100


def read_config(path: Path) -> ModelSpec:
    """The model of a `config.json`, or of the folder that holds one; named after the folder.

    Raises:
        BadFile: the file is missing, is not JSON, or holds values no model can have.
        NotSupported: a true config of an architecture weigh does not know.
    """
    path = path / "config.json" if path.is_dir() else path
    try:
        return spec_from_config(path.absolute().parent.name or path.stem, _read_object(path))
    except (BadFile, NotSupported):
        raise
    except BadInput as error:
        raise BadFile(path, error.message) from error


def _read_object(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_CONFIG_BYTES + 1)
    except OSError as error:
        raise BadFile(path, f"cannot be read ({error.strerror})") from error
    if len(data) > MOST_CONFIG_BYTES:
        raise BadFile(path, f"longer than {MOST_CONFIG_BYTES >> 20} MiB, not a config")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadFile(path, "is not JSON a config could be") from error
    if not isinstance(values, dict):
        raise BadFile(path, "holds no JSON object")
    return values


def spec_from_config(name: str, config: Mapping[str, object]) -> ModelSpec:
    """The model that a config's fields describe, its tensors as a converted F16 GGUF has them.

    Raises:
        BadInput: a needed field is missing, or no model can have its value.
        NotSupported: an architecture weigh does not know, named in the message.
    """
    fields = Fields(name, _text_part(config))
    model_type = fields.text("model_type")
    if not model_type:
        raise BadInput(f"{name}: `model_type` is missing from the config")
    if model_type not in FAMILIES:
        raise NotSupported(f"{name}: architecture `{model_type}` is not known to weigh yet")
    return _spec(name, FAMILIES[model_type](fields))


def _text_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """Configs of models that also see or hear nest the language model's fields; the inner ones win."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _spec(name: str, draft: Draft) -> ModelSpec:
    for group in draft.groups:
        if min(group.shape) < 1:
            raise BadInput(f"{name}: a width of `{group.name}` is missing from the config")
    return ModelSpec(
        name=name,
        architecture=draft.architecture,
        layers=draft.count,
        hidden=draft.hidden,
        vocab=draft.vocab,
        feed_forward=draft.width,
        context_train=draft.context,
        mixers=mixers(draft.architecture, draft.hyper, draft.count),
        tensors=tuple(draft.groups),
        quantization="F16",
        experts=draft.experts,
        experts_used=draft.experts_used,
        hyper=draft.hyper,
        notes=tuple(draft.notes),
    )
