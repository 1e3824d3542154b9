from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.quality.repositories import program
from weigh.errors import EngineCrashed
from weigh.quality.code_answers import Quantity
from weigh.quality.languages import language_of
from weigh.quality.own_code import Budget, Ended, Opener, OwnCode, own_code
from weigh.quality.paired import LEAST_UNITS
from weigh.quality.repository import HeldOut, SourceFile

PYTHON = language_of("a.py")
assert PYTHON is not None


def held(files: int, lines: int = 30) -> HeldOut:
    texts = [program(f"f{number}", lines) for number in range(files)]
    return HeldOut(
        tuple(SourceFile(f"{n}.py", PYTHON, text, 0.0) for n, text in enumerate(texts)), {}, "abc", ""
    )


class Judge:
    """Needs `bits_per_byte` of a text, give or take, and knows a share of the lines by heart."""

    writes = True

    def __init__(self, name: str, bits_per_byte: float, known: float = 0.5, spread: float = 0.1) -> None:
        self.name, self._bits, self._known, self._spread = name, bits_per_byte, known, spread
        self._draw = random.Random(name)
        self.read: list[str] = []
        self.open = False

    def bits(self, text: str) -> tuple[float, int]:
        self.read.append(text)
        return len(text) * self._draw.gauss(self._bits, self._spread), len(text)

    def next_line(self, before: str) -> str:
        *_, last = before.splitlines()
        return self._following(last) if self._draw.random() < self._known else "no idea"

    def middle(self, before: str, after: str) -> str | None:
        return self.next_line(before)

    def _following(self, line: str) -> str:
        """What `program` writes next."""
        words = line.split()
        if line.startswith("def"):
            name = line[len("def sum_") :].partition("(")[0]
            return f"    total_{name} += rate_{name}_0 * 0  # of {name}"
        name, number = words[0].removeprefix("total_"), int(words[2].rpartition("_")[2]) + 1
        return f"    total_{name} += rate_{name}_{number} * {number % 10}  # of {name}"


def opener(judge: Judge) -> tuple[str, Opener]:
    @contextmanager
    def opened() -> Iterator[Judge]:
        judge.open = True
        try:
            yield judge
        finally:
            judge.open = False

    return judge.name, opened


def measured(*judges: Judge, files: int = 100, budget: Budget = Budget(), together: bool = True) -> OwnCode:  # noqa: B008
    return own_code([opener(judge) for judge in judges], held(files), budget=budget, together=together)


def test_the_better_model_is_named_and_measuring_stops_early() -> None:
    worse, better = Judge("worse", 1.2, known=0.2), Judge("better", 0.9, known=0.8)
    found = measured(worse, better)
    assert found.ended is Ended.CLEAR
    assert found.ranking == (1, 0)
    pair = found.pair(0, 1, Quantity.BITS_PER_BYTE)
    assert pair is not None
    assert pair.better == 1
    assert pair.difference.low < 0.3 < pair.difference.high + 0.05
    assert LEAST_UNITS <= pair.files < 100
    assert worse.read == better.read
    assert not worse.open


def test_three_models_are_read_until_the_whole_order_is_clear() -> None:
    found = measured(Judge("a", 1.5), Judge("b", 1.0), Judge("c", 1.02), files=200)
    near = found.pair(1, 2, Quantity.BITS_PER_BYTE)
    far = found.pair(0, 1, Quantity.BITS_PER_BYTE)
    assert near is not None
    assert far is not None
    assert far.better == 1
    assert (found.ended is Ended.CLEAR) == (near.better is not None)
    assert found.models[0].files > LEAST_UNITS or found.ended is Ended.CLEAR


def test_a_model_is_not_better_than_itself() -> None:
    def same(name: str) -> Judge:
        judge = Judge(name, 1.0)
        judge._draw = random.Random(7)
        return judge

    found = measured(same("a"), same("b"))
    assert found.ended is Ended.ALL_READ
    assert all(pair.better is None for pair in found.pairs)


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_lines_are_compared_with_the_true_ones(known: float) -> None:
    found = measured(Judge("a", 1.0, known=known), budget=Budget(text_bytes=80_000))
    figures = found.models[0].figures
    for quantity in (Quantity.NEXT_LINE_EXACT, Quantity.MIDDLE_EXACT):
        figure = figures[quantity]
        assert figure is not None
        assert figure.value == pytest.approx(known, abs=0.25)
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
        assert figure.high - figure.low > 0.01  # a few lines never make a share certain
    similar, exact = figures[Quantity.NEXT_LINE_SIMILARITY], figures[Quantity.NEXT_LINE_EXACT]
    assert similar is not None
    assert exact is not None
    assert similar.value >= exact.value


def test_every_file_is_visited_before_any_is_again() -> None:
    judge = Judge("a", 1.0)
    found = own_code([opener(judge)], held(20, lines=200), budget=Budget(text_bytes=60_000))
    answers = found.models[0].answers
    assert len({answer.file for answer in answers[:20]}) == 20
    assert len(answers) > 20
    assert len(set(judge.read)) == len(judge.read)


def test_a_budget_of_bytes_is_kept() -> None:
    found = measured(Judge("a", 1.0), budget=Budget(text_bytes=10_000))
    assert found.ended is Ended.BUDGET
    assert 10_000 <= found.models[0].text_bytes < 12_500


def test_a_budget_of_time_is_kept() -> None:
    found = measured(Judge("a", 1.0), budget=Budget(seconds=1e-9))
    assert found.ended is Ended.BUDGET
    assert len(found.models[0].answers) == 1


def test_one_after_another_they_read_the_same() -> None:
    first, second = Judge("a", 1.2), Judge("b", 0.9)
    opened: list[str] = []
    judges = [first, second]

    def watched(judge: Judge) -> tuple[str, Opener]:
        name, inner = opener(judge)

        @contextmanager
        def outer() -> Iterator[Judge]:
            assert not any(one.open for one in judges)
            opened.append(name)
            with inner() as held_judge:
                yield held_judge  # type: ignore[misc]

        return name, outer

    found = own_code(
        [watched(judge) for judge in judges], held(50), budget=Budget(text_bytes=50_000), together=False
    )
    assert opened == ["a", "b"]
    assert first.read == second.read
    assert found.ended is Ended.BUDGET
    pair = found.pair(0, 1, Quantity.BITS_PER_BYTE)
    assert pair is not None
    assert pair.better == 1


def _failing(after: int, error: BaseException) -> Judge:
    judge = Judge("failing", 1.0)
    bits: Callable[[str], tuple[float, int]] = judge.bits

    def fails(text: str) -> tuple[float, int]:
        if len(judge.read) >= after:
            raise error
        return bits(text)

    judge.bits = fails  # type: ignore[method-assign]
    return judge


@pytest.mark.parametrize(
    ("error", "ended"), [(KeyboardInterrupt(), Ended.INTERRUPTED), (EngineCrashed("gone"), Ended.FAILED)]
)
def test_what_is_done_is_kept(error: BaseException, ended: Ended) -> None:
    other = Judge("other", 2.0)
    found = measured(other, _failing(12, error))
    assert found.ended is ended
    assert found.error is error
    assert [len(model.answers) for model in found.models] == [13, 12]
    pair = found.pair(0, 1, Quantity.BITS_PER_BYTE)
    assert pair is not None
    assert pair.files == 12
    assert not other.open


def test_with_nothing_done_the_error_goes_on() -> None:
    with pytest.raises(EngineCrashed):
        measured(_failing(0, EngineCrashed("gone")), Judge("other", 2.0))


def test_the_first_models_answers_are_kept_when_the_second_has_none() -> None:
    found = measured(Judge("first", 1.0), _failing(0, EngineCrashed("gone")), together=False, files=10)
    assert found.ended is Ended.FAILED
    assert [model.files for model in found.models] == [10, 0]
    assert found.ranking == (0, 1)
    assert not found.pairs
    assert found.models[1].figures[Quantity.BITS_PER_BYTE] is None


def test_one_file_alone_gives_no_false_certainty() -> None:
    found = measured(Judge("a", 1.0), Judge("b", 0.5), files=1)
    figure = found.models[0].figures[Quantity.BITS_PER_BYTE]
    assert figure is not None
    assert math.isinf(figure.high)
    assert all(pair.better is None for pair in found.pairs)


def test_equal_models_are_rarely_told_apart_however_often_one_looks() -> None:
    chosen = held(LEAST_UNITS + 30, lines=12)
    wrong = 0
    for number in range(100):
        judges = [Judge(f"{side}{number}", 1.0) for side in ("a", "b")]
        for judge in judges:
            judge.writes = False
        wrong += own_code([opener(judge) for judge in judges], chosen, budget=Budget()).ended is Ended.CLEAR
    assert wrong <= 8  # of 100 at 95 %


def test_one_after_another_they_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    class Timed(Judge):
        def __init__(self, name: str, takes_s: float) -> None:
            super().__init__(name, 1.0)
            self.takes_s = takes_s

        def bits(self, text: str) -> tuple[float, int]:
            nonlocal now_s
            now_s += self.takes_s
            return super().bits(text)

    monkeypatch.setattr("weigh.quality.own_code.time", SimpleNamespace(monotonic=lambda: now_s))
    found = measured(
        Timed("quick", 1.0), Timed("slow", 5.0), budget=Budget(seconds=100), together=False, files=80
    )
    assert found.ended is Ended.BUDGET
    assert [len(model.answers) for model in found.models] == [50, 10]
    assert found.took_s == 100
    pair = found.pair(1, 0, Quantity.BITS_PER_BYTE)
    assert pair is not None
    assert pair.files == 10
