"""Every task checks what it says: its right answers pass and its wrong ones fail, in the real sandbox."""

from __future__ import annotations

import pytest

from tests.sandboxes import WHY_NOT, needs_sandbox
from weigh.quality.sandbox.judged import run_tests
from weigh.quality.tasks.check import WORKERS, faults
from weigh.quality.tasks.prompts import CURSOR, chat_prompt
from weigh.quality.tasks.task import NEEDS, Kind, load_tasks

TASKS = load_tasks()
# Answers that know nothing of the task: every name there is stands for one function or object.
CHEATS = {
    "gives back what it got": """
def anything(*args, **kwargs):
    return args[0] if args else None
""",
    "empties what it got": """
def anything(*args, **kwargs):
    for value in args:
        if hasattr(value, "clear"):
            value.clear()
    return args[0] if args and hasattr(args[0], "clear") else []
""",
    "is everything": """
class Everything:
    def __eq__(self, other): return True
    def __call__(self, *args, **kwargs): return self
    def __getattr__(self, name): return self
    def __enter__(self): return self
    def __exit__(self, *error): return True
    def __iter__(self): return iter(())
    def __len__(self): return 0
    def __getitem__(self, key): return self
    def __str__(self): return ""
anything = Everything()
""",
    "ends every loop": """
def anything(*args, **kwargs):
    raise StopIteration
""",
}
EVERY_NAME = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return anything
"""


def test_there_are_enough_of_every_need_and_difficulty():
    assert len(TASKS) >= 120
    for need in NEEDS:
        levels = {task.difficulty for task in TASKS if task.need == need}
        assert {1, 2, 3} <= levels, need
    assert {task.difficulty for task in TASKS} == {1, 2, 3, 4, 5}


def test_every_task_has_answers_of_both_kinds():
    for task in TASKS:
        assert len(task.right_answers) >= 1, task.id
        assert len(task.wrong_answers) >= 2, task.id
        assert not set(task.right_answers) & {wrong.text for wrong in task.wrong_answers}, task.id


def test_prompts_show_no_answer():
    for task in TASKS:
        prompt = chat_prompt(task)
        assert all(answer.strip() not in prompt for answer in task.right_answers), task.id
        assert not task.fills_gap or CURSOR in prompt, task.id


@pytest.mark.parametrize("need", NEEDS)
def test_answers(need: str):
    from concurrent.futures import ThreadPoolExecutor

    tasks = [task for task in TASKS if task.need == need]
    if WHY_NOT and any(task.kind is Kind.CODE for task in tasks):
        pytest.skip(WHY_NOT)
    with ThreadPoolExecutor(WORKERS) as pool:
        found = [line for lines in pool.map(lambda task: list(faults(task)), tasks) for line in lines]
    assert found == []


@needs_sandbox
@pytest.mark.parametrize("name", CHEATS)
def test_what_knows_nothing_passes_nothing(name: str):
    from concurrent.futures import ThreadPoolExecutor

    tasks = [task for task in TASKS if task.tests and task.file == "answer.py" and not task.fills_gap]
    code = CHEATS[name] + EVERY_NAME
    with ThreadPoolExecutor(WORKERS) as pool:
        verdicts = pool.map(lambda task: run_tests(code, task.tests, support=task.support).passed, tasks)
        assert [task.id for task, passed in zip(tasks, verdicts, strict=True) if passed] == []
