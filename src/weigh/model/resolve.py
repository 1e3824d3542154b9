"""From what a person types to a model: a path, a place and a name in it, or a name that is nearly one.

`ollama:`, `lmstudio:` and `hf:` say the place. A name without one is looked up in the catalog, and only when
that knows nothing like it in the Hugging Face cache: what a name means must not change with a download.

People type `llama-3.1-8b` for `meta-llama/Llama-3.1-8B-Instruct`, and `gpt-oss:20b` as other tools have
it. So names are compared without organisation, case and punctuation, then without words that say little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.errors import BadInput, NotSupported, UnknownName
from weigh.model.folder import sizes_below
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import printable, read_gguf
from weigh.model.spec import ModelSpec
from weigh.model.variants import gguf_variants, picked

# A GGUF file needs neither catalog nor architectures nor recipes, so these are imported where names are.
if TYPE_CHECKING:
    from weigh.model.catalog import CatalogEntry

DEFAULT_RECIPE = "Q4_K_M"

_TUNED = frozenset({"instruct", "it", "chat"})
_FILLERS = _TUNED | {"hf", "base", "meta", "gguf", "c4ai", "nvidia", "bf16"}
# Words of a catalog id that may be left out: versions and dates of release, context, active parameters.
_OPTIONAL = r"v\d[\d.]*|\d{4}|\d+k|a[\d.]+[bm]"
_RECIPE_LIKE = r"(?i)(i?q|tq)\d.*|b?f(16|32)|(mx|nv|b?f)fp.*|awq.*|gptq.*|nf\d.*|int\d.*"


def resolve(name: str, *, checkpoint: bool = False) -> ModelSpec:
    """The model meant by a path or a name, with an optional quantization: `qwen2.5-coder-7b:Q5_K_M`.

    A path is a GGUF file, a `config.json`, or a folder with one model in it, or with several GGUF models
    of which the recipe picks one. A catalog model named without a recipe is Q4_K_M, or the mix it is
    published in when that is quantized already (gpt-oss). A format that only checkpoints have (`:AWQ`,
    `:FP8`) gives what a published checkpoint of it holds.

    Args:
        checkpoint: for engines that run safetensors checkpoints: a catalog model named alone is BF16, and
            names that both kinds of file know (`:BF16`, `:MXFP4`) mean the checkpoint's.

    Raises:
        UnknownName: no model or recipe of that name; close ones are attached.
        BadInput: a path that does not exist, or that holds no model or several.
        NotSupported: a recipe for a file that is quantized already.
        Unreachable: a model of the hub that is not in the cache, when the hub does not give it.
    """
    if not name.strip():
        raise BadInput("no model was named")
    place, colon, rest = name.strip().partition(":")
    if colon and (found_in := _PLACES.get(place.lower())):
        return found_in(rest)
    if (found := _at_path(name)) is not None:
        return found
    if name.strip().endswith(":"):
        raise BadInput(
            f"`{printable(name.strip())}` names no quantization",
            hint="leave out the colon, or add one, e.g. `:Q4_K_M`",
        )
    bare, recipe = (name, None) if _is_id(name) else _recipe_apart(name)
    if recipe and (found := _at_path(bare, recipe)) is not None:
        return _requantized(found, recipe, checkpoint=checkpoint)
    if _looks_like_path(bare):
        raise BadInput(f"`{printable(bare)}` does not exist")
    entry = _entry(bare)
    if entry is None:
        if (cached := _of_cache(name)) is not None:
            return cached
        with suppress(OSError, ValueError):  # unreadable, too long, or with a zero byte: no folder either
            if Path(bare).is_dir():
                raise _no_model_in(Path(bare))
        raise _unknown(bare)
    spec = entry.spec()
    return _made(spec, recipe or _default_recipe(spec, checkpoint=checkpoint), checkpoint=checkpoint)


def _default_recipe(spec: ModelSpec, *, checkpoint: bool) -> str:
    published = any(tensor.type is GgmlType.MXFP4 for tensor in spec.tensors)
    if checkpoint:
        return "MXFP4" if published else "BF16"
    return "MXFP4_MOE" if published else DEFAULT_RECIPE


def _made(spec: ModelSpec, recipe: str, *, checkpoint: bool) -> ModelSpec:
    """An unquantized model at a recipe of llama.cpp's or a checkpoint's format."""
    from weigh.model.quantization import ALL_RECIPES, BY_HAND, quantize
    from weigh.model.stored_quantization import scheme_names, stored

    by_rule = recipe in ALL_RECIPES or BY_HAND.fullmatch(recipe)  # the latter it refuses with a reason
    if not by_rule or (checkpoint and recipe in scheme_names()):
        return stored(spec, recipe)
    return quantize(spec, recipe)


def _requantized(spec: ModelSpec, recipe: str, *, checkpoint: bool = False) -> ModelSpec:
    if spec.quantization == recipe:
        return spec
    if any(tensor.type.quantized for tensor in spec.tensors):
        raise NotSupported(f"{spec.name} is {spec.quantization} already; it cannot be made {recipe} again")
    return _made(spec, recipe, checkpoint=checkpoint)


# --- places ------------------------------------------------------------------------------------------


def _of_ollama(typed: str) -> ModelSpec:
    from weigh.model.ollama import read_ollama

    return read_ollama(typed)


def _of_lm_studio(typed: str) -> ModelSpec:
    from weigh.model.lm_studio import lm_studio_model

    model_id, _, choice = typed.strip().partition(":")
    model = lm_studio_model(model_id)
    variants = gguf_variants(model.sizes_bytes)
    if not variants:
        from weigh.model.checkpoint import read_checkpoint

        return _with_recipe(replace(read_checkpoint(model.folder), name=model.id), choice)
    variant = picked(variants, choice, model.id, typed=f"lmstudio:{model.id}:")
    return replace(read_gguf(model.folder / variant.name), name=model.id)


def _of_hub(typed: str) -> ModelSpec:
    """From the cache when the whole model is there, else from the hub."""
    from weigh.model.hub_cache import hub_reference, read_cached

    reference = hub_reference(typed)
    spec = read_cached(reference)
    if spec is None:
        from weigh.model.hub import read_hub

        spec = read_hub(reference)
    return spec if spec.format == "gguf" else _with_recipe(spec, reference.choice)


def _of_cache(typed: str) -> ModelSpec | None:
    from weigh.model.hub_cache import hub_reference, read_cached

    try:
        reference = hub_reference(typed)
    except BadInput:
        return None
    spec = read_cached(reference)
    if spec is None or spec.format == "gguf":
        return spec
    return _with_recipe(spec, reference.choice)


_PLACES: Mapping[str, Callable[[str], ModelSpec]] = {
    "ollama": _of_ollama,
    "lmstudio": _of_lm_studio,
    "hf": _of_hub,
}


def _with_recipe(spec: ModelSpec, choice: str) -> ModelSpec:
    """A checkpoint at another quantization than it is stored in."""
    if not choice:
        return spec
    recipe = choice.upper()
    if recipe not in _quantizations():
        raise UnknownName("quantization", printable(choice), close=_close(recipe, _quantizations(), 0.4))
    return _requantized(spec, recipe)


@cache
def _quantizations() -> tuple[str, ...]:
    """Names of recipes and of checkpoints' formats, longest first."""
    from weigh.model.quantization import ALL_RECIPES
    from weigh.model.stored_quantization import scheme_names

    return tuple(sorted({*ALL_RECIPES, *scheme_names()}, key=lambda name: (-len(name), name)))


# --- paths -------------------------------------------------------------------------------------------


def _looks_like_path(name: str) -> bool:
    return (
        name in (".", "..")
        or name.startswith(("/", "./", "../", "~"))
        or name.lower().endswith((".gguf", ".json", ".safetensors"))
        or name.count("/") > 1
    )


def _at_path(name: str, choice: str = "") -> ModelSpec | None:
    """The model at a path; None when nothing is there, or a folder without model that may be a name.

    `choice` picks among several GGUF models of a folder.
    """
    try:
        path = Path(name).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a zero byte, or nobody's home: no path
        return None
    if is_folder:
        return _in_folder(path, choice, needed=_looks_like_path(name))
    if not exists:
        return None
    if path.suffix == ".safetensors" and path.is_file():
        return _checkpoint(path)
    return _config(path) if path.suffix == ".json" and path.is_file() else read_gguf(path)


def _in_folder(folder: Path, choice: str, *, needed: bool) -> ModelSpec | None:
    try:
        has_config = (folder / "config.json").is_file()
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from error
    if models := gguf_variants(sizes_below(folder, 0)):
        variant = models[0] if len(models) == 1 else picked(models, choice, str(folder), typed=f"{folder}/")
        return read_gguf(folder / variant.name)
    if any(folder.glob("*.safetensors")) or (needed and not has_config and any(folder.glob("*.bin"))):
        return _checkpoint(folder)  # which says why it opens no pickle
    if has_config:
        return _config(folder)
    if needed:
        raise _no_model_in(folder)
    return None


def _no_model_in(folder: Path) -> BadInput:
    return BadInput(f"{printable(str(folder))} holds neither a GGUF file nor a `config.json`")


def _checkpoint(path: Path) -> ModelSpec:
    from weigh.model.checkpoint import read_checkpoint

    return read_checkpoint(path)


def _config(path: Path) -> ModelSpec:
    from weigh.model.config import read_config

    return read_config(path)


# --- names -------------------------------------------------------------------------------------------


def _recipe_apart(name: str) -> tuple[str, str | None]:
    """`gpt-oss:20b` has a size behind the colon, `qwen3:8b-q4_K_M` both, `phi-4:latest` neither."""
    from weigh.model.quantization import BY_HAND

    known = "|".join(map(re.escape, _quantizations()))
    if match := re.fullmatch(rf"(?i)(.*?)[-:]({BY_HAND.pattern}|{known})", name):
        return match[1], match[2].upper()
    head, colon, tail = name.rpartition(":")
    if not colon or tail.lower() == "latest":
        return (head if colon else name), None
    if re.fullmatch(_RECIPE_LIKE, tail):
        raise UnknownName("quantization", printable(tail), close=_close(tail.upper(), _quantizations(), 0.4))
    return name, None


def _is_id(name: str) -> bool:
    """Of the catalog, in full: some end in the name of a format, as `…-A3B-BF16`."""
    from weigh.model.catalog import catalog

    return any(name.strip().lower() == one.lower() for one in catalog().by_id)


def _entry(name: str) -> CatalogEntry | None:
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
        if found := list(filter(way, catalog().by_id.values())):
            return min(found, key=_preference)
    return _only_one_beginning(words)


def _only_one_beginning(words: list[str]) -> CatalogEntry | None:
    """`qwq` or `llama-4-scout`: a beginning that only one model has."""
    from weigh.model.catalog import catalog

    begun = _without_fillers(words)
    found = [e for e in catalog().by_id.values() if begun and _essential(_words(e.id))[: len(begun)] == begun]
    return found[0] if len(found) == 1 else None


def _unknown(name: str) -> UnknownName:
    """With the closest names of the catalog and of the Hugging Face cache."""
    from weigh.model.catalog import catalog
    from weigh.model.hub_cache import cached_repositories

    ids = {_plain(e.id): e.id.rpartition("/")[2] for e in catalog().by_id.values()}
    ids |= {_plain(repo): f"hf:{repo}" for repo in cached_repositories() if _plain(repo) not in ids}
    return UnknownName("model", printable(name), close=[ids[key] for key in _close(_plain(name), ids, 0.5)])


def _plain(name: str) -> str:
    return "".join(_without_fillers(_words(name)))


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
