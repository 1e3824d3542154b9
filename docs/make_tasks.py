"""Write docs/tasks.md from the table in weigh.advise.needs: `python docs/make_tasks.py`."""

from pathlib import Path

from weigh.advise.needs import DEFAULT_TASK, TASKS, Task

INTRO = """# Tasks

<!-- made by docs/make_tasks.py from src/weigh/advise/needs.py; edit there -->

What `--task` means, in figures. Each can be overridden: `--context`, `--prompt`, `--output`, `--min-speed`,
`--max-ttft`. A setup below the minimum speed or over the wait is never recommended. Among the rest, *quality*
says how much the better model counts against the faster one (1: only quality), and *code* how much of quality
is code rather than general knowledge and reasoning. *Thinking* is what a model that always thinks first is
assumed to write before such an answer; it is waited for at decode speed.

The figures are judgements, each with its reason below: what a person can live with on a slow machine.
"""


def table() -> str:
    head = [
        "task",
        "context",
        "prompt",
        "output",
        "thinking",
        "min. tokens/s",
        "max. wait",
        "quality",
        "code",
    ]
    rows = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for task in TASKS.values():
        wait = f"{task.max_ttft_s:g} s" if task.max_ttft_s is not None else "any"
        cells = [task.context_tokens, task.prompt_tokens, task.output_tokens, task.thinking_tokens]
        figures = [f"{cell:,}" for cell in cells]
        figures += [f"{task.min_decode_tokens_per_s:g}", wait]
        figures += [f"{task.quality_weight:g}", f"{task.code_weight:g}"]
        rows.append(f"| {task.name} | {' | '.join(figures)} |")
    return "\n".join(rows)


def section(task: Task) -> str:
    kinds = "fill-in-the-middle models, base ones included" if task.fim else "models that follow instructions"
    default = " (the default)" if task.name == DEFAULT_TASK else ""
    labels = {
        "size": "context, prompt, output",
        "speed": f"at least {task.min_decode_tokens_per_s:g} tokens/s",
        "wait": "first token " + (f"within {task.max_ttft_s:g} s" if task.max_ttft_s else "whenever"),
        "weight": f"quality {task.quality_weight:g}",
        "axis": f"code {task.code_weight:g}",
    }
    lines = [f"## {task.name}{default}", "", f"{task.description[0].upper()}{task.description[1:]}.", ""]
    lines += [f"- **{labels[key]}**: {reason}" for key, reason in task.reasons.items()]
    lines += [f"- **models**: {kinds}", f"- **also called**: {', '.join(task.aliases)}"]
    return "\n".join(lines)


def page() -> str:
    return "\n\n".join([INTRO.rstrip(), table(), *(section(task) for task in TASKS.values())]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("tasks.md").write_text(page(), encoding="utf-8")
