"""Teachers read from their folders, and students written to theirs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from weigh.errors import BadFile, BadInput, NoSpace, first_line
from weigh.shrink.training import Training

TOLD = "training.json"  # in a student's folder: what it was made with, and its log
LAST_STEPS = 20  # whose mean loss is told
_OWN = {"local_files_only": True, "trust_remote_code": False}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class Student:
    """A trained student: its folder, its parameters, the seconds it was trained for, the loss of its last steps."""

    name: str
    folder: Path
    parameters: int
    trained_s: float
    last_loss: float


def read_config(folder: Path) -> Any:
    """A model's configuration as transformers has it.

    Raises:
        BadInput, BadFile: there is none, or it cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"`{folder}` is no folder with a config.json", hint="a teacher is a safetensors folder"
        )
    try:
        return AutoConfig.from_pretrained(folder, **_OWN)
    except Exception as error:  # transformers raises many kinds for files that are not what they should be
        raise BadFile(folder, f"cannot be loaded: {first_line(error)}") from error


def read_model(folder: Path, config: Any, on: torch.device) -> Any:
    """The folder's model in float32, to be asked and not to be trained; no code of the folder's is run.

    Raises:
        BadFile: its weights cannot be read, or are not all there.
    """
    try:
        with _quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **_OWN,
            )
    except Exception as error:
        raise BadFile(folder, f"cannot be loaded: {first_line(error)}") from error
    lacking = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if lacking:  # transformers would put random numbers there
        raise BadFile(folder, f"`{lacking[0]}` is not in its weights, or of another shape")
    return model.to(on).eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' progress bars and warnings left out."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def fingerprint(folder: Path) -> str:
    """Of a model's configuration and weights."""
    whole = hashlib.sha256()
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        with path.open("rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def write_student(training: Training, teacher: Path, dtype: torch.dtype, folder: Path) -> None:
    """Into a new folder that gets its name when it is whole, in the number format `dtype`.

    Raises:
        NoSpace: it cannot be written.
    """
    student: Any = training.model
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    last = [line["loss"] for line in training.log[-LAST_STEPS:]]
    told = {
        "about": training.about,
        "parameters": sum(weight.numel() for weight in student.parameters()),
        "trained_s": round(training.trained_s, 1),
        "last_loss": sum(last) / len(last),
        "log": training.log,
    }
    try:
        with _quiet():
            student.to(dtype).save_pretrained(part)
        for name in _TOKENIZER_FILES:
            if (teacher / name).is_file():
                shutil.copyfile(teacher / name, part / name)
        (part / TOLD).write_text(json.dumps(told) + "\n", encoding="utf-8")
        part.rename(folder)
    except (OSError, SafetensorError) as error:  # the latter wraps what the file raised
        said = getattr(error, "strerror", None) or first_line(error)
        raise NoSpace(f"`{folder}` cannot be written: {said}") from error


def told_student(folder: Path, name: str, about: Mapping[str, Any]) -> Student | None:
    """The student that lies in `folder`; None where there is nothing.

    Raises:
        BadInput: the folder holds something else; nothing is written over.
    """
    if not folder.exists():
        return None
    try:
        told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
        same = told["about"] == about
        student = Student(
            name, folder, int(told["parameters"]), float(told["trained_s"]), float(told["last_loss"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"`{folder}` exists and is no student of weigh's", hint="name another folder"
        ) from None
    if not same:
        raise BadInput(
            f"`{folder}` was made with other settings, from another teacher or on other text",
            hint="name another folder, or remove that one",
        )
    return student
