"""`weigh quality MODEL… --text FILE|FOLDER`: its options, and what it does with them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weigh.cli.bench import is_url
from weigh.cli.durations import Seconds
from weigh.cli.options import Bytes, Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weigh.engines.engine import Limits
    from weigh.model.spec import ModelSpec
    from weigh.quality.text_models import Server

_MOST_S = 600.0
_SILENCE_S = 1800.0  # a window of 2,048 tokens takes a large model many minutes on few cores


@dataclass(frozen=True, slots=True)
class TextAsked:
    """What the options say; None where they do not."""

    place: Path
    against: str | None
    llama_windows: bool
    read_all: bool
    max_time: float | None
    memory_limit: int | None
    served_model: str | None
    key_env: str | None


_OPTIONS = {
    "against": click.option(
        "--against",
        metavar="MODEL",
        help="The reference to measure the divergence from, of the same vocabulary.",
    ),
    "llama_windows": click.option(
        "--llama-windows",
        is_flag=True,
        default=None,
        help="Perplexity as llama-perplexity defines it, to be held against its figures.",
    ),
    "read_all": click.option(
        "--all",
        "read_all",
        is_flag=True,
        default=None,
        help="Read all there is: no stop when the answer is clear, nor after 10 minutes.",
    ),
    "max_time": click.option(
        "--max-time", type=Seconds(), help="Begin no text after this long (default: 10m)."
    ),
    "memory_limit": click.option(
        "--memory-limit", type=Bytes(), help="End a model beyond this (default: what is free)."
    ),
    "served_model": click.option(
        "--model", "served_model", help="Of a server that has several: the name there."
    ),
    "key_env": click.option("--key-env", metavar="VARIABLE", help="Where the server's key is."),
}


def text_options(command: Command) -> Command:
    """Give `command` the options of a text; it gets them as `text`: a `TextAsked`, or None without `--text`."""

    @wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        place = given.pop("text")
        words = {name: given.pop(name) for name in _OPTIONS}
        said = [name for name, value in words.items() if value is not None]
        if said and place is None:
            flag = {"read_all": "all", "served_model": "model"}.get(said[0], said[0].replace("_", "-"))
            raise click.UsageError(f"--{flag} is of a text; add --text")
        words |= {name: bool(words[name]) for name in ("llama_windows", "read_all")}
        return command(*args, text=None if place is None else TextAsked(place, **words), **given)

    made: Any = gathered
    for option in reversed(list(_OPTIONS.values())):
        made = option(made)
    found: Command = click.option(
        "--text", type=click.Path(path_type=Path), help="A text, or a folder of them, to be foretold."
    )(made)
    return found


def run_text(
    models: Sequence[str], asked: TextAsked, *, threads: int | None = None, as_json: bool = False
) -> int:
    """Measure models on a text and show what was found; what ended it early then goes its usual way.

    Raises:
        BadInput, EngineError: as `weigh.quality.text_models`.
    """
    from weigh.engines.engine import Limits
    from weigh.machine.memory import read_memory

    memory_bytes = asked.memory_limit or read_memory().available_bytes
    limits = Limits(memory_bytes=memory_bytes, silence_s=_SILENCE_S)
    if asked.against is not None:
        if asked.llama_windows:
            raise click.UsageError("a divergence is of llama-perplexity's windows anyway; leave one out")
        return _run_against(models, asked, limits, threads=threads, as_json=as_json)
    if asked.llama_windows:
        return _run_llama(models, asked, limits, threads=threads, as_json=as_json)
    return _run_bits(models, asked, limits, threads=threads, as_json=as_json)


def _run_bits(
    models: Sequence[str], asked: TextAsked, limits: Limits, *, threads: int | None, as_json: bool
) -> int:
    from weigh.cli.render import ProgressLine, print_json
    from weigh.quality.keep import of_text
    from weigh.quality.text import read_texts
    from weigh.quality.text_models import on_text
    from weigh.store import Store
    from weigh.store.quality_result import try_to_save

    texts = read_texts(asked.place)
    named = [_model(model, asked) for model in models]
    with closing(ProgressLine(f"Reading {asked.place.name or asked.place}")) as progress:
        found = on_text(
            named,
            texts,
            threads=threads,
            limits=limits,
            stop_early=not asked.read_all,
            most_s=_most_s(asked),
            progress=progress,
        )
    not_kept = try_to_save(Store(), of_text(found, named, asked.place))
    if as_json:
        from weigh.cli.quality_text_document import text_document

        print_json(text_document(found))
    else:
        from weigh.cli.screens.quality_text import show_text

        show_text(found)
    if (error := not_kept or found.error) is not None:
        raise error
    return 0


def _run_llama(
    models: Sequence[str], asked: TextAsked, limits: Limits, *, threads: int | None, as_json: bool
) -> int:
    from weigh.cli.render import ProgressLine, print_json
    from weigh.quality.keep import of_windows
    from weigh.quality.text import read_texts
    from weigh.quality.text_models import on_llama_windows
    from weigh.store import Store
    from weigh.store.quality_result import try_to_save

    texts = read_texts(asked.place)
    named = [_model(model, asked) for model in models]
    with closing(ProgressLine(f"Reading {asked.place.name or asked.place}")) as progress:
        found = on_llama_windows(
            named, texts, threads=threads, limits=limits, most_s=_most_s(asked), progress=progress
        )
    not_kept = try_to_save(Store(), of_windows(found, named, texts, asked.place))
    if as_json:
        from weigh.cli.quality_text_document import perplexity_document

        print_json(perplexity_document(found))
    else:
        from weigh.cli.screens.quality_text import show_perplexities

        show_perplexities(found)
    if (error := not_kept or found.error) is not None:
        raise error
    return 0


def _run_against(
    models: Sequence[str], asked: TextAsked, limits: Limits, *, threads: int | None, as_json: bool
) -> int:
    from weigh.cli.render import ProgressLine, print_json
    from weigh.quality.keep import of_divergence
    from weigh.quality.text import read_texts
    from weigh.quality.text_models import against, of_file
    from weigh.store import Store
    from weigh.store.quality_result import try_to_save

    assert asked.against is not None
    texts = read_texts(asked.place)
    reference = _model(asked.against, asked)
    named = [_model(model, asked) for model in models]
    with closing(ProgressLine(f"Reading {asked.place.name or asked.place}")) as progress:
        found = against(
            reference,
            named,
            texts,
            threads=threads,
            limits=limits,
            most_s=_most_s(asked),
            progress=progress,
        )
    kept = of_divergence(found, of_file(reference), [of_file(model) for model in named], texts, asked.place)
    not_kept = try_to_save(Store(), kept)
    if as_json:
        from weigh.cli.quality_text_document import divergence_document

        print_json(divergence_document(found))
    else:
        from weigh.cli.screens.quality_text import show_divergence

        show_divergence(found)
    if (error := not_kept or found.error) is not None:
        raise error
    return 0


def _most_s(asked: TextAsked) -> float | None:
    if asked.max_time is None:
        return None if asked.read_all else _MOST_S
    return asked.max_time


def _model(name: str, asked: TextAsked) -> ModelSpec | Server:
    from weigh.model.resolve import resolve
    from weigh.quality.text_models import Server

    if is_url(name):
        return Server(name, asked.served_model, asked.key_env)
    return resolve(name)
