"""What a model's own files say it can be asked for: to chat, and to fill in the middle of a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.quality.completion import FIM_NAMES
from weigh.quality.tasks.writers import MOST_HEADER_BYTES, has_chat_template

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec

# The file names them by id, or its vocabulary has them by a name that is known.
_BY_ID = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id")
_HOLES = (_BY_ID, *((names.prefix, names.suffix, names.middle) for names in FIM_NAMES))
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class FileHabits:
    """What the files have; that a model was trained on the tokens it has is not said by any.

    Attributes:
        chats: there is a chat template; models without one are taken for base models.
        fills_middle: the vocabulary has the tokens that mark a hole in a text.
    """

    chats: bool
    fills_middle: bool


def file_habits(spec: ModelSpec) -> FileHabits | None:
    """Of a GGUF file, or of a safetensors folder with its tokenizer; None where there is none to read."""
    if spec.file is None:
        return None
    try:
        if spec.format == "gguf":
            with spec.file.open("rb") as file:
                return FileHabits(has_chat_template(spec.file), _marks_holes(file.read(MOST_HEADER_BYTES)))
        return _of_folder(spec.file if spec.file.is_dir() else spec.file.parent)
    except (OSError, ValueError):  # gone meanwhile, or emptied
        return None


def _of_folder(folder: Path) -> FileHabits | None:
    pieces = list(_read(folder, _TOKENIZER_FILES))
    if not pieces:
        return None
    chats = any((folder / name).is_file() for name in _TEMPLATE_FILES)
    return FileHabits(
        chats or any(b'"chat_template"' in piece for piece in pieces), any(map(_marks_holes, pieces))
    )


def _read(folder: Path, names: tuple[str, ...]) -> Iterator[bytes]:
    for name in names:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                yield file.read(MOST_HEADER_BYTES)


def _marks_holes(content: bytes) -> bool:
    return any(all(word.encode() in content for word in words) for words in _HOLES)
