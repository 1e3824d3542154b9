"""Runs of several models: the same texts in the same order, stopped when that is honest, kept when broken off."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.quality.scoring import texts
from weigh.errors import EngineCrashed
from weigh.quality.paired import LEAST_UNITS
from weigh.quality.scorer import Scorer, Scores, TokenizedText
from weigh.quality.text_run import Candidate, Ended, in_random_order, run_texts


class Bytes:
    """A model of bytes that needs about `bits` for each, more for some and less for others."""

    name, adds_bos, start, context_tokens, vocab = "bytes", False, 256, 100, 257

    def __init__(self, bits: float, before: Callable[[], None] = lambda: None) -> None:
        self._bits, self._before = bits, before
        self._draw = np.random.default_rng(round(1000 * bits))
        self.closed = 0

    def tokenize(self, text: str) -> TokenizedText:
        return TokenizedText(list(text.encode()), list(range(1, len(text) + 1)))

    def score(self, tokens: Sequence[int], first: int) -> Scores:
        self._before()
        bits = self._draw.normal(self._bits, 0.3, len(tokens) - first).clip(0)
        return Scores(-bits * math.log(2), np.zeros(len(bits), dtype=bool))

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def candidates(*models: Bytes) -> list[Candidate]:
    return [Candidate(str(number), lambda made=one: made) for number, one in enumerate(models)]  # type: ignore[misc]


MANY = texts(*("x" * random.Random(n).randrange(50, 150) for n in range(100)))


def test_a_clear_answer_ends_the_run_and_no_sooner_than_is_honest() -> None:
    better, worse = Bytes(2.0), Bytes(2.2)
    found = run_texts(candidates(worse, better), MANY)
    assert found.ended is Ended.CLEAR
    assert LEAST_UNITS <= len(found.candidates[0].scores) < 100
    (pair,) = found.pairs
    assert pair.difference.better == 1
    assert pair.difference.by_file
    assert (better.closed, worse.closed) == (1, 1)


def test_it_reads_on_while_a_pair_is_open_or_when_it_is_to_read_all() -> None:
    same = run_texts(candidates(Bytes(2.0), Bytes(2.0)), MANY)
    assert same.ended is Ended.ALL_READ
    assert same.pairs[0].difference.better is None
    everything = run_texts(candidates(Bytes(2.0), Bytes(3.0)), MANY, stop_early=False)
    assert everything.ended is Ended.ALL_READ
    assert len(everything.candidates[0].scores) == 100
    assert not everything.pairs[0].difference.any_time


def test_models_that_do_not_fit_together_run_one_after_another() -> None:
    alive: list[int] = []
    one, other = Bytes(2.0), Bytes(3.0)
    one._before = lambda: alive.append(other.closed)
    other._before = lambda: alive.append(10 * one.closed)
    found = run_texts(candidates(one, other), MANY, together=False)
    assert set(alive) == {0, 10}
    assert alive == sorted(alive)
    assert found.ended is Ended.ALL_READ
    assert found.pairs[0].difference.better == 0
    assert not found.pairs[0].difference.any_time


def test_no_text_is_begun_after_the_time() -> None:
    found = run_texts(candidates(Bytes(2.0), Bytes(3.0)), MANY, most_s=1e-9)
    assert found.ended is Ended.TIME_UP
    assert [len(one.scores) for one in found.candidates] == [1, 1]


@pytest.mark.parametrize(
    ("error", "ended"),
    [(KeyboardInterrupt(), Ended.INTERRUPTED), (EngineCrashed("it died"), Ended.FAILED)],
)
def test_what_is_broken_off_keeps_what_was_scored(error: BaseException, ended: Ended) -> None:
    left = [41]

    def fail() -> None:
        left[0] -= 1
        if not left[0]:
            raise error

    one, other = Bytes(2.0), Bytes(2.0, fail)
    found = run_texts(candidates(one, other), MANY)
    assert (found.ended, found.error) == (ended, error)
    assert len(found.candidates[0].scores) > len(found.candidates[1].scores) > 0
    assert found.pairs[0].difference.text_bytes == sum(s.text_bytes for s in found.candidates[1].scores)
    assert (one.closed, other.closed) == (1, 1)


def test_what_fails_at_once_is_raised() -> None:
    def fail() -> None:
        raise EngineCrashed("it died")

    with pytest.raises(EngineCrashed, match="it died"):
        run_texts(candidates(Bytes(2.0, fail)), MANY)


def test_the_order_is_random_and_the_same_each_time() -> None:
    order = [text.file for text in in_random_order(MANY)]
    assert order == [text.file for text in in_random_order(MANY)]
    assert order != sorted(order)
    assert sorted(order) == list(range(100))


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[float] = []
    run_texts(candidates(Bytes(2.0), Bytes(2.0)), MANY, progress=lambda stage, done: seen.append(done))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, pytest.approx(1))
