"""Do the tasks check what they say? Each right answer must pass, each wrong one must fail.

`python -m weigh.quality.tasks.check [--format-only] [--folder FOLDER] [NEED|ID ...]`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from weigh.errors import BadFile, WeighError
from weigh.quality.tasks.judge import judge
from weigh.quality.tasks.task import DATA, NEEDS, Task, load_task, task_files

WORKERS = 2


def faults(task: Task) -> Iterator[str]:
    """What is wrong with a task's own answers, one line each."""
    for number, text in enumerate(task.right_answers, 1):
        verdict = judge(task, text)
        if not verdict.passed:
            yield f"{task.id}: right answer {number} fails: {verdict.why}"
    for number, wrong in enumerate(task.wrong_answers, 1):
        if judge(task, wrong.text).passed:
            yield f"{task.id}: wrong answer {number} passes ({wrong.why})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wanted", nargs="*", metavar="NEED|ID")
    parser.add_argument("--format-only", action="store_true", help="do not run any answer")
    parser.add_argument("--folder", type=Path, default=DATA, help="where the tasks are")
    options = parser.parse_args(arguments)
    try:
        tasks, found = _read(task_files(options.folder, options.wanted))
        for need in NEEDS:
            of_need = [task for task in tasks if task.need == need]
            if of_need:
                found += 0 if options.format_only else _run(of_need)
                levels = [sum(task.difficulty == level for task in of_need) for level in range(1, 6)]
                said = " ".join(map(str, levels))
                print(f"{need:14} {len(of_need):4} tasks; by difficulty 1 to 5: {said}", flush=True)
    except WeighError as error:
        print(f"error: {error.message}", *(["hint:", error.hint] if error.hint else []), file=sys.stderr)
        return 2
    print(f"{len(tasks)} tasks, {found} faults")
    return 1 if found else 0


def _read(paths: Sequence[Path]) -> tuple[list[Task], int]:
    """The tasks, and how many files are none, each named."""
    tasks: list[Task] = []
    for path in paths:
        try:
            tasks.append(load_task(path))
        except BadFile as error:
            print(f"{path.parent.name}/{path.stem}: {error.message}")
    return tasks, len(paths) - len(tasks)


def _run(tasks: Sequence[Task]) -> int:
    """How many faults there are, each printed as it is found."""
    found = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for lines in pool.map(lambda task: list(faults(task)), tasks):
            found += len(lines)
            for line in lines:
                print(line, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
