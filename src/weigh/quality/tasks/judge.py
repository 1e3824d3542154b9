"""Is an answer right? Code is run against hidden tests in the sandbox; other answers are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from weigh.quality.sandbox.box import Limits, never
from weigh.quality.sandbox.judged import USUAL, Verdict, run_test_file, run_tests
from weigh.quality.tasks import extract
from weigh.quality.tasks.task import Expected, Kind, Task

MOST_REPLY_CHARACTERS = 200_000  # more is cut: no task needs it


def judge(
    task: Task,
    reply: str,
    *,
    completes: bool = False,
    limits: Limits = USUAL,
    stopped: Callable[[], bool] = never,
) -> Verdict:
    """Judge a reply to `task`.

    Args:
        completes: the reply is the raw text after `task.prefix`, from a base model, not a chat's answer.
        stopped: once it says so the code is ended, and the verdict says nothing.

    Raises:
        NotSupported: it holds code and there is no sandbox to run it in.
    """
    reply = reply[:MOST_REPLY_CHARACTERS]
    if task.kind is Kind.STRUCTURED:
        assert task.expected is not None
        return compare(task.expected, reply)
    code = reply if completes else extract.code(reply, task.language)
    if code is None and task.fills_gap and "```" not in reply:
        code = extract.without_thought(reply)
    if code is None:
        return Verdict(False, "there is no block of code in it")
    if task.fills_gap:
        python = task.file.endswith(".py")
        if not completes:
            code = extract.without_line_begun(task.prefix, code, task.suffix)
        code = extract.filled(task.prefix, code, task.suffix, python=python and not completes)
    if task.file.endswith(".py") and not extract.is_python(code):
        return Verdict(False, "its code is not valid Python")
    if task.module:
        return run_test_file(
            code,
            module=task.module,
            right=task.right,
            mutants=task.mutants,
            support=task.support,
            limits=limits,
            stopped=stopped,
        )
    return run_tests(code, task.tests, file=task.file, support=task.support, limits=limits, stopped=stopped)


def compare(expected: Expected, reply: str) -> Verdict:
    """Does the reply give the expected answer?"""
    if expected.keys is not None:
        return _compare_keys(expected.keys, extract.json_object(reply))
    if expected.lines:
        return _compare_lines(expected, extract.entries(reply))
    said = extract.answer_line(reply)
    if said is None:
        return Verdict(False, "there is no line `ANSWER: …` in it")
    if expected.number is not None:
        number = extract.number(said)
        if number is None:
            return Verdict(False, "its answer is not a number")
        right = abs(number - expected.number) <= expected.tolerance
    else:
        right = extract.folded(said) in {extract.folded(text) for text in expected.texts}
    return Verdict(right, "" if right else f"it answers `{said[:80]}`")


def _compare_keys(expected: Mapping[str, str], said: Mapping[str, Any] | None) -> Verdict:
    if said is None:
        return Verdict(False, "there is no JSON object in it")
    texts = {extract.folded(key): value for key, value in said.items()}
    for key, value in expected.items():
        if extract.folded(key) not in texts:
            return Verdict(False, f"its object has no `{key}`")
        given = texts[extract.folded(key)]
        text = given if isinstance(given, str) else json.dumps(given)
        if extract.folded(text) != extract.folded(value):
            return Verdict(False, f"`{key}` is `{text[:80]}`")
    return Verdict(True)


def _compare_lines(expected: Expected, said: list[str] | None) -> Verdict:
    if said is None:
        return Verdict(False, "there is no list in it")
    wanted, given = [extract.folded(line) for line in expected.lines], [extract.folded(line) for line in said]
    if not expected.ordered:
        wanted, given = sorted(wanted), sorted(given)
    return Verdict(wanted == given, "" if wanted == given else f"it lists {', '.join(said)[:80]}")
