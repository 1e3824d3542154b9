from __future__ import annotations

import pytest

from tests.quality.repositories import program
from weigh.quality.excerpts import (
    EXCERPT_BYTES,
    LEAST_PREFIX_BYTES,
    LONGEST_LINE,
    PREFIX_BYTES,
    SUFFIX_BYTES,
    excerpts,
)
from weigh.quality.languages import language_of
from weigh.quality.repository import SourceFile


def source(text: str, path: str = "a.py") -> SourceFile:
    language = language_of(path)
    assert language is not None
    return SourceFile(path, language, text, None)


LONG = source(program("long", lines=400))


def test_excerpts_are_the_file_cut_at_line_ends() -> None:
    found = excerpts(LONG, seed=1)
    assert len(found) > 5
    assert sorted(LONG.text.index(one.text) for one in found)[0] == 0
    assert sum(len(one.text) for one in found) == len(LONG.text)
    assert all(one.text in LONG.text and len(one.text) <= EXCERPT_BYTES for one in found)


def test_each_line_is_asked_with_what_stands_around_it() -> None:
    lines = LONG.text.split("\n")
    for one in excerpts(LONG, seed=1):
        asked = one.position
        assert asked is not None
        assert asked.line == lines[asked.number - 1]
        assert asked.line + "\n" in one.text
        assert f"{asked.before}{asked.line}{asked.after}" in LONG.text
        assert LEAST_PREFIX_BYTES <= len(asked.before) <= PREFIX_BYTES
        assert asked.before.endswith("\n")
        assert asked.after.startswith("\n")
        assert len(asked.after) <= SUFFIX_BYTES


def test_the_seed_draws_lines_and_order() -> None:
    assert excerpts(LONG, seed=1) == excerpts(LONG, seed=1)
    assert excerpts(LONG, seed=1) != excerpts(LONG, seed=2)


@pytest.mark.parametrize(
    "line",
    ["", "    ", "    # said alone", "    }", "    ),", '    """Said of it.', f"x = {'y' * LONGEST_LINE}"],
)
def test_lines_that_say_little_are_not_asked_for(line: str) -> None:
    start = "# a comment that fills the place before the lines that are asked for\n" * 4
    (one,) = excerpts(source(start + f"{line}\n" * 5), seed=1)
    assert one.position is None
    (one,) = excerpts(source(start + f"{line}\n" * 5 + "asked = 1\n"), seed=1)
    assert one.position is not None
    assert one.position.line == "asked = 1"


def test_comments_are_the_languages_own() -> None:
    start = "int a_name_that_is_long_enough_to_stand_before_the_line_asked_for;\n" * 3
    text = start + "// said\n" * 40
    lines = {one.position.line for one in excerpts(source(text, "a.c"), seed=1) if one.position}
    assert "// said" not in lines


def test_letters_beyond_ascii_are_not_cut() -> None:
    text = program("a", lines=10) + "".join(f'    print("größe {n} – ça va 🙂")\n' for n in range(200))
    found = excerpts(source(text), seed=1)
    assert sum(len(one.text.encode()) for one in found) == len(text.encode())
    assert all(one.position is None or "\ufffd" not in one.position.after for one in found)


def test_the_last_line_counts_only_when_it_is_whole() -> None:
    text = program("a", lines=10)
    (one,) = excerpts(source(text + "unfinished = "), seed=1)
    assert "unfinished" not in one.text
