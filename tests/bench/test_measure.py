"""Measuring on the real engine: the order of turns, what lies in caches, starts cold and cached, early ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.tiny_models import tiny_llama
from weigh.bench.alone import alone
from weigh.bench.conditions import Instruments, Observed, clock_hz
from weigh.bench.figures import quantities, recomputed
from weigh.bench.measure import LEAST_TURNS, Asked, Loaded, Seen, Source, Turn, measure, raw
from weigh.bench.turns import prompt_ids
from weigh.engines.engine import Generation, Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.errors import EngineError
from weigh.machine.processor_time import cpu_s
from weigh.synth import write_gguf

SPEC = tiny_llama()
ASKED = Asked(prompts=(8, 16), output_tokens=6, most_s=60.0, starts=0)


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    """On a real disk: pages of a memory disk cannot leave the cache."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        path = Path(folder) / "tiny.gguf"
        write_gguf(SPEC, path)
        yield path


class Noted:
    """A real session that writes down what it is asked."""

    def __init__(self, session: Any, notes: list[tuple[list[int], int]]) -> None:
        self._session, self._notes = session, notes

    def generate(self, prompt: list[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        self._notes.append((prompt, output_tokens))
        made: Generation = self._session.generate(prompt, output_tokens, reuse_cache=reuse_cache)
        return made

    def answer(self, prompt: list[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        self._notes.append((prompt, output_tokens))
        made: Generation = self._session.answer(prompt, output_tokens, reuse_cache=reuse_cache)
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def source(model: Path, notes: list[tuple[list[int], int]] | None = None, *, loads: bool = False) -> Source:
    def start(parallel: int) -> Loaded:
        settings = Settings(context_tokens=512, parallel=parallel, threads=1)
        session = EmbeddedLlamaCpp().start(model, settings, Limits())
        return Noted(session, notes) if notes is not None else session

    def prompt(tokens: int, seed: int) -> list[int]:
        return prompt_ids(SPEC.vocab, tokens, seed)

    return Source(start, prompt, (model,) if loads else ())


def after(rounds: int) -> Any:
    """Settled once there are so many turns."""

    def settled(turns: Sequence[Turn]) -> bool:
        return len(turns) >= rounds

    return settled


def test_conditions_take_turns_and_prompts_are_never_sent_twice(model: Path) -> None:
    notes: list[tuple[list[int], int]] = []
    seen = measure(source(model, notes), ASKED, after(4))
    assert [(turn.condition.prompt_tokens, turn.condition.output_tokens) for turn in seen.turns] == [
        *[(0, 6), (8, 1), (16, 1)],
        *[(16, 1), (8, 1), (0, 6)],
    ] * 2
    assert len({tuple(prompt) for prompt, _ in notes}) == len(notes) == 12
    assert all(request.made.cached_tokens == 0 for turn in seen.turns for request in turn.requests)
    assert all(turn.memory and turn.memory.private_bytes > 0 for turn in seen.turns)
    assert seen.ended is None
    assert seen.command
    assert [turn.began_s for turn in seen.turns] == sorted(turn.began_s for turn in seen.turns)


def test_a_condition_that_is_known_well_enough_is_left(model: Path) -> None:
    def settled(turns: Sequence[Turn]) -> bool:
        return turns[0].condition.is_prefill or len(turns) >= LEAST_TURNS + 3

    seen = measure(source(model), ASKED, settled)
    assert len([turn for turn in seen.turns if turn.condition.is_prefill]) == 2 * LEAST_TURNS
    assert len([turn for turn in seen.turns if not turn.condition.is_prefill]) == LEAST_TURNS + 3


def test_past_its_time_each_condition_has_been_run_once(model: Path) -> None:
    asked = replace(ASKED, most_s=1e-6, parallel=(1, 2), depths=(0, 20))
    seen = measure(source(model), asked, after(100))
    assert len(seen.turns) == 2 * 2 * 3
    assert len({turn.condition for turn in seen.turns}) == len(seen.turns)


@pytest.mark.parametrize("parallel", [1, 3])
def test_what_lies_before_is_computed_once_and_found_by_every_sequence(model: Path, parallel: int) -> None:
    notes: list[tuple[list[int], int]] = []
    asked = replace(ASKED, depths=(0, 100), parallel=(parallel,))
    seen = measure(source(model, notes), asked, after(4))
    deep = [turn for turn in seen.turns if turn.condition.depth_tokens]
    # sequences so short may come one after another while the caches are filled, and all find the same one
    sure = deep if parallel == 1 else deep[-3:]
    assert all(request.made.cached_tokens == 100 for turn in sure for request in turn.requests)
    assert all(len(turn.requests) == parallel for turn in deep)
    assert not recomputed(seen.turns)
    assert [len(prompt) for prompt, _ in notes].count(100) == parallel  # filled before anything is timed


def test_starts_are_cold_and_cached_in_turns_and_the_last_goes_on(model: Path) -> None:
    seen = measure(source(model, loads=True), replace(ASKED, starts=2), after(4))
    if seen.cold_unknown:
        pytest.skip("this file system keeps its pages")
    assert [start.cold for start in seen.starts] == [True, False, True, False]
    assert all(start.load_s > 0 and start.cached_bytes == model.stat().st_size for start in seen.starts)
    names = {one.name for one in quantities(seen)}
    assert {"load_cold_s", "load_cached_s", "page_cache_bytes", "peak_memory_bytes"} <= names


def test_pages_that_stay_in_memory_give_no_cold_start(model: Path) -> None:
    with EmbeddedLlamaCpp().start(model, Settings(512, threads=1), Limits()):  # maps the file
        seen = measure(source(model, loads=True), replace(ASKED, starts=1), after(4))
    assert seen.cold_unknown
    assert [start.cold for start in seen.starts] == [False, False]


def test_an_engine_that_dies_leaves_what_was_seen(model: Path) -> None:
    def settled(turns: Sequence[Turn]) -> bool:
        sessions[0].close()
        return False

    sessions: list[Loaded] = []
    told = source(model)

    def start(parallel: int) -> Loaded:
        sessions.append(told.start(parallel))
        return sessions[0]

    seen = measure(replace(told, start=start), ASKED, settled)
    assert isinstance(seen.ended, EngineError)
    assert len(seen.turns) == LEAST_TURNS * 3


def test_an_end_before_anything_was_seen_is_raised(model: Path) -> None:
    broken = model.with_name("broken.gguf")
    broken.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(EngineError):
        measure(source(broken), replace(ASKED, starts=0), after(4))


def test_raw_events_are_plain_json_and_say_what_the_samples_say(model: Path) -> None:
    import json

    seen = measure(source(model), ASKED, after(4))
    told = json.loads(json.dumps(raw(seen)))
    assert len(told["turns"]) == len(seen.turns)
    for kept, turn in zip(told["turns"], seen.turns, strict=True):
        (request,), (made,) = kept["requests"], turn.requests
        assert request["token_times_s"] == pytest.approx(made.made.token_times_s, abs=1e-6)
        streamed = request["token_times_s"] or [made.made.prefill_s]
        assert kept["during"]["took_s"] >= streamed[-1] - 1e-6


def test_every_second_decode_is_answered_in_one_piece_and_tells_the_engines_own_speed(model: Path) -> None:
    seen = measure(source(model), replace(ASKED, starts=0), after(4))
    decodes = [turn for turn in seen.turns if not turn.condition.is_prefill]
    whole = [not turn.requests[0].made.token_times_s for turn in decodes]
    assert whole == [number % 2 == 1 for number in range(len(decodes))]
    assert all(turn.requests[0].made.output_tokens == 6 for turn in decodes)
    by_clock = {one.conditions["clock"]: one for one in quantities(seen) if one.name == "decode_tokens_per_s"}
    rates = [turn.requests[0].made.decode_tokens_per_s for turn in decodes[1::2]]
    assert all(any(one == pytest.approx(rate) for rate in rates) for one in by_clock["engine"].samples)
    assert len(by_clock["client"].samples) <= len(decodes) - len(rates)


def test_only_one_benchmark_runs_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(EngineError, match="another benchmark"), alone(tmp_path):
        pass
    with alone(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_processor_time_of_the_engine_is_told(model: Path) -> None:
    import os

    before = cpu_s(os.getpid())
    assert before is not None
    with Observed(Instruments(), os.getpid()) as observed:
        until_s = time.process_time() + 0.3
        while time.process_time() < until_s:
            pass
    assert observed.during.cores_busy is not None
    assert 0.05 < observed.during.cores_busy < 2.5
    assert observed.during.available_bytes > 0
    now = cpu_s(os.getpid())
    assert now is not None
    assert now >= before + 0.2
    assert cpu_s(2**22 + 1) is None


def test_clocks_are_read_where_they_are_told(tmp_path: Path) -> None:
    assert clock_hz(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("cpu MHz\t\t: 2000.5\n\ncpu MHz\t\t: 2999.5\n")
    assert clock_hz(tmp_path) == pytest.approx(2.5e9)
    for number, khz in enumerate((3_000_000, 1_000_000, 2_000_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    assert clock_hz(tmp_path) == 2e9


def test_nothing_seen_is_nothing() -> None:
    assert not Seen()
    assert quantities(Seen()) == ()
