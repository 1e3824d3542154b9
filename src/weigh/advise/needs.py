"""What people ask of a model: tasks with their usual sizes and limits, and one person's need.

Everything here is a default that a flag can override, with its reason beside it; docs/tasks.md is made
from this table. Minimum speeds are what one can live with on a slow machine, not what one would wish.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from weigh.errors import BadInput, UnknownName
from weigh.estimate.quality import traits

DEFAULT_TASK: Final = "coding"
_FOLLOWS_INSTRUCTIONS = ("instruct", "reasoning")


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of work, with the request that is typical of it.

    Attributes:
        context_tokens: what has to fit: instructions, files, and the answer of a few turns.
        prompt_tokens, output_tokens: one typical request; TTFT is judged on that prompt.
        thinking_tokens: what a model that always thinks first spends before such an answer (assumed).
        max_ttft_s: longest wait for the first token one accepts; None where patience is fine.
        quality_weight: how much quality counts against speed once both are acceptable, 0 to 1.
        code_weight: how much of the quality is code; the rest is general knowledge and reasoning.
        kinds: which kinds of model will do (weigh.estimate.quality.Kind).
        fim: whether the model has to fill in the middle of a file.
        reasons: one line per group of defaults: size, speed, wait, weight, axis.
    """

    name: str
    description: str
    context_tokens: int
    prompt_tokens: int
    output_tokens: int
    thinking_tokens: int
    min_decode_tokens_per_s: float
    max_ttft_s: float | None
    quality_weight: float
    code_weight: float
    reasons: Mapping[str, str]
    kinds: tuple[str, ...] = _FOLLOWS_INSTRUCTIONS
    fim: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def axis(self) -> dict[str, float]:
        """Weights of the two axes of quality, adding up to one."""
        return {"code": self.code_weight, "general": 1 - self.code_weight}

    def wants(self, model_id: str) -> bool:
        """Whether a model is of a kind that does this task; a model outside the catalog is let through."""
        model = traits(model_id)
        return model is None or (model.kind in self.kinds and (model.fim or not self.fim))


def _reasons(size: str, speed: str, wait: str, weight: str, axis: str) -> Mapping[str, str]:
    return MappingProxyType({"size": size, "speed": speed, "wait": wait, "weight": weight, "axis": axis})


_TABLE = (
    Task(
        "coding",
        "a coding assistant: questions, new functions, edits to a file or two",
        context_tokens=8192,
        prompt_tokens=2000,
        output_tokens=600,
        thinking_tokens=1000,
        min_decode_tokens_per_s=5,
        max_ttft_s=90,
        quality_weight=0.8,
        code_weight=0.85,
        aliases=("code", "coder", "programming", "assistant"),
        reasons=_reasons(
            "two files of 100 lines are about 2,000 tokens; an answer is a function and a few sentences",
            "5 tokens/s is slow reading (4 words/s); below it one waits instead of reading along",
            "a cold prompt of 2,000 tokens; from the second turn on the prompt cache leaves only new text",
            "a wrong answer costs more time than a slow one",
            "mostly code, but the request has to be understood",
        ),
    ),
    Task(
        "autocomplete",
        "completes the line or block being typed, in the editor",
        context_tokens=2048,
        prompt_tokens=256,
        output_tokens=30,
        thinking_tokens=0,
        min_decode_tokens_per_s=20,
        max_ttft_s=1.5,
        quality_weight=0.35,
        code_weight=1.0,
        kinds=("base", "instruct"),
        fim=True,
        aliases=("completion", "complete", "fim", "autocompletion", "tab"),
        reasons=_reasons(
            "the lines around the cursor; a suggestion is one to three lines",
            "30 tokens at 20 tokens/s are 1.5 s, the longest pause before one types on",
            "a suggestion that comes after the next keystrokes is thrown away",
            "a suggestion is checked at a glance, so speed counts for more than depth",
            "only code is written",
        ),
    ),
    Task(
        "chat",
        "everyday questions and conversation",
        context_tokens=8192,
        prompt_tokens=512,
        output_tokens=300,
        thinking_tokens=400,
        min_decode_tokens_per_s=5,
        max_ttft_s=20,
        quality_weight=0.65,
        code_weight=0.1,
        aliases=("assistant-chat", "conversation", "general", "qa"),
        reasons=_reasons(
            "a question with a pasted paragraph; an answer of 200 words",
            "people read 5 to 8 tokens/s",
            "longer than 20 s before a word appears and the thread is lost",
            "good answers first, but a conversation has to flow",
            "general knowledge, now and then a snippet",
        ),
    ),
    Task(
        "refactoring",
        "rewrites existing code without changing what it does",
        context_tokens=16384,
        prompt_tokens=4000,
        output_tokens=1500,
        thinking_tokens=1500,
        min_decode_tokens_per_s=5,
        max_ttft_s=180,
        quality_weight=0.85,
        code_weight=0.9,
        aliases=("refactor", "edit", "rewrite"),
        reasons=_reasons(
            "a module and those that call it; the module comes back whole",
            "1,500 tokens at 5 tokens/s are 5 minutes, about the limit for one step",
            "one reads the old code meanwhile; three minutes is a coffee, not a break",
            "a subtle mistake here is worse than waiting",
            "code, and the care to change nothing else",
        ),
    ),
    Task(
        "explaining",
        "explains code or an error message",
        context_tokens=8192,
        prompt_tokens=1500,
        output_tokens=500,
        thinking_tokens=600,
        min_decode_tokens_per_s=5,
        max_ttft_s=60,
        quality_weight=0.7,
        code_weight=0.6,
        aliases=("explain", "understanding"),
        reasons=_reasons(
            "one file or a stack trace with its source; a page of explanation",
            "it is read as it appears",
            "a minute while one looks at the code oneself",
            "an explanation is checked against the code in view",
            "reads code, writes prose",
        ),
    ),
    Task(
        "unit-tests",
        "writes tests for given code",
        context_tokens=8192,
        prompt_tokens=1500,
        output_tokens=1000,
        thinking_tokens=1000,
        min_decode_tokens_per_s=5,
        max_ttft_s=120,
        quality_weight=0.7,
        code_weight=0.9,
        aliases=("tests", "test", "testing", "unittest", "unittests", "unit-test"),
        reasons=_reasons(
            "one file under test; its tests are about as long",
            "1,000 tokens at 5 tokens/s are 3 minutes",
            "nobody watches tests being written",
            "running the tests shows at once what is wrong",
            "code that has to run",
        ),
    ),
    Task(
        "debugging",
        "finds and repairs the cause of a failure",
        context_tokens=16384,
        prompt_tokens=3000,
        output_tokens=800,
        thinking_tokens=2000,
        min_decode_tokens_per_s=5,
        max_ttft_s=120,
        quality_weight=0.9,
        code_weight=0.75,
        aliases=("debug", "bugfix", "fix"),
        reasons=_reasons(
            "the failing code, the trace and a few tries in one conversation",
            "a dialogue of several turns, each read as it comes",
            "logs are long, and the cache keeps them after the first turn",
            "a weak model sends one the wrong way",
            "code, and reasoning about causes",
        ),
    ),
    Task(
        "code-review",
        "reads a change and says what is wrong with it",
        context_tokens=16384,
        prompt_tokens=4000,
        output_tokens=600,
        thinking_tokens=2000,
        min_decode_tokens_per_s=3,
        max_ttft_s=None,
        quality_weight=0.9,
        code_weight=0.75,
        aliases=("review", "codereview", "pr-review"),
        reasons=_reasons(
            "a change of 300 lines with its surroundings; a list of remarks",
            "600 tokens at 3 tokens/s are 3 minutes; a review may run in the background",
            "the author has moved on to something else",
            "false alarms cost the reader's trust",
            "reads code and weighs it",
        ),
    ),
    Task(
        "architecture",
        "designs a system or weighs alternatives",
        context_tokens=16384,
        prompt_tokens=2000,
        output_tokens=1500,
        thinking_tokens=2500,
        min_decode_tokens_per_s=4,
        max_ttft_s=None,
        quality_weight=0.9,
        code_weight=0.5,
        aliases=("design", "planning"),
        reasons=_reasons(
            "requirements and interfaces; a document of two pages",
            "a document is read later, yet 1,500 tokens should not take over 6 minutes",
            "it is asked once and thought about for a day",
            "knowledge and judgement are the point",
            "half software, half the world it serves",
        ),
    ),
    Task(
        "documentation",
        "writes docstrings, guides and release notes from code",
        context_tokens=8192,
        prompt_tokens=2000,
        output_tokens=800,
        thinking_tokens=600,
        min_decode_tokens_per_s=4,
        max_ttft_s=None,
        quality_weight=0.6,
        code_weight=0.5,
        aliases=("docs", "docstrings", "writing"),
        reasons=_reasons(
            "the module to describe; a page of text",
            "800 tokens at 4 tokens/s are 3 minutes",
            "it runs while one does something else",
            "the text is edited anyway, so a decent draft soon is worth much",
            "reads code, writes prose",
        ),
    ),
    Task(
        "translation",
        "translates text between languages",
        context_tokens=4096,
        prompt_tokens=600,
        output_tokens=600,
        thinking_tokens=400,
        min_decode_tokens_per_s=5,
        max_ttft_s=30,
        quality_weight=0.65,
        code_weight=0.0,
        aliases=("translate",),
        reasons=_reasons(
            "a page at a time, as long out as in",
            "read along with the original",
            "half a minute a page",
            "a good small model translates well; a large one mostly adds polish",
            "no code",
        ),
    ),
    Task(
        "brainstorming",
        "throws out ideas to pick from",
        context_tokens=4096,
        prompt_tokens=200,
        output_tokens=600,
        thinking_tokens=400,
        min_decode_tokens_per_s=6,
        max_ttft_s=15,
        quality_weight=0.5,
        code_weight=0.1,
        aliases=("ideas", "brainstorm", "creative"),
        reasons=_reasons(
            "a short prompt, a long list",
            "ideas are skimmed faster than text is read",
            "it has to keep up with the person",
            "many quick tries beat one slow one",
            "mostly not code",
        ),
    ),
    Task(
        "reasoning",
        "problems that take several steps: logic, mathematics, plans",
        context_tokens=16384,
        prompt_tokens=500,
        output_tokens=2000,
        thinking_tokens=4000,
        min_decode_tokens_per_s=6,
        max_ttft_s=60,
        quality_weight=0.85,
        code_weight=0.3,
        aliases=("multi-step", "math", "logic", "multi-step-reasoning", "thinking"),
        reasons=_reasons(
            "a short question; the steps are written out",
            "2,000 tokens at 6 tokens/s are nearly 6 minutes, and a thinking model writes more",
            "the prompt is short, so a minute already means a model too large",
            "a wrong step spoils all that follow",
            "general reasoning; code benchmarks still tell something of it",
        ),
    ),
)

TASKS: Final[Mapping[str, Task]] = MappingProxyType({task.name: task for task in _TABLE})
_NAMES: Final = {alias: task.name for task in _TABLE for alias in (task.name, *task.aliases)}

# Groups of weigh's own tasks (weigh.quality.tasks) that are evidence on a need. Their `translation` is from one
# programming language to another, so it tells of coding and not of translating texts.
EVIDENCE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "coding": ("completion", "translation"),
        "autocomplete": ("completion",),
        "refactoring": ("refactoring",),
        "explaining": ("explanation",),
        "unit-tests": ("unit_tests",),
        "debugging": ("debugging",),
        "code-review": ("review",),
        "documentation": ("documentation",),
        "reasoning": ("reasoning",),
    }
)


def task(name: str) -> Task:
    """The task of that name or alias, however spelled (``unit_tests``, ``Unit Tests``).

    Raises:
        UnknownName: no such task; close names are attached.
    """
    key = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    if key in _NAMES:
        return TASKS[_NAMES[key]]
    close = [_NAMES[c] for c in get_close_matches(key, _NAMES, n=3, cutoff=0.6)]
    raise UnknownName("task", name, close=list(dict.fromkeys(close)), hint="one of: " + ", ".join(TASKS))


@dataclass(frozen=True, slots=True)
class Need:
    """What one person asks of a setup.

    Attributes:
        users: conversations held at once, each with its own context.
        max_ttft_s: None when any wait is accepted.
        reserve_bytes: memory to leave free for everything else; None leaves it to the machine's size.
    """

    task: Task
    context_tokens: int
    users: int
    min_decode_tokens_per_s: float
    max_ttft_s: float | None
    reserve_bytes: int | None
    prompt_tokens: int
    output_tokens: int


def need(
    task_name: str = DEFAULT_TASK,
    *,
    context_tokens: int | None = None,
    users: int = 1,
    min_decode_tokens_per_s: float | None = None,
    max_ttft_s: float | None = None,
    reserve_bytes: int | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
) -> Need:
    """The task's defaults with what was asked for in their place.

    A default prompt or output shrinks, or the default context grows, so that the request fits.

    Args:
        max_ttft_s: None keeps the task's limit; ``math.inf`` lifts it.

    Raises:
        UnknownName: no such task.
        BadInput: a figure is not positive, or the request asked for does not fit the context asked for.
    """
    wanted = task(task_name)
    asked = {
        "context": context_tokens, "number of users": users, "minimum speed": min_decode_tokens_per_s,
        "wait for the first token": max_ttft_s, "prompt": prompt_tokens, "output": output_tokens,
    }  # fmt: skip
    for what, figure in asked.items():
        if figure is not None and not figure > 0:
            raise BadInput(f"the {what} must be above zero, not {figure:g}")
    if reserve_bytes is not None and reserve_bytes < 0:
        raise BadInput(f"the memory to leave free cannot be negative ({reserve_bytes} bytes)")
    context, prompt, output = _fitting(wanted, context_tokens, prompt_tokens, output_tokens)
    speed = wanted.min_decode_tokens_per_s if min_decode_tokens_per_s is None else min_decode_tokens_per_s
    ttft = wanted.max_ttft_s if max_ttft_s is None else max_ttft_s
    ttft = None if ttft == math.inf else ttft
    return Need(wanted, context, users, speed, ttft, reserve_bytes, prompt, output)


def _fitting(
    wanted: Task, context: int | None, prompt: int | None, output: int | None
) -> tuple[int, int, int]:
    """Context, prompt and output that go together; what was asked for is never changed."""
    if context is None:
        prompt, output = prompt or wanted.prompt_tokens, output or wanted.output_tokens
        return max(wanted.context_tokens, prompt + output), prompt, output
    if (prompt or 1) + (output or 1) > context:
        asked = f"{prompt or 0} tokens of prompt and {output or 0} of output"
        raise BadInput(f"a context of {context} tokens cannot hold {asked}")
    if output is None:
        output = min(wanted.output_tokens, context - prompt if prompt else max(1, context // 4))
    return context, prompt or min(wanted.prompt_tokens, context - output), output
