"""What people mean by the name of a device: `2x RTX 3090`, `rtx3090 x2`, `EPYC 9554, 12x DDR5-4800`.

A name is cut into words, letters apart from digits. An entry of a table is meant when every word said is one
of its own, and every word of its own that was not said is one people leave out: the maker, `GeForce`,
`Ryzen 9`. `Ti`, `SUPER` or `Mobile` are never left out, so `RTX 3060` is not a `RTX 3060 Ti`. What may be left
open is which variant is meant: its memory, its form (`SXM`, `PCIe`), its number of GPU cores.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

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
MOST_MISSPELT_LETTERS = 64  # the longest name of a table has 36
SLIPS_PER_LETTER = 0.34
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
    plain = " ".join(text.split())  # many blanks would each be tried as the beginning of a separator
    return [_said(piece) for piece in _BETWEEN.split(plain) if piece.strip()]


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
        found = next((w for w in left if word in _sayings(w)), None)
        if found is not None:
            left.remove(found)
        elif word not in LEFT_OUT:
            return None
    left = [word for word in left if word not in LEFT_OUT]
    return len(left) if all(w in LINES or w in VARIANTS or _is_small_number(w) for w in left) else None


def _sayings(own: str) -> set[str]:
    """How a word is said: `SXM` for `SXM5`, `Max` for `Max+`; EPYC's `9554P` is a `9554` for one socket."""
    said = {own, own.removesuffix("+")}
    if own.startswith("sxm"):
        said.add("sxm")
    if len(own) == 4 and own.isdigit():
        said.add(own + "p")
    return said


def _is_small_number(word: str) -> bool:
    """Sizes in GB, GPU cores, the 9 of `Ryzen 9`."""
    return word.isdigit() and len(word) < 4


Entry = TypeVar("Entry")


class Index(Generic[Entry]):
    """Entries of a table by the words of their labels: only those that hold every word said are compared."""

    def __init__(self, labelled: Iterable[tuple[Entry, Sequence[str]]]) -> None:
        self._entries: list[Entry] = []
        self._labels: list[tuple[int, tuple[str, ...]]] = []
        self._holders: dict[str, set[int]] = defaultdict(set)
        for number, (entry, labels) in enumerate(labelled):
            self._entries.append(entry)
            for own in map(words, labels):
                for saying in (saying for word in own for saying in _sayings(word)):
                    self._holders[saying].add(len(self._labels))
                self._labels.append((number, own))

    def meant(self, asked: Sequence[str]) -> list[tuple[int, Entry]]:
        """Entries that are meant, in their order, each with the count of its words left open (see `unsaid`)."""
        if not says_something(asked):
            return []
        telling = [self._holders.get(word, set()) for word in set(asked) - LEFT_OUT]
        open_words: dict[int, int] = {}
        for place in sorted(set.intersection(*telling)):
            number, own = self._labels[place]
            left = unsaid(asked, own)
            if left is not None:
                open_words[number] = min(left, open_words.get(number, left))
        return [(left, self._entries[number]) for number, left in open_words.items()]


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


@dataclass(frozen=True, slots=True)
class Spelling:
    """A name as it is compared with others.

    Attributes:
        letters: small letters and digits alone.
        counts: a bit for each of those, and for each time it comes again.
        place: in the table.
    """

    name: str
    letters: str
    counts: int
    place: int


def spellings(names: Iterable[str]) -> Mapping[int, Sequence[Spelling]]:
    """Of all families among the names, by the number of letters."""
    by_length: dict[int, list[Spelling]] = defaultdict(list)
    for place, name in enumerate(dict.fromkeys(map(family_name, names))):
        spelling = _spelling(name, place)
        by_length[len(spelling.letters)].append(spelling)
    return dict(by_length)


def _spelling(name: str, place: int = 0) -> Spelling:
    letters = re.sub(r"[^a-z0-9]", "", short_name(name).lower())
    counts = 0
    for letter in letters:
        bit = 1 << int(letter, 36)
        while counts & bit:
            bit <<= 36
        counts |= bit
    return Spelling(name, letters, counts, place)


def close_names(asked: str, known: Mapping[int, Sequence[Spelling]], most: int = 3) -> tuple[str, ...]:
    """Names a slip of the fingers away, the nearest first."""
    if len(asked) > MOST_MISSPELT_LETTERS:
        return ()
    said = _spelling(asked)
    ranked = []
    for length, of_length in known.items():
        longer = max(length, len(said.letters))
        slips = int(longer * SLIPS_PER_LETTER)
        shared = longer - slips  # at least: a slip costs one letter
        for own in [own for own in of_length if (own.counts & said.counts).bit_count() >= shared]:
            found = edits(said.letters, own.letters)
            if found <= slips:
                changed = own.counts != said.counts  # letters swapped before letters changed
                ranked.append((found / max(longer, 1), changed, own.place, own.name))
    return tuple(name for *_, name in sorted(ranked)[:most])


def edits(a: str, b: str) -> int:
    """Letters to insert, drop, change or swap with their neighbour to make `b` of `a`.

    No letter is edited twice (Damerau 1964, the restricted form). Differences between neighbours in the
    table of partial distances are -1, 0 or 1, so that a column of them is two numbers of a bit per letter
    of `a`. Source: Hyyrö 2003, A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances.
    """
    every = (1 << len(a)) - 1
    places: dict[str, int] = {}
    for place, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << place
    distance = len(a)
    more, fewer = every, 0  # where the distance is one more, or less, than a row above
    same_before = diagonal = 0
    for letter in b:
        same = places.get(letter, 0)
        swapped = (~diagonal & same) << 1 & same_before
        diagonal = ((same & more) + more ^ more | same | fewer | swapped) & every  # where it costs nothing
        right_more, right_fewer = (fewer | ~(diagonal | more)) & every, diagonal & more
        distance += (right_more >> len(a) - 1 & 1) - (right_fewer >> len(a) - 1 & 1) if a else 1
        right_more, right_fewer = right_more << 1 | 1, right_fewer << 1
        more, fewer = (right_fewer | ~(diagonal | right_more)) & every, right_more & diagonal
        same_before = same
    return distance
