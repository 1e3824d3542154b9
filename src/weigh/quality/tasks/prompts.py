"""What a model is sent: a task's words for a chat model, the text around the gap for a base model."""

from __future__ import annotations

import re

from weigh.quality.tasks.task import Task

CURSOR = "<CURSOR>"
CHARACTERS_PER_TOKEN = 2  # at least, in most vocabularies: what a prompt may need
MIDDLE_LINES = 60  # of a base model's text at most


def chat_prompt(task: Task) -> str:
    """The user's message; tasks that fill a gap have a common wording unless they bring their own."""
    if task.prompt:
        return task.prompt
    name = f" ({task.language})" if task.language else ""
    return (
        f"The file `{task.file}`{name} below has a gap, marked {CURSOR}. Write what belongs there.\n\n"
        f"```{task.language}\n{task.prefix}{CURSOR}{task.suffix}\n```\n\n"
        f"Answer with one {task.language} code block that holds only the missing part, indented as in the file."
    )


def completed_part(task: Task, text: str) -> str:
    """A base model's text after the prefix, cut where the gap ends.

    It goes on writing for ever, so it is cut at the task's own marks, before the first line of the suffix,
    and before a line that leaves the block the gap stands in.
    """
    for mark in task.stop:
        text = text.partition(mark)[0]
    rest = task.suffix.partition("\n")[0]
    if rest and not task.prefix.endswith("\n"):  # the gap lies within a line
        line = text.partition("\n")[0]
        return line.rpartition(rest)[0] if rest in line else line
    follows = next((line for line in task.suffix.splitlines() if line.strip()), None)
    depth = _depth(task.prefix)
    kept: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True)[:MIDDLE_LINES]):
        if follows is not None and line.rstrip() == follows.rstrip():
            break
        starts_anew = number > 0 and line.strip() and _indent(line) < depth
        if starts_anew and not re.match(r"\s*[)\]}]", line):
            break
        kept.append(line)
    return "".join(kept)


def gap_is_filled(task: Task, text: str) -> bool:
    """Whether a base model has written beyond the gap, so that it can be stopped."""
    whole = text[: text.rfind("\n") + 1]
    return len(completed_part(task, whole)) < len(whole)


def _depth(prefix: str) -> int:
    """Indentation of the block the gap stands in: of the last line, deeper after a line that opens one."""
    lines = [line for line in prefix.splitlines() if line.strip()]
    if not lines:
        return 0
    last = lines[-1]
    return _indent(last) + (1 if last.rstrip().endswith(":") else 0)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))
