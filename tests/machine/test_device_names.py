"""What people type is cut into cards, processors and memory."""

from __future__ import annotations

import random

import pytest

from weigh.machine.device_names import (
    Index,
    Ram,
    Said,
    close_names,
    edits,
    parts,
    says_something,
    short_name,
    spellings,
    unsaid,
    words,
)
from weigh.machine.device_sheets import gpu_sheets, host_sheets
from weigh.units import GIB


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RTX 4090", [Said("RTX 4090")]),
        ("2x RTX 3090", [Said("RTX 3090", 2)]),
        ("rtx3090 x2", [Said("rtx3090", 2)]),
        ("rtx 3090x2", [Said("rtx 3090", 2)]),
        ("8xH100", [Said("H100", 8)]),
        ("RX 580", [Said("RX 580")]),  # its X is no count
        ("A100 80GB", [Said("A100", size_gb=80)]),
        ("RTX 4090, 64GB RAM", [Said("RTX 4090"), Said("", ram=Ram(64 * GIB))]),
        ("RTX 4090 + 64GB", [Said("RTX 4090"), Said("", ram=Ram(64 * GIB))]),
        ("RTX 4090+64GB", [Said("RTX 4090"), Said("", ram=Ram(64 * GIB))]),
        ("EPYC 9554, 12x DDR5-4800", [Said("EPYC 9554"), Said("", ram=Ram(None, 12, 4800))]),
        ("Xeon 6248 6x DDR4-2933 256GB", [Said("Xeon 6248", ram=Ram(256 * GIB, 6, 2933))]),
        ("Ryzen AI Max+ 395 128GB", [Said("Ryzen AI Max+ 395", size_gb=128)]),  # its plus joins nothing
    ],
)
def test_parts_are_what_was_said(text: str, said: list[Said]) -> None:
    assert parts(text) == said


def test_joined_and_spaced_spellings_give_the_same_words() -> None:
    assert words("rtx4090") == words("RTX 4090") == ("rtx", "4090")
    assert words("RTX 3060Ti") == words("rtx 3060 ti")
    assert words("Core(TM) i7-13700K") == ("core", "i", "7", "13700k")


def test_maker_and_family_may_go_unsaid_but_not_ti() -> None:
    assert unsaid(words("3060"), words("NVIDIA GeForce RTX 3060 12 GB")) == 2  # 12 and GB tell variants apart
    assert unsaid(words("3060"), words("NVIDIA GeForce RTX 3060 Ti")) is None
    assert unsaid(words("RTX 3060 Laptop GPU"), words("NVIDIA GeForce RTX 3060 Mobile")) == 0
    assert unsaid(words("EPYC 9554P"), words("AMD EPYC 9554")) == 0


def test_a_family_alone_names_nothing() -> None:
    assert not says_something(words("RTX"))
    assert not says_something(words("Intel Xeon"))
    assert says_something(words("T4"))


def test_an_index_finds_what_comparing_every_entry_finds() -> None:
    labels = [label for sheet in (*gpu_sheets(), *host_sheets()) for label in sheet.labels]
    index = Index((label, (label,)) for label in labels)
    for said in [*map(short_name, labels), "H100 SXM", "EPYC 9554P", "Ryzen AI Max 395", "4090 laptop", "B2"]:
        asked = words(said)
        open_words = ((unsaid(asked, words(label)), label) for label in labels)
        compared = [(left, label) for left, label in open_words if left is not None]
        assert index.meant(asked) == (compared if says_something(asked) else [])


def test_a_swap_of_neighbours_is_one_edit() -> None:
    assert edits("4900", "4090") == 1
    assert edits("h10o", "h100") == 1
    assert edits("", "abc") == edits("abc", "") == 3


def test_edits_are_those_of_the_whole_table_of_partial_distances() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        a, b = ("".join(chance.choices("ab1", k=chance.randrange(9))) for _ in range(2))
        assert edits(a, b) == _tabled_edits(a, b), (a, b)


def _tabled_edits(a: str, b: str) -> int:
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            ways = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y)]
            if i > 1 and j > 1 and (x, y) == (b[j - 2], a[i - 2]):
                ways.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(ways)
    return table[len(a), len(b)]


def test_close_names_are_those_a_slip_away() -> None:
    names = ["NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090", "NVIDIA H100 SXM5 80 GB", "Apple M1"]
    known = spellings(names)
    assert close_names("RTX 4900", known)[0] == "RTX 4090"
    assert close_names("H10O", known) == ("H100",)
    assert close_names("banana", known) == ()
    assert close_names("RTX 4900" + " " * 60, known) == ()  # longer than any name: not compared
