"""From what a person types to a model: a path, a hub id, or a name that is nearly one.

People type `llama-3.1-8b` for `meta-llama/Llama-3.1-8B-Instruct`, and `gpt-oss:20b` as other tools have
it. So names are compared without organisation, case and punctuation, then without words that say little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.errors import BadInput, NotSupported, UnknownName
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import SPLIT_NAME, printable, read_gguf
from weigh.model.spec import ModelSpec

# A GGUF file needs neither catalog nor architectures nor recipes, so these are imported where names are.
if TYPE_CHECKING:
    from weigh.model.catalog import CatalogEntry

DEFAULT_RECIPE = "Q4_K_M"

_TUNED = frozenset({"instruct", "it", "chat"})
_FILLERS = _TUNED | {"hf", "base", "meta", "gguf", "c4ai", "nvidia"}
# Words of a catalog id that may be left out: versions and dates of release, context, active parameters.
_OPTIONAL = r"v\d[\d.]*|\d{4}|\d+k|a[\d.]+[bm]|bf16"
_RECIPE_LIKE = r"(?i)(i?q|tq)\d.*|b?f(16|32)|mxfp.*"


def resolve(name: str) -> ModelSpec:
    """The model meant by a path or a name, with an optional recipe: `qwen2.5-coder-7b:Q5_K_M`.

    A path is a GGUF file, a `config.json`, or a folder with one model in it. A catalog model named without
    a recipe is Q4_K_M, or the mix it is published in when that is quantized already (gpt-oss).

    Raises:
        UnknownName: no model or recipe of that name; close ones are attached.
        BadInput: a path that does not exist, or that holds no model or several.
        NotSupported: a recipe for a file that is quantized already.
    """
    if not name.strip():
        raise BadInput("no model was named")
    if (found := _at_path(name)) is not None:
        return found
    bare, recipe = _recipe_apart(name)
    if recipe and (found := _at_path(bare)) is not None:
        return _requantized(found, recipe)
    if _looks_like_path(bare):
        raise BadInput(f"`{printable(bare)}` does not exist")
    from weigh.model.quantization import quantize

    spec = _entry(bare).spec()
    return quantize(spec, recipe or _default_recipe(spec))


def _default_recipe(spec: ModelSpec) -> str:
    published = any(tensor.type is GgmlType.MXFP4 for tensor in spec.tensors)
    return "MXFP4_MOE" if published else DEFAULT_RECIPE


def _requantized(spec: ModelSpec, recipe: str) -> ModelSpec:
    from weigh.model.quantization import quantize

    if any(tensor.type.quantized for tensor in spec.tensors):
        raise NotSupported(f"{spec.name} is {spec.quantization} already; it cannot be made {recipe} again")
    return quantize(spec, recipe)


# --- paths -------------------------------------------------------------------------------------------


def _looks_like_path(name: str) -> bool:
    return (
        name in (".", "..")
        or name.startswith(("/", "./", "../", "~"))
        or name.lower().endswith((".gguf", ".json", ".safetensors"))
        or name.count("/") > 1
    )


def _at_path(name: str) -> ModelSpec | None:
    """The model at a path; None when nothing is there, or a folder without model that may be a name."""
    try:
        path = Path(name).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, or nobody's home: no path
        return None
    if is_folder:
        return _in_folder(path, needed=_looks_like_path(name))
    if not exists:
        return None
    return _config(path) if path.suffix == ".json" and path.is_file() else read_gguf(path)


def _in_folder(folder: Path, *, needed: bool) -> ModelSpec | None:
    try:
        models = _gguf_models(folder)
        has_config = (folder / "config.json").is_file()
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from error
    if len(models) > 1:
        said = ", ".join(f"`{printable(path.name)}`" for path in models[:3])
        raise BadInput(f"{folder} holds {len(models)} GGUF models: {said}", hint="name one of them")
    if models:
        return read_gguf(models[0])
    if has_config:
        return _config(folder)
    if needed:
        raise BadInput(f"{folder} holds neither a GGUF file nor a `config.json`")
    return None


def _config(path: Path) -> ModelSpec:
    from weigh.model.config import read_config

    return read_config(path)


def _gguf_models(folder: Path) -> list[Path]:
    """One path per model: the first part there is of a split one; projectors left out."""
    models: dict[str, Path] = {}
    for path in sorted(folder.glob("*.gguf")):
        if not path.name.lower().startswith("mmproj"):
            split = SPLIT_NAME.fullmatch(path.name)
            models.setdefault(split[1] if split else path.name, path)
    return list(models.values())


# --- names -------------------------------------------------------------------------------------------


def _recipe_apart(name: str) -> tuple[str, str | None]:
    """`gpt-oss:20b` has a size behind the colon, `qwen3:8b-q4_K_M` both, `phi-4:latest` neither."""
    from weigh.model.quantization import ALL_RECIPES

    if match := re.fullmatch(rf"(?i)(.*)[-:]({'|'.join(ALL_RECIPES)})", name):
        return match[1], match[2].upper()
    head, colon, tail = name.rpartition(":")
    if not colon or tail.lower() == "latest":
        return (head if colon else name), None
    if re.fullmatch(_RECIPE_LIKE, tail):
        raise UnknownName("quantization", printable(tail), close=_close(tail.upper(), ALL_RECIPES, 0.4))
    return name, None


def _entry(name: str) -> CatalogEntry:
    """The catalog's model of that name: the first way of comparing that finds any decides."""
    from weigh.model.catalog import catalog

    typed = name.strip().lower()
    words = _words(typed)
    bare, plain = "".join(words), "".join(_without_fillers(words))
    ways: tuple[Callable[[CatalogEntry], bool], ...] = (
        lambda entry: entry.id.lower() == typed,
        lambda entry: "".join(_words(entry.id)) == bare,
        lambda entry: "".join(_without_fillers(_words(entry.id))) == plain,
        lambda entry: "".join(_essential(_words(entry.id))) == plain,
    )
    for way in ways if plain else ():
        if found := list(filter(way, catalog())):
            return min(found, key=_preference)
    return _only_one_beginning(words, name)


def _only_one_beginning(words: list[str], name: str) -> CatalogEntry:
    """`qwq` or `llama-4-scout`: a beginning that only one model has."""
    from weigh.model.catalog import catalog

    begun = _without_fillers(words)
    found = [e for e in catalog() if begun and _essential(_words(e.id))[: len(begun)] == begun]
    if len(found) == 1:
        return found[0]
    ids = {"".join(_without_fillers(_words(e.id))): e.id.rpartition("/")[2] for e in catalog()}
    keys = _close("".join(begun), ids, 0.5)
    raise UnknownName("model", printable(name), close=[ids[key] for key in keys])


def _close(name: str, names: Iterable[str], cutoff: float) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, list(names), 3, cutoff)


def _preference(entry: CatalogEntry) -> tuple[bool, int, str]:
    """Among equals: tuned for instructions, then the newest, then by name."""
    words = _words(entry.id)
    released = entry.release_date or next(filter(None, map(_month, words)), date.min)
    return _TUNED.isdisjoint(words), -released.toordinal(), entry.id


def _month(word: str) -> date | None:
    """The month that `2507` in a name stands for."""
    match = re.fullmatch(r"(2\d)(0[1-9]|1[0-2])", word)
    return date(2000 + int(match[1]), int(match[2]), 1) if match else None


def _words(name: str) -> list[str]:
    """Lower-case words of a name without its organisation."""
    last = name.lower().strip().rpartition("/")[2]
    return [word for word in re.split(r"[-_:\s]+", last) if word]


def _without_fillers(words: list[str]) -> list[str]:
    return [word.replace(".", "") for word in words if word not in _FILLERS]


def _essential(words: list[str]) -> list[str]:
    return [
        word.replace(".", "") for word in words if word not in _FILLERS and not re.fullmatch(_OPTIONAL, word)
    ]
