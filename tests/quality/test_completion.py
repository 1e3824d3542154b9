from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.quality.vocabularies import write_model
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.quality.completion import (
    FIM_NAMES,
    FimTokens,
    LlamaCompletion,
    edit_distance,
    edit_similarity,
    judged,
)

LINES = "def total(numbers):\n    amount = 0\n    for one in numbers:\n"


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("ab", "ba", 2),
        ("a", "a", 0),
    ],
)
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == distance


def test_similarity_is_a_share_of_the_longer_line() -> None:
    assert edit_similarity("kitten", "sitting") == 1 - 3 / 7
    assert edit_similarity("", "") == 1
    assert edit_similarity("abc", "xyz") == 0


@pytest.mark.parametrize(
    ("written", "exact", "similarity"),
    [
        ("    return a", True, 1.0),
        ("    return a  \nreturn b", True, 1.0),
        ("return a", False, 1.0),  # indentation is part of the line
        ("    return b", False, 7 / 8),
        ("", False, 0.0),
    ],
)
def test_a_line_is_judged_to_its_end(written: str, exact: bool, similarity: float) -> None:
    found = judged(written, "    return a")
    assert (found.exact, found.similarity) == (exact, similarity)


def test_codestral_wants_the_suffix_first_and_others_the_prefix() -> None:
    assert FimTokens(1, 2, 3).prompt([10, 11], [20]) == [1, 10, 11, 2, 20, 3]
    assert FimTokens(1, 2, None).prompt([10, 11], [20]) == [2, 20, 1, 10, 11]


@contextmanager
def running(
    model: Path, context_tokens: int = 2048, fim: FimTokens | None = None
) -> Iterator[LlamaCompletion]:
    settings = Settings(context_tokens=context_tokens, threads=1)
    with EmbeddedLlamaCpp().start(model, settings, Limits()) as session:
        yield LlamaCompletion(session.url, context_tokens=context_tokens, fim=fim)


@pytest.mark.parametrize("names", FIM_NAMES, ids=lambda names: names.family)
def test_the_tokens_of_each_family_are_found_by_name(names: object, tmp_path: Path) -> None:
    prefix, suffix, middle = names.prefix, names.suffix, names.middle  # type: ignore[attr-defined]
    model = tmp_path / "model.gguf"
    first = write_model(model, special=[name for name in (prefix, suffix, middle) if name])
    with running(model) as completion:
        assert completion.fim == FimTokens(first, first + 1, first + 2 if middle else None)
        line = completion.middle(LINES, "\n    return amount\n")
        assert line is not None
        assert "\n" not in line


def test_a_model_without_such_tokens_is_not_asked(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf")
    with running(tmp_path / "model.gguf") as completion:
        assert completion.fim is None
        assert completion.middle(LINES, "\n") is None


def test_tokens_of_unknown_names_come_from_the_file(tmp_path: Path) -> None:
    first = write_model(tmp_path / "model.gguf", special=["<before>", "<after>", "<hole>"])
    given = FimTokens(first, first + 1, first + 2)
    with running(tmp_path / "model.gguf", fim=given) as completion:
        assert completion.fim == given


@pytest.mark.parametrize(("pre", "joins"), [("gpt-2", True), ("llama-bpe", False), ("qwen2", False)])
def test_tokenizers_that_join_a_newline_with_what_follows(pre: str, joins: bool, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    write_model(model, pre=pre, merged="\n ")
    with running(model) as completion:
        assert completion.joins_newlines is joins
        for before in (LINES, LINES + "\n\n"):
            line = completion.next_line(before)
            assert "\n" not in line


def test_a_line_is_the_same_every_time(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf", pre="gpt-2", merged="\n ")
    with running(tmp_path / "model.gguf") as completion:
        first = [completion.next_line(LINES), completion.next_line(LINES + "        amount += one\n")]
        again = [completion.next_line(LINES), completion.next_line(LINES + "        amount += one\n")]
    assert first == again


def test_long_prompts_fit_into_a_small_context(tmp_path: Path) -> None:
    names = FIM_NAMES[0]
    model = tmp_path / "model.gguf"
    write_model(model, special=[names.prefix, names.suffix, names.middle], context=256)
    with running(model, context_tokens=256) as completion:
        assert "\n" not in completion.next_line(LINES * 50)
        line = completion.middle(LINES * 50, "\n" + LINES * 50)
        assert line is not None
        assert "\n" not in line


def test_special_tokens_named_in_code_are_letters(tmp_path: Path) -> None:
    names = FIM_NAMES[0]
    model = tmp_path / "model.gguf"
    write_model(model, special=[names.prefix, names.suffix, names.middle])
    text = f'MARKS = "{names.prefix}{names.middle}"\n'
    with running(model) as completion:
        assert len(completion._tokens(text)) == len(text)
