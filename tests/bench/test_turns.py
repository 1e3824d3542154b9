"""Loaded models in turns on the real engine: who comes when, what lies in the cache, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import tiny_llama
from weigh.bench.turns import LEAST_ROUNDS, Driven, Seen, in_turns
from weigh.engines.engine import Generation, Limits, Session, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.errors import EngineError
from weigh.synth import write_gguf

SPEC = tiny_llama()
CONTEXT_TOKENS, PARALLEL = 256, 3


class Noted:
    """A real session that writes down what it is asked, and what came of it."""

    def __init__(self, name: str, session: Session, notes: list[tuple[str, Generation]]) -> None:
        self._name, self._session, self._notes = name, session, notes
        self.load_s, self.command = session.load_s, session.command

    def generate(self, prompt: Sequence[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        made = self._session.generate(prompt, output_tokens, reuse_cache=reuse_cache)
        self._notes.append((self._name, made))
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Session]]:
    path: Path = tmp_path_factory.mktemp("turns") / "tiny.gguf"
    write_gguf(SPEC, path)
    engine, settings = EmbeddedLlamaCpp(), Settings(context_tokens=CONTEXT_TOKENS, threads=1)
    with (
        engine.start(path, settings, Limits()) as first,
        engine.start(path, replace(settings, parallel=PARALLEL), Limits()) as second,
    ):
        yield {"a": first, "b": second}


@pytest.fixture
def notes() -> list[tuple[str, Generation]]:
    return []


@pytest.fixture
def models(loaded: dict[str, Session], notes: list[tuple[str, Generation]]) -> list[Driven]:
    """Two, each of a prefill of 8 tokens and a decode of 6."""
    return [Driven(Noted(name, session, notes), SPEC.vocab, 8, 6) for name, session in loaded.items()]  # type: ignore[arg-type]


def test_the_order_turns_round_from_one_round_to_the_next(
    models: list[Driven], notes: list[tuple[str, Generation]]
) -> None:
    told: list[float] = []
    seen = in_turns(models, rounds=3, progress=told.append)
    assert "".join(name for name, _ in notes) == "aabb" + "bbaa" + "aabb"  # a prefill and a decode each
    assert told == [pytest.approx(turn / 6) for turn in range(1, 7)]
    for one in seen:
        assert len(one.prefills_s) == len(one.step_medians_s) == 3
        assert len(one.steps_s) == 3 * 4  # the first third of five is left out
        assert min(one.prefills_s) <= one.prefill_s <= max(one.prefills_s)
        assert one.load_s > 0
        assert one.memory is not None
        assert one.memory.peak_bytes > 1 << 20


def test_without_a_prompt_or_an_output_only_the_other_is_run(
    models: list[Driven], notes: list[tuple[str, Generation]]
) -> None:
    only_prefill, only_decode = replace(models[0], output_tokens=0), replace(models[1], prompt_tokens=0)
    first, second = in_turns([only_prefill, only_decode], rounds=2)
    assert (len(first.prefills_s), first.steps_s) == (2, [])
    assert (second.prefills_s, len(second.steps_s)) == ([], 2 * 4)
    assert [made.output_tokens for name, made in notes if name == "a"] == [1, 1]


def test_what_lies_before_is_computed_once_and_found_again(
    models: list[Driven], notes: list[tuple[str, Generation]]
) -> None:
    in_turns([replace(models[0], depth_tokens=100)], rounds=2)
    filled, *turns = [made for _, made in notes]
    assert (filled.prompt_tokens, filled.output_tokens) == (100, 1)
    assert [(made.cached_tokens, made.prompt_tokens) for made in turns] == [(100, 1), (100, 8)] * 2


def test_prompts_differ_from_turn_to_turn(models: list[Driven], notes: list[tuple[str, Generation]]) -> None:
    in_turns([replace(models[0], depth_tokens=20, prompt_tokens=30)], rounds=3)
    assert {made.cached_tokens for _, made in notes[1::2]} == {20}  # never a word of an earlier prompt


def test_several_sequences_are_timed_while_all_are_at_it(
    models: list[Driven], notes: list[tuple[str, Generation]]
) -> None:
    together = replace(models[1], parallel=PARALLEL, prompt_tokens=0, output_tokens=16)
    (seen,) = in_turns([together], rounds=2)
    assert [made.output_tokens for _, made in notes] == [16] * 2 * PARALLEL
    edge = PARALLEL  # steps left out at either end, where sequences join and leave
    assert len(seen.steps_s) == 2 * PARALLEL * (15 - 2 * edge)
    assert len(seen.step_medians_s) == 2


def test_past_the_deadline_rounds_end_but_two_are_run(models: list[Driven]) -> None:
    (late,) = in_turns(models[:1], rounds=5, deadline_s=time.monotonic() - 1)
    assert len(late.prefills_s) == LEAST_ROUNDS == 2
    (early,) = in_turns(models[:1], rounds=3, deadline_s=time.monotonic() + 600)
    assert len(early.prefills_s) == 3


def test_an_error_of_several_sequences_is_raised_here(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(SPEC, path)
    with EmbeddedLlamaCpp().start(path, Settings(CONTEXT_TOKENS, PARALLEL, threads=1), Limits()) as session:
        gone = Driven(session, SPEC.vocab, 0, 6, parallel=PARALLEL)
        session.close()
        with pytest.raises(EngineError):
            in_turns([gone], rounds=2)


def test_medians_and_drift_by_hand() -> None:
    seen = Seen(1.0, prefills_s=[1.0, 5.0, 2.0], steps_s=[0.1] * 30, step_medians_s=[0.10, 0.12, 0.11])
    assert seen.prefill_s == 2.0
    assert seen.prefill_drift == pytest.approx(1.0)  # (5 - 1) / 2 over 2
    assert seen.step_s == 0.11
    assert seen.step_drift == pytest.approx(0.01 / 0.11)
    assert seen.spread == 0
