"""The GGUF models among a list of files: which parts belong together, and which one a person means.

A folder or repository often holds one model at ten quantizations, some of them in parts, beside projectors
and importance matrices that are no models. What sets the models apart is said by file names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from weigh.errors import BadInput, UnknownName
from weigh.model.gguf import SPLIT_NAME, printable
from weigh.units import gib

MOST_LISTED = 12

# Ends of names as publishers give them: `-Q4_K_M`, `.IQ2_XXS`, `-UD-Q4_K_XL`, `-fp16`, `-MXFP4_MOE`.
_SAID = re.compile(
    r"(?i)(?:^|[-._/])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4))(?=[-._/]|$)"
)
_NO_MODEL = re.compile(r"(?i)mmproj|imatrix")


@dataclass(frozen=True, slots=True)
class GgufVariant:
    """One GGUF model of a listing.

    Attributes:
        name: of its first part, as listed (`Q8_0/model-00001-of-00002.gguf`).
        size_bytes: of all its parts that are there.
        parts, missing: how many files make it up, and how many of them are not listed.
        quantization: what its name says, `Q4_K_M` or `UD-Q4_K_XL`; "" when it says nothing.
    """

    name: str
    size_bytes: int
    parts: int = 1
    missing: int = 0
    quantization: str = ""

    @property
    def label(self) -> str:
        """What picks it: its quantization, or its name when that is not said."""
        return self.quantization or PurePosixPath(self.name).name

    def __str__(self) -> str:
        split = f" in {self.parts} parts" if self.parts > 1 else ""
        return f"`{printable(self.label)}` {gib(self.size_bytes)}{split}"


class SeveralModels(BadInput):
    """A place holds several models and none was picked; `variants` are all of them, smallest first."""

    def __init__(self, place: str, variants: Sequence[GgufVariant], *, hint: str) -> None:
        more = f" and {len(variants) - MOST_LISTED} more" if len(variants) > MOST_LISTED else ""
        listed = ", ".join(map(str, variants[:MOST_LISTED]))
        super().__init__(f"{place} holds {len(variants)} GGUF models: {listed}{more}", hint=hint)
        self.variants = tuple(variants)


def gguf_variants(sizes_bytes: Mapping[str, int]) -> list[GgufVariant]:
    """The models among files given with their sizes, smallest first."""
    parts: dict[tuple[str, int], list[str]] = {}
    for name in sorted(sizes_bytes):
        if name.lower().endswith(".gguf") and not _NO_MODEL.search(PurePosixPath(name).name):
            split = SPLIT_NAME.fullmatch(name)
            parts.setdefault((split[1], int(split[3])) if split else (name, 1), []).append(name)
    found = [
        GgufVariant(
            name=names[0],
            size_bytes=sum(sizes_bytes[name] for name in names),
            parts=count,
            missing=max(0, count - len(names)),
            quantization=said_quantization(stem),
        )
        for (stem, count), names in parts.items()
    ]
    return sorted(found, key=lambda variant: (variant.size_bytes, variant.name))


def said_quantization(stem: str) -> str:
    """The last one in its file name, else in its folder's."""
    path = PurePosixPath(stem.removesuffix(".gguf"))
    for part in (path.name, str(path.parent)):
        if said := _SAID.findall(part):
            return str(said[-1]).upper().replace("FP16", "F16").replace("FP32", "F32")
    return ""


def picked(variants: Sequence[GgufVariant], choice: str, place: str, *, typed: str) -> GgufVariant:
    """The variant that `choice` (a quantization or a file name) means, or the only one there is.

    `typed` is how a choice begins, to show how it is written: `hf:ORG/NAME:`, or a folder with its slash.

    Raises:
        SeveralModels: nothing was chosen, or several are called that.
        UnknownName: the choice is not among them.
    """
    found = [variant for variant in variants if not choice or _is_meant(variant, choice)]
    if not found:
        found = [variant for variant in variants if variant.quantization == f"UD-{choice.upper()}"]
    if len(found) > 1:
        said = found[0].name if typed.endswith("/") else _telling(found[0], found)
        raise SeveralModels(place, found, hint=f"choose one: `{typed}{printable(said)}`")
    if not found:
        labels = [_telling(variant, variants) for variant in variants]
        raise UnknownName(f"GGUF model of {place}", printable(choice), close=_closest(choice, labels))
    return found[0]


def telling_label(variant: GgufVariant, variants: Iterable[GgufVariant]) -> str:
    """What picks this variant and no other: its quantization, else its file's name."""
    return printable(_telling(variant, variants))


def _telling(variant: GgufVariant, variants: Iterable[GgufVariant]) -> str:
    alike = [other for other in variants if other.label == variant.label]
    return variant.label if len(alike) == 1 else variant.name


def _is_meant(variant: GgufVariant, choice: str) -> bool:
    names = (variant.quantization, variant.name, PurePosixPath(variant.name).name)
    return choice.lower() in (name.lower() for name in names)


def _closest(choice: str, labels: Sequence[str]) -> list[str]:
    from difflib import get_close_matches

    return [printable(label) for label in get_close_matches(choice.upper(), labels, 3, 0.3) or labels[:3]]
