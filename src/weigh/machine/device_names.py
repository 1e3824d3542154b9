"""What people mean by the name of a device: `2x RTX 3090`, `rtx3090 x2`, `EPYC 9554, 12x DDR5-4800`.

A name is cut into words, letters apart from digits. An entry of a table is meant when every word said is one
of its own, and every word of its own that was not said is one people leave out: the maker, `GeForce`,
`Ryzen 9`. `Ti`, `SUPER` or `Mobile` are never left out, so `RTX 3060` is not a `RTX 3060 Ti`. What may be left
open is which variant is meant: its memory, its form (`SXM`, `PCIe`), its number of GPU cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from weigh.units import GIB

LEFT_OUT = frozenset(
    re.findall(
        r"\S+",
        "nvidia geforce amd radeon intel apple qualcomm aws ampere rtx gtx rx arc ryzen core xeon threadripper"
        " epyc instinct tesla gold silver platinum snapdragon cpu gpu processor graphics generation series"
        " workstation edition hbm2 hbm2e hbm3 hbm3e",
    )
)
LINES = frozenset(("i",))  # "i7-13700K" is said as "13700K", and "Ultra 7 155H" as "155H"
VARIANTS = frozenset(("pcie", "sxm", "sxm2", "sxm4", "sxm5", "nvl", "gb", "quadro", "ada", "blackwell"))

_BETWEEN = re.compile(r"\s*[,;]\s*|\s+\+\s*|(?<=\w)(?<!max)\+(?=\s*\w)|\s+with\s+|\s+and\s+", re.IGNORECASE)
# `64G` is a size, `5600G` a processor
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?:GiB|GB|(?<!\d{4})G)\b(\s*RAM\b)?", re.IGNORECASE)
_DDR = re.compile(
    r"(?:\b(\d+)\s*(?:x|×|-?ch(?:annels?)?)\s*)?\b((?:LP)?DDR[345]X?)(?:[- ]?(\d{3,5})\b)?(?:\s*MT/s)?",
    re.IGNORECASE,
)
_COUNT_FIRST = re.compile(r"(\d{1,3})\s*[x×*]\s*(?=\S)", re.IGNORECASE)
_COUNT_LAST = re.compile(r"(?:\s+|(?<=\d))[x×*]\s*(\d{1,3})$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ram:
    """Main memory as it was said.

    Attributes:
        channels, mt_per_s: of `12x DDR5-4800`; None where not said.
        bytes: of `64GB`; None where not said.
    """

    bytes: int | None = None
    channels: int | None = None
    mt_per_s: int | None = None

    def __bool__(self) -> bool:
        return self != Ram()


@dataclass(frozen=True, slots=True)
class Said:
    """One part of what was said, between commas or plus signs.

    Attributes:
        count: 2 in `2x RTX 3090`.
        size_gb: memory said beside the name, as printed on the box.
        ram: memory said to be RAM.
    """

    name: str
    count: int = 1
    size_gb: float | None = None
    ram: Ram = Ram()


def parts(text: str) -> list[Said]:
    """`RTX 4090 + 64GB DDR5-6000` as its card and its RAM."""
    return [_said(piece) for piece in _BETWEEN.split(text.strip()) if piece.strip()]


def _said(text: str) -> Said:
    """A size is RAM when the words `RAM` or `DDR5` say so, or when nothing else is named beside it."""
    ddr = _DDR.search(text)
    channels, rate = (ddr[1], ddr[3]) if ddr else (None, None)
    rest = _DDR.sub(" ", text)
    sizes = [(float(found[1]), bool(found[2])) for found in _SIZE.finditer(rest)]
    rest = re.sub(r"\b(?:V?RAM|memory)\b", " ", _SIZE.sub(" ", rest), flags=re.IGNORECASE)
    count, name = _count(" ".join(rest.split()))
    in_ram = [size for size, said in sizes if said or ddr or not name]
    own = [size for size, said in sizes if not (said or ddr or not name)]
    ram = Ram(
        int(in_ram[0] * GIB) if in_ram else None,
        int(channels) if channels else None,
        int(rate) if rate else None,
    )
    return Said(name, count, own[0] if own else None, ram)


def _count(text: str) -> tuple[int, str]:
    first = _COUNT_FIRST.match(text)
    if first:
        return int(first[1]), text[first.end() :].strip()
    last = _COUNT_LAST.search(text)
    return (int(last[1]), text[: last.start()].strip()) if last else (1, text)


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """`rtx3090Ti 24GB` as ``("rtx", "3090", "ti", "24", "gb")``; `7950X3D`, `13700K` and `H100` stay whole."""
    plain = name.lower().replace("(r)", " ").replace("(tm)", " ").replace("laptop", "mobile")
    plain = re.sub(r"(rtx|gtx|rx|arc|ryzen|epyc|xeon|geforce|radeon)(?=\d)", r"\1 ", plain)
    plain = re.sub(r"\b(?:i|ultra )(?=[3579]\b)", "i ", plain)
    plain = re.sub(r"(\d)(ti|super|gb|core|xtx|xt|gre)\b", r"\1 \2", plain)
    plain = re.sub(r"\bti(super)\b", r"ti \1", plain)
    return tuple(re.findall(r"[a-z0-9]+\+?", plain))


def says_something(asked: Sequence[str]) -> bool:
    """Whether a word names more than a maker or a family: `RTX` alone means nothing."""
    return any(word not in LEFT_OUT and word not in VARIANTS and len(word) > 1 for word in asked)


def unsaid(asked: Sequence[str], own: Sequence[str]) -> int | None:
    """How many words that tell variants apart were not said; None when the entry is not what was said."""
    left = list(own)
    for word in asked:
        found = next((w for w in left if _same(word, w)), None)
        if found is not None:
            left.remove(found)
        elif word not in LEFT_OUT:
            return None
    left = [word for word in left if word not in LEFT_OUT]
    return len(left) if all(w in LINES or w in VARIANTS or _is_small_number(w) for w in left) else None


def _same(asked: str, own: str) -> bool:
    """`SXM` is said for `SXM5`, `Max` for `Max+`; EPYC's `9554P` is a `9554` for one socket."""
    return (
        asked == own
        or asked == own.removesuffix("+")
        or (asked == "sxm" and own.startswith("sxm"))
        or (len(own) == 4 and own.isdigit() and asked == own + "p")
    )


def _is_small_number(word: str) -> bool:
    """Sizes in GB, GPU cores, the 9 of `Ryzen 9`."""
    return word.isdigit() and len(word) < 4


def short_name(name: str) -> str:
    """As people say it: without the maker and words nobody types."""
    plain = re.sub(r"\(.*\)", "", name)
    kept = [
        w for w in plain.split() if w not in ("NVIDIA", "GeForce", "AMD", "Radeon", "Intel", "Apple", "Tesla")
    ]
    return " ".join(kept) or name


def family_name(name: str) -> str:
    """Of all variants: `H100` for `NVIDIA H100 SXM5 80 GB`."""
    kept = re.sub(r"\b\d+ GB\b", "", short_name(name)).split()
    return " ".join(w for w in kept if w.lower() not in VARIANTS) or short_name(name)


def close_names(asked: str, names: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Names a slip of the fingers away, the nearest first."""
    said = _squeezed(asked)
    ranked = []
    for name in dict.fromkeys(family_name(n) for n in names):
        own = _squeezed(name)
        if abs(len(own) - len(said)) <= 4:
            share = edits(said, own) / max(len(own), len(said), 1)
            ranked.append(
                (share, sorted(said) != sorted(own), name)
            )  # letters swapped before letters changed
    ranked.sort(key=lambda found: found[:2])
    return tuple(name for share, _, name in ranked[:most] if share <= 0.34)


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", short_name(name).lower())


def edits(a: str, b: str) -> int:
    """Letters to insert, drop, change or swap with their neighbour to make `b` of `a`.

    Source: Damerau 1964; the restricted form, in which no letter is edited twice.
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before = above
    return row[-1]
