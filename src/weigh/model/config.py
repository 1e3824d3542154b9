"""A model known by its `config.json` alone: what a converted F16 GGUF of it would hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from weigh.errors import BadFile, BadInput, NotSupported
from weigh.model.architectures import ENCODERS, FAMILIES, Beside, Draft, Fields
from weigh.model.gguf import printable
from weigh.model.json_object import json_object
from weigh.model.mixers import mixers
from weigh.model.source import LocalFile
from weigh.model.spec import ModelSpec, TensorGroup

_PICKLED = ("its weights are in a format that weigh does not open: shapes from its config.json",)
MOST_CONFIG_BYTES = 8 << 20  # real ones are a few KiB; those with per-layer rope factors some 100


def read_config(path: Path) -> ModelSpec:
    """The model of a `config.json`, or of the folder that holds one; named after the folder.

    Raises:
        BadFile: the file is missing, is not JSON, or holds values no model can have.
        NotSupported: a true config of an architecture weigh does not know.
    """
    from weigh.model.checks import contradictions

    folder, path = (path, path / "config.json") if path.is_dir() else (None, path)
    try:
        name = printable(path.absolute().parent.name or path.stem)
        spec = spec_from_config(name, config_fields(path))
        notes = (*spec.notes, *(_PICKLED if folder and any(folder.glob("*.bin")) else ()))
        return replace(spec, notes=notes, contradictions=contradictions(spec))
    except (BadFile, NotSupported):
        raise
    except BadInput as error:
        raise BadFile(path, error.message) from error


def config_fields(path: Path, *, most_bytes: int = MOST_CONFIG_BYTES) -> dict[str, object]:
    """The fields of a `config.json` or of another JSON file beside it.

    Raises:
        BadFile: it cannot be read, or holds no JSON object as a config is.
    """
    with LocalFile(path, kind="config") as file:
        if file.size_bytes > most_bytes:
            raise BadFile(path, f"longer than {most_bytes >> 20} MiB, not a config")
        return json_object(path, file.read(0, most_bytes), what="it")


def spec_from_config(name: str, config: Mapping[str, object]) -> ModelSpec:
    """The model that a config's fields describe, its tensors as a converted F16 GGUF has them.

    Raises:
        BadInput: a needed field is missing, or no model can have its value.
        NotSupported: an architecture weigh does not know, named in the message.
    """
    fields = Fields(name, text_part(config))
    model_type = fields.text("model_type")
    if not model_type:
        raise BadInput(f"{name}: `model_type` is missing from the config")
    if model_type not in FAMILIES:
        raise NotSupported(f"{name}: architecture `{model_type}` is not known to weigh yet")
    if model_type == "gemma3_text" and fields.flag("use_bidirectional_attention"):
        model_type = "gemma_embedding"
    draft = FAMILIES[model_type](fields)
    draft.beside += _encoders(Fields(name, config, draft.c.taken), draft)
    return _spec(name, draft)


def text_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """Configs of models that also see or hear nest the language model's fields; the inner ones win."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _encoders(c: Fields, draft: Draft) -> list[TensorGroup]:
    """What sees and hears for the model; a kind that weigh does not know is noted and left out."""
    if not (c.has("vision_config") or c.has("audio_config")):
        return []
    model_type = c.text("model_type")
    if model_type not in ENCODERS:
        draft.notes.append(
            f"its encoder of images or sound is not counted: `{model_type}` is not known to weigh"
        )
        return []
    beside = Beside(c, draft.hidden)
    ENCODERS[model_type](beside)
    return beside.groups


def _taken(draft: Draft) -> list[str]:
    """A note on the fields that are missing and what stood for them; widths of heads mean nothing beside a latent."""
    taken = dict(draft.c.taken)
    if "attention.kv_lora_rank" in draft.hyper:
        taken.pop("head_dim", None)
    said = ", ".join(f"`{name}` {str(value).lower()}" for name, value in sorted(taken.items()))
    return [f"missing from the config, and taken as its class has it: {said}"] if said else []


def _spec(name: str, draft: Draft) -> ModelSpec:
    for group in (*draft.groups, *draft.beside):
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
        notes=(*draft.notes, *_taken(draft)),
        beside=tuple(draft.beside),
    )
