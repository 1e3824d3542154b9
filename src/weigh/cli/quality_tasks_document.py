"""The JSON form of models on tasks; the keys are stable and described in docs/quality_tasks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weigh.quality.tasks.passing import Outcome, Rate, by_difficulty, by_need, difference, rate
from weigh.quality.tasks.run import TaskRun

Document = dict[str, Any]


def tasks_document(runs: Sequence[TaskRun], answers: Path) -> Document:
    return {
        "models": [_model(run) for run in runs],
        "pairs": _pairs(runs),
        "answers_file": str(answers),
    }


def _model(run: TaskRun) -> Document:
    outcomes, sampling = run.outcomes(), run.asked.sampling
    at = sorted({1, run.asked.samples})
    return {
        "model": run.model,
        "style": str(run.style),
        "samples": run.asked.samples,
        "temperature": sampling.temperature,
        "max_tokens": sampling.most_tokens,
        "seed": sampling.seed,
        "pass_at": {str(k): _rate(rate(outcomes, k)) for k in at},
        "by_need": {str(k): _rates(by_need(outcomes, k)) for k in at},
        "by_difficulty": {str(k): _rates(by_difficulty(outcomes, k)) for k in at},
        "tasks": [_task(one) for one in outcomes],
        "tasks_left_out": run.left_out,
        "answers_cut": sum(answer.cut for answer in run.answers),
        "took_s": run.took_s,
        "ended": str(run.ended),
    }


def _task(one: Outcome) -> Document:
    return {
        "task": one.task,
        "need": one.need,
        "difficulty": one.difficulty,
        "samples": one.samples,
        "passed": one.passed,
    }


def _pairs(runs: Sequence[TaskRun]) -> list[Document]:
    found = []
    for number, one in enumerate(runs):
        for other in runs[number + 1 :]:
            gap = difference(one.outcomes(), other.outcomes())
            if gap is not None:
                models = [one.model, other.model]
                better = None if gap.better is None else models[gap.better]
                found.append(
                    {
                        "models": models,
                        "difference": gap.figure.to_json(),
                        "better": better,
                        "tasks": gap.tasks,
                    }
                )
    return found


def _rates(rates: Mapping[Any, Rate]) -> Document:
    return {str(key): _rate(found) for key, found in rates.items()}


def _rate(found: Rate | None) -> Document | None:
    return None if found is None else {**found.figure.to_json(), "tasks": found.tasks}
