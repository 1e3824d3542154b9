"""Bits per byte, perplexity, and what is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quality.scoring import ENGLISH, opened, synthetic, texts
from weigh.errors import BadFile, BadInput
from weigh.quality import text as text_module
from weigh.quality.scorer import ChildScorer, Scores, TokenizedText
from weigh.quality.text import (
    BLOCK_BYTES,
    SECTION_BYTES,
    Text,
    llama_perplexity,
    read_texts,
    score_text,
    sections,
    text_quality,
    windows,
)


class Bytes:
    """A model of bytes that gives each the probability 2**-bits, and the likeliest none."""

    name, adds_bos = "bytes", False

    def __init__(self, bits: float, *, start: int | None = 256, context_tokens: int = 100) -> None:
        self.bits, self.start, self.context_tokens, self.vocab = bits, start, context_tokens, 257
        self.judged = 0

    def tokenize(self, text: str) -> TokenizedText:
        data = text.encode()
        return TokenizedText(list(data), list(range(1, len(data) + 1)))

    def score(self, tokens: Sequence[int], first: int) -> Scores:
        assert 1 <= first < len(tokens) <= self.context_tokens + 1
        count = len(tokens) - first
        self.judged += count
        return Scores(np.full(count, -self.bits * math.log(2)), np.zeros(count, dtype=bool))

    def close(self) -> None: ...

    def __enter__(self) -> Bytes:
        return self

    def __exit__(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildScorer]:
    with opened(synthetic(tmp_path_factory.mktemp("models") / "m.gguf")) as running:
        yield running


# --- windows -----------------------------------------------------------------------------------------


@settings(deadline=None)  # other work on the machine is no fault of theirs
@given(count=st.integers(0, 3000), room=st.integers(2, 700), first=st.integers(0, 1))
def test_every_token_is_judged_once_and_after_half_a_window(count: int, room: int, first: int) -> None:
    found = list(windows(count, room, first=first))
    judged = [n for _, begin, end in found for n in range(begin, end)]
    assert judged == list(range(first, count))
    for begin, judge, end in found:
        assert end - begin <= room
        assert begin == 0 or judge - begin >= room // 2


@settings(deadline=None)
@given(st.text(alphabet="ab\n\r🙂é", max_size=400))
def test_sections_are_the_text(text: str) -> None:
    assert "".join(sections(text)) == text


def test_long_files_are_cut_at_line_ends() -> None:
    text = "".join(f"line {n}\n" for n in range(20_000))
    found = list(sections(text))
    assert len(found) == math.ceil(len(text) / SECTION_BYTES)
    assert all(one.endswith("\n") and len(one) <= SECTION_BYTES for one in found)
    assert list(sections("a" * (2 * SECTION_BYTES))) == ["a" * (2 * SECTION_BYTES)]


# --- bits per byte -----------------------------------------------------------------------------------


def test_bits_per_byte_are_those_of_the_model() -> None:
    model = Bytes(3)
    found = score_text(model, Text("t", 0, ENGLISH))
    assert model.judged == found.tokens == found.text_bytes == len(ENGLISH)
    assert found.bits == pytest.approx(3 * len(ENGLISH))
    assert [piece.text_bytes for piece in found.pieces[:-1]] == [BLOCK_BYTES] * (len(found.pieces) - 1)
    made = text_quality([found])
    assert made.bits_per_byte.value == pytest.approx(3)
    assert made.perplexity.value == pytest.approx(8)
    assert made.bits_per_byte.low == pytest.approx(3)  # no piece is harder than another


def test_without_a_token_to_begin_with_the_first_is_charged_as_one_of_all() -> None:
    found = score_text(Bytes(3, start=None), Text("t", 0, "abcd"))
    assert found.bits == pytest.approx(math.log2(257) + 9)
    assert score_text(Bytes(3, start=None), Text("t", 0, "a")).bits == pytest.approx(math.log2(257))


def test_a_text_without_tokens_needs_no_bits() -> None:
    class DropsBlanks(Bytes):
        def tokenize(self, text: str) -> TokenizedText:
            return replace(super().tokenize(text.strip()), whole=False)

    made = text_quality([score_text(DropsBlanks(3), Text("t", 0, " \n"))])
    assert (made.bits_per_byte.value, made.tokens, made.text_bytes, made.top_share) == (0, 0, 2, 0)
    assert made.altered_files == 1


def test_letters_of_several_bytes_lie_in_blocks_of_bytes() -> None:
    text = "é🙂" * 700
    found = score_text(Bytes(1), Text("t", 0, text))
    assert found.text_bytes == len(text.encode())
    assert all(piece.bits == pytest.approx(piece.text_bytes) for piece in found.pieces)


def test_a_real_model_judges_every_byte(scorer: ChildScorer) -> None:
    seen: list[float] = []
    found = score_text(scorer, Text("t", 0, ENGLISH), seen.append)
    assert found.text_bytes == len(ENGLISH)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    # random weights over 1,024 tokens, a byte each: near log2(1024) bits
    assert 9.5 < text_quality([found]).bits_per_byte.value < 10.6


def test_intervals_are_of_files_where_there_are_enough() -> None:
    few = [score_text(Bytes(1 + n % 2), Text(str(n), n, ENGLISH)) for n in range(4)]
    many = [score_text(Bytes(1 + n % 2), Text(str(n), n, ENGLISH)) for n in range(8)]
    assert not text_quality(few).by_file
    assert text_quality(many).by_file
    found = text_quality(many).bits_per_byte
    # eight files of 1 or 2 bits: standard error sqrt(2/7) / 2 / sqrt(2) = 0.189, t of 7 at 80 % 1.415
    assert (found.value, found.low) == pytest.approx((1.5, 1.5 - 1.415 * 0.189), abs=1e-3)


# --- as llama-perplexity -----------------------------------------------------------------------------


def test_perplexity_is_what_llama_perplexity_says(scorer: ChildScorer) -> None:
    """`llama-perplexity -m m.gguf -f english.txt -t 1` of build 11669 (Debian), run on this very file and text."""
    found = llama_perplexity(scorer, texts(ENGLISH))
    assert found.value == pytest.approx(1194.9810, rel=5e-3)
    assert found.low < found.value < found.high


def test_text_shorter_than_two_windows_is_refused(scorer: ChildScorer) -> None:
    with pytest.raises(BadInput, match=r"has 1,023 tokens, and two windows of 512"):
        llama_perplexity(scorer, texts(ENGLISH[:1022]))
    assert llama_perplexity(scorer, texts(ENGLISH[:500], ENGLISH[500:1023])).value > 1  # files in a row


# --- what is read ------------------------------------------------------------------------------------


def test_text_files_below_a_folder_are_read_and_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, data in {
        "b.py": b"two\n",
        "a/a.txt": "öne\n".encode(),
        "image.png": b"\x89PNG\0\0",
        "latin.txt": b"\xe9t\xe9",
        "empty.txt": b"",
        ".git/config": b"hidden",
        ".hidden": b"hidden",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.py")
    os.mkfifo(tmp_path / "pipe.txt")
    found = read_texts(tmp_path)
    assert [text.name for text in found.texts] == ["a/a.txt", "b.py"]
    assert (found.files, found.bytes, found.skipped) == (2, 9, 3)
    monkeypatch.setattr(text_module, "MOST_BYTES", 8)
    with pytest.raises(BadInput, match="GiB of text"):
        read_texts(tmp_path)
    monkeypatch.setattr(text_module, "MOST_FILES", 4)
    with pytest.raises(BadInput, match="more than 4 files"):
        read_texts(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_texts(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="holds no text files"):
        read_texts(tmp_path)
    (tmp_path / "zero").write_bytes(b"a\0b")
    with pytest.raises(BadFile, match="no UTF-8 text"):
        read_texts(tmp_path / "zero")
