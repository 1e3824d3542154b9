"""Verdicts follow the best evidence there is, and say unknown where there is none."""

from __future__ import annotations

import pytest

from weigh.advise.needs import TASKS
from weigh.advise.verdict import (
    GOOD_ABOVE_FAIR_POINTS,
    Grade,
    Passed,
    Subject,
    Verdict,
    bars,
    by_grade,
    verdicts,
)
from weigh.estimate.site import Site
from weigh.figure import Basis, Figure
from weigh.machine.devices import target_named
from weigh.model.resolve import resolve
from weigh.quality.file_habits import FileHabits

CODER = "Qwen/Qwen2.5-Coder-7B-Instruct"


def of(subject: Subject, need: str) -> Verdict:
    return next(one for one in verdicts(subject) if one.need.task.name == need)


def coder(**changes: object) -> Subject:
    return Subject(CODER, 7_615_616_512, "Q8_0", **changes)  # type: ignore[arg-type]


def passed(group: str, share: float, tasks: int, *, goes_on: bool = False) -> dict[tuple[str, bool], Passed]:
    figure = Figure(share, max(0.0, share - 0.1), min(1.0, share + 0.1), "share", Basis.MEASURED)
    return {(group, goes_on): Passed(group, figure, tasks)}


def test_the_more_a_need_hangs_on_quality_the_higher_its_bars() -> None:
    weighted = sorted(TASKS.values(), key=lambda task: task.quality_weight)
    fair = [bars(task).fair for task in weighted]
    assert fair == sorted(fair)
    assert fair[0] < 35
    assert fair[-1] > 48
    assert all(bars(task).good == bars(task).fair + GOOD_ABOVE_FAIR_POINTS for task in weighted)


def test_published_scores_grade_a_model_of_the_catalog() -> None:
    found = of(coder(), "unit-tests")
    assert (found.grade, found.basis) == (Grade.GOOD, Basis.PUBLISHED)
    assert found.quality is not None
    assert found.quality.score.value > found.bars.good
    assert f"index {found.quality.score.value:.0f} (" in found.reason


def test_what_was_measured_goes_before_what_is_published() -> None:
    found = of(coder(passed=passed("debugging", 0.1, 20)), "debugging")
    assert (found.grade, found.basis) == (Grade.BAD, Basis.MEASURED)
    assert found.reason == "passes 10 % (0–20) of 20 debugging tasks"
    few = of(coder(passed=passed("debugging", 0.1, 3)), "debugging")
    assert few.basis is Basis.PUBLISHED


def test_the_group_passed_least_decides() -> None:
    groups = passed("completion", 0.9, 22) | passed("translation", 0.2, 24)
    assert of(coder(passed=groups), "coding").grade is Grade.BAD
    assert of(coder(passed=groups), "translation").basis is not Basis.MEASURED  # of texts, not of programs


def test_answers_given_as_a_chat_say_nothing_of_filling_gaps() -> None:
    as_chat = of(coder(passed=passed("completion", 0.0, 22)), "autocomplete")
    going_on = of(coder(passed=passed("completion", 0.0, 22, goes_on=True)), "autocomplete")
    assert (as_chat.grade, going_on.grade) == (Grade.GOOD, Grade.BAD)


def test_an_interval_over_all_bars_leaves_it_unknown_and_over_one_says_so() -> None:
    wide = {("review", False): Passed("review", Figure(0.5, 0.2, 0.8, "share", Basis.MEASURED), 6)}
    assert of(coder(passed=wide), "code-review").grade is Grade.UNKNOWN
    edge = of(coder(passed=passed("review", 0.7, 19)), "code-review")
    assert (edge.grade, edge.may_be) == (Grade.GOOD, Grade.FAIR)


@pytest.mark.parametrize("parameters", [7_000_000_000, 70_000_000_000])
def test_size_alone_never_makes_a_stranger_good(parameters: int) -> None:
    chats = FileHabits(chats=True, fills_middle=True)
    found = verdicts(Subject(None, parameters, "Q4_K_M", habits=chats))
    assert {one.answers for one in found} == {Grade.UNKNOWN}
    assert {one.basis for one in found} == {None}


def test_size_alone_rules_out_what_is_far_too_small() -> None:
    found = of(Subject(None, 500_000, "Q8_0", habits=FileHabits(True, True)), "debugging")
    assert (found.grade, found.basis) == (Grade.BAD, Basis.RULE_OF_THUMB)


def test_a_model_of_which_nothing_is_known_is_unknown_at_everything() -> None:
    assert [grade for grade, _ in by_grade(verdicts(Subject(None, None)))] == [Grade.UNKNOWN]


@pytest.mark.parametrize(
    ("subject", "need", "reason"),
    [
        (Subject("meta-llama/Meta-Llama-3-8B", 8_030_261_248, "Q8_0"), "chat", "a base model"),
        (Subject("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, "Q8_0"), "autocomplete", "not known to"),
        (Subject(None, 10**9, habits=FileHabits(False, True)), "chat", "no chat template"),
        (Subject(None, 10**9, habits=FileHabits(True, False)), "autocomplete", "no tokens to fill"),
        (Subject(None, 10**8, writes=False), "translation", "an embedding model"),
    ],
)
def test_a_model_of_the_wrong_kind_is_ruled_out_whatever_its_score(
    subject: Subject, need: str, reason: str
) -> None:
    found = of(subject, need)
    assert found.unfit
    assert found.grade is Grade.BAD
    assert found.reason.startswith(reason)


def test_a_base_model_that_was_seen_to_do_it_is_not_ruled_out() -> None:
    base = Subject(None, 10**9, habits=FileHabits(False, False), passed=passed("review", 0.9, 19))
    assert of(base, "code-review").grade is Grade.GOOD
    assert of(base, "chat").unfit


def test_the_machine_holds_back_and_is_told_apart_from_the_answers() -> None:
    spec = resolve("qwen2.5-coder-7b:Q8_0")
    fast = verdicts(coder(), spec, Site(target_named("RTX 4090")))
    small = verdicts(coder(), spec, Site(target_named("Raspberry Pi 5 8GB")))
    assert not any(one.shortfalls or one.held_back_here for one in fast)
    assert [one.answers for one in fast] == [one.answers for one in small]
    assert all(one.grade is Grade.BAD for one in small)
    kinds = {missed.what for one in small for missed in one.shortfalls}
    assert "memory" in kinds
    assert all(one.held_back_here for one in small if one.answers in (Grade.GOOD, Grade.FAIR))


def test_a_request_takes_its_first_token_and_all_the_others() -> None:
    spec, site = resolve("qwen2.5-coder-7b:Q8_0"), Site(target_named("RTX 4090"))
    found = {one.need.task.name: one for one in verdicts(coder(), spec, site)}["coding"]
    from weigh.engines.engine import Settings
    from weigh.estimate.setup import weigh

    setup = weigh(spec, site, Settings(found.need.context_tokens))
    first, speed = setup.ttft_s(found.need.prompt_tokens), setup.speed
    assert first is not None
    assert speed is not None
    assert found.request_s is not None
    expected_s = first.value + (found.need.output_tokens - 1) / speed.decode_tokens_per_s.value
    assert found.request_s.value == pytest.approx(expected_s)
    assert found.request_s.low < expected_s < found.request_s.high
