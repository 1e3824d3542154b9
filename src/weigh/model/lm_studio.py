"""LM Studio's folder of models, and those of other programs that keep plain GGUF files.

LM Studio keeps `PUBLISHER/MODEL/FILES` below `models` of its home, or below a folder that its settings name.

Layout: https://github.com/lmstudio-ai/docs, "Import models"; the home as lmstudio.js looks for it
(`~/.lmstudio-home-pointer`, then `~/.cache/lm-studio`, then `~/.lmstudio`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from weigh.errors import BadFile, BadInput, UnknownName
from weigh.model.folder import sizes_below
from weigh.model.gguf import printable
from weigh.model.json_object import json_object
from weigh.model.source import LocalFile

_HOMES = ("~/.lmstudio", "~/.cache/lm-studio")
_POINTER = "~/.lmstudio-home-pointer"
_SETTINGS = "settings.json"
MOST_SETTINGS_BYTES = 1 << 20

# Other programs' folders; Jan's holds a folder for each model, the others the files themselves.
_OTHERS: Mapping[str, tuple[str, ...]] = {
    "llama.cpp cache": ("~/.cache/llama.cpp", "~/Library/Caches/llama.cpp"),
    "GPT4All": ("~/.local/share/nomic.ai/GPT4All", "~/Library/Application Support/nomic.ai/GPT4All"),
    "Jan": ("~/.local/share/Jan/data/llamacpp/models", "~/.config/Jan/data/llamacpp/models", "~/jan/models"),
}


@dataclass(frozen=True)
class LmStudioModel:
    """A folder of one model, at one or more quantizations. `id` is `PUBLISHER/MODEL`."""

    id: str
    folder: Path

    @cached_property
    def sizes_bytes(self) -> Mapping[str, int]:
        return sizes_below(self.folder, 2)


def lm_studio_folders() -> list[Path]:
    """Where LM Studio keeps models on this machine."""
    homes = [*_pointed_to(), *_HOMES]
    folders = [folder for home in homes for folder in _folders_of(home)]
    found = {path.resolve(): path for path in reversed(folders) if path.is_dir()}
    return list(reversed(found.values()))


def other_folders() -> list[tuple[str, Path]]:
    """Folders of other programs that are there, each with the program's name."""
    places = [(name, place) for name, all_of_it in _OTHERS.items() for place in all_of_it]
    if said := os.environ.get("LLAMA_CACHE"):
        places.insert(0, ("llama.cpp cache", said))
    found = ((name, _expanded(place)) for name, place in places)
    return [(name, path) for name, path in found if path is not None and path.is_dir()]


def _pointed_to() -> Iterator[str]:
    path = _expanded(_POINTER)
    try:
        if path is not None and path.is_file():
            with path.open(encoding="utf-8") as file:
                yield file.read(4096).strip()
    except (OSError, ValueError):
        return


def _folders_of(home: str) -> Iterator[Path]:
    path = _expanded(home)
    if path is None or not path.is_absolute():
        return
    if said := _said_folder(path / _SETTINGS):
        yield said
    yield path / "models"


def _said_folder(settings: Path) -> Path | None:
    """The folder that a person chose in LM Studio."""
    try:
        with LocalFile(settings) as file:
            data = file.read(0, min(file.size_bytes, MOST_SETTINGS_BYTES))
        said = json_object(settings, data, what="it").get("downloadsFolder")
    except BadFile:  # none there, or none of LM Studio's
        return None
    path = _expanded(said) if isinstance(said, str) else None
    return path if path is not None and path.is_absolute() else None


def _expanded(place: str) -> Path | None:
    try:
        path = Path(place).expanduser()
        path.stat()
    except (OSError, ValueError, RuntimeError):  # not there, no path at all, or nobody's home
        return None
    return path


def lm_studio_models(folders: list[Path] | None = None) -> list[LmStudioModel]:
    """The models in LM Studio's folders, in alphabetical order."""
    found: dict[str, LmStudioModel] = {}
    for folder in lm_studio_folders() if folders is None else folders:
        for name in sizes_below(folder, 2):
            publisher, _, rest = name.partition("/")
            model, _, file = rest.partition("/")
            if file.lower().endswith((".gguf", ".safetensors")):
                model_id = f"{publisher}/{model}"
                found.setdefault(model_id, LmStudioModel(model_id, folder / publisher / model))
    return sorted(found.values(), key=lambda model: model.id.lower())


def lm_studio_model(typed: str) -> LmStudioModel:
    """The model LM Studio has under `PUBLISHER/MODEL`, or under `MODEL` with or without `-GGUF`.

    Raises:
        UnknownName: it has none, or several of that name.
    """
    models = lm_studio_models()
    if not models:
        problem = "LM Studio has no models on this machine"
        raise BadInput(problem, hint="name the folder itself if it keeps them elsewhere")
    for way in (str.lower, _short):
        found = [model for model in models if way(model.id) == way(typed)]
        if len(found) == 1:
            return found[0]
    ids = {_short(model.id): model.id for model in models}
    close = [m.id for m in found] or [ids[key] for key in get_close_matches(_short(typed), ids, 3, 0.4)]
    raise UnknownName(
        "model of LM Studio", printable(typed), close=[f"lmstudio:{name}" for name in close[:3]]
    )


def _short(model_id: str) -> str:
    return model_id.lower().rpartition("/")[2].removesuffix("-gguf")
