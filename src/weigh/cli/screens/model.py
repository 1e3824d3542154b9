"""What a model is made of, and which models lie here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Grid, show
from weigh.cli.screens.facts import facts

if TYPE_CHECKING:
    from weigh.advise.shelf import OnShelf
    from weigh.estimate.site import Site
    from weigh.model.spec import ModelSpec


def show_model(spec: ModelSpec) -> None:
    from weigh.model.breakdown import breakdown

    kinds = ", ".join(
        f"{len(m.layers)} {m.kind}" + (f" ({m.window})" if m.window else "") for m in spec.mixers
    )
    active = f", {units.count(spec.active_parameters)} active" if spec.experts else ""
    file = units.gib(spec.file_bytes) if spec.file_bytes else f"about {units.gib(_file_bytes(spec))}"
    facts(
        [
            ("Model", f"{spec.name} ({spec.architecture})"),
            ("Parameters", f"{units.count(spec.parameters)} ({spec.parameters:,}){active}"),
            (
                "Weights",
                f"{units.gib(spec.tensor_bytes)} in {spec.quantization},"
                f" {spec.bits_per_weight:.2f} bits per weight; file {file}",
            ),
            ("Layers", f"{spec.layers}: {kinds}; width {spec.hidden:,}, vocabulary {spec.vocab:,}"),
            *(
                [("Experts", f"{spec.experts} per layer, {spec.experts_used} used by a token")]
                if spec.experts
                else []
            ),
            (
                "KV cache",
                f"{_cache_per_token(spec)}; trained for {spec.context_train:,} tokens of context",
            ),
            *([("Beside it", _beside(spec))] if spec.beside else []),
            *(("Note", note) for note in spec.notes),
            *(("Contradiction", said) for said in spec.contradictions),
        ]
    )
    show()
    numbers = ("parameters", "bytes", "of all bytes")
    parts = Grid(("part", *numbers, "types"), right=numbers, prose=("types",))
    for part in breakdown(spec):
        parts.add(
            part.name,
            units.count(part.parameters),
            units.gib(part.bytes),
            f"{part.bytes / max(spec.tensor_bytes, 1):.1%}",
            ", ".join(part.types),
        )
    show(parts)


def _cache_per_token(spec: ModelSpec) -> str:
    from weigh.model.breakdown import kv_bytes_per_token

    if per_token_bytes := kv_bytes_per_token(spec):
        return f"{units.gib(per_token_bytes)} per token in F16"
    return "none that grows with context" if spec.generates else "none: it writes no tokens"


_BESIDE = {"v": "images", "a": "sound", "mm": "projector", "mtp": "further tokens"}


def _beside(spec: ModelSpec) -> str:
    """Parameters and bytes of what decoding text does not use."""
    sums: dict[str, tuple[int, int]] = {}
    for group in spec.beside:
        kind = _BESIDE.get(group.name.partition(".")[0], "other")
        parameters, held = sums.get(kind, (0, 0))
        sums[kind] = parameters + group.total_elements, held + group.total_bytes
    said = ", ".join(f"{kind} {units.count(n)} ({units.gib(held)})" for kind, (n, held) in sums.items())
    return f"{said}: not loaded to decode text"


def show_shelf(shelf: Sequence[OnShelf], site: Site) -> None:
    """What lies here, largest first in each place, and whether it fits."""
    if not shelf:
        show(
            "no models were found in Ollama's store, the Hugging Face cache, LM Studio's or llama.cpp's folders,"
            " or here"
        )
        return
    columns = ("model", "place", "parameters", "quant", "on disk", "needs", "fits")
    listed = Grid(columns, right=("parameters", "on disk", "needs"), prose=("fits",), note=_shelf_note(site))
    for one in shelf:
        found, setup = one.found, one.setup
        listed.add(
            found.name,
            found.place,
            units.count(found.parameters) if found.parameters else "",
            found.quantization or "",
            units.gib(found.file_bytes),
            units.gib(setup.memory.total_bytes) if setup else "",
            ("yes" if setup.fits else "no") if setup else one.reason,
        )
    show(listed)


def _shelf_note(site: Site) -> str:
    from weigh.advise.shelf import SHELF_TOKENS

    return f"needs: weights, {SHELF_TOKENS:,} tokens of context and the engine, on {site.target.name}"


def _file_bytes(spec: ModelSpec) -> int:
    from weigh.model.gguf_size import file_bytes  # a file's own size needs none of the recipes

    return file_bytes(spec)
