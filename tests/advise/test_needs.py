"""Tasks and needs: names, defaults, overrides, and the page made from the table."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest

from weigh.advise.needs import DEFAULT_TASK, TASKS, Need, need, task
from weigh.errors import BadInput, UnknownName

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tasks_people_name_are_there() -> None:
    said = """
        coding autocomplete chat refactoring explaining unit-tests debugging code-review architecture
        documentation translation brainstorming reasoning
    """
    assert set(TASKS) == set(said.split())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tests", "unit-tests"),
        ("Unit Tests", "unit-tests"),
        ("unit_tests", "unit-tests"),
        ("review", "code-review"),
        ("FIM", "autocomplete"),
        ("docs", "documentation"),
        ("multi-step", "reasoning"),
    ],
)
def test_a_task_answers_to_its_other_names(typed: str, meant: str) -> None:
    assert task(typed).name == meant


def test_no_alias_means_two_tasks() -> None:
    names = [name for one in TASKS.values() for name in (one.name, *one.aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_task_names_close_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean `refactoring`") as caught:
        task("refactorin")
    assert caught.value.hint is not None
    assert "translation" in caught.value.hint


@pytest.mark.parametrize("name", TASKS)
def test_defaults_go_together(name: str) -> None:
    one = TASKS[name]
    assert one.prompt_tokens + one.output_tokens <= one.context_tokens
    assert sum(one.axis.values()) == pytest.approx(1)
    assert 0 < one.quality_weight < 1
    assert set(one.reasons) == {"size", "speed", "wait", "weight", "axis"}
    assert all(one.reasons.values())


def test_minimum_speeds_are_livable_not_wishes() -> None:
    assert TASKS["coding"].min_decode_tokens_per_s == 5
    slow = [t.name for t in TASKS.values() if t.min_decode_tokens_per_s > 6]
    assert slow == ["autocomplete"]


def test_autocomplete_wants_models_that_fill_in_and_the_others_those_that_follow_instructions() -> None:
    completion, coding = TASKS["autocomplete"], TASKS["coding"]
    assert completion.wants("bigcode/starcoder2-3b")
    assert completion.wants("Qwen/Qwen2.5-Coder-1.5B-Instruct")
    assert not completion.wants("meta-llama/Llama-3.1-8B-Instruct")
    assert coding.wants("openai/gpt-oss-20b")
    for base in ("bigcode/starcoder2-3b", "EleutherAI/pythia-6.9b", "meta-llama/Llama-2-70b-hf"):
        assert not coding.wants(base)


def test_a_model_outside_the_catalog_is_let_through() -> None:
    assert TASKS["coding"].wants("someone/finetune-7b")


def test_the_bare_need_is_a_coding_assistant() -> None:
    assert need() == Need(TASKS["coding"], 8192, 1, 5, 90, None, 2000, 600)
    assert DEFAULT_TASK == "coding"


def test_what_is_asked_for_replaces_the_default() -> None:
    found = need("chat", context_tokens=32768, users=4, min_decode_tokens_per_s=12, reserve_bytes=0)
    assert (found.context_tokens, found.users, found.min_decode_tokens_per_s) == (32768, 4, 12)
    assert (found.reserve_bytes, found.max_ttft_s) == (0, 20)


def test_an_endless_wait_lifts_the_limit() -> None:
    assert need("chat", max_ttft_s=math.inf).max_ttft_s is None
    assert need("code-review").max_ttft_s is None
    assert need("code-review", max_ttft_s=10).max_ttft_s == 10


def test_a_small_context_shrinks_the_default_request_to_fit() -> None:
    found = need("coding", context_tokens=1024)  # a quarter for the answer, the rest for the prompt
    assert (found.context_tokens, found.prompt_tokens, found.output_tokens) == (1024, 768, 256)


def test_a_long_prompt_grows_the_default_context() -> None:
    assert need("coding", prompt_tokens=20000).context_tokens == 20600


def test_a_request_that_cannot_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="a context of 1024 tokens cannot hold 2000 tokens of prompt"):
        need("coding", context_tokens=1024, prompt_tokens=2000)


@pytest.mark.parametrize("asked", [{"users": 0}, {"min_decode_tokens_per_s": -1.0}, {"max_ttft_s": math.nan}])
def test_figures_that_make_no_sense_are_refused(asked: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="must be above zero"):
        need("coding", **asked)  # type: ignore[arg-type]


def test_the_page_is_made_from_the_table() -> None:
    page = runpy.run_path(str(DOCS / "make_tasks.py"))["page"]()
    assert (DOCS / "tasks.md").read_text(encoding="utf-8") == page, "run `python docs/make_tasks.py`"
