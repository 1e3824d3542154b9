"""How far what was made lies from its source: divergence on a text that the user gives.

Windows of the text are used in turns: choices are made on every other one, and what comes out is judged by the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from weigh.engines.engine import Limits
from weigh.errors import BadInput
from weigh.model.spec import ModelSpec
from weigh.quality.divergence import Divergence, divergence
from weigh.quality.scorer import ChildScorer, Comparison, open_scorer
from weigh.quality.text import Texts, llama_windows

WINDOW_TOKENS = 512
_UNJUDGED = 32  # tokens at the start of a window, which have little before them
_JUDGE_WINDOWS = 32


class Say(Protocol):
    """Called with what is being done, how much of it is done, and how much there is."""

    def __call__(self, what: str, done: int, of: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Judge:
    """What models are compared on.

    Attributes:
        texts: None for a type whose loss is not asked for.
        limits: of the process that runs source and result together.
        say: told of all long work.
    """

    texts: Texts | None
    limits: Limits = field(default_factory=Limits)
    threads: int | None = None
    say: Say = lambda what, done, of: None

    def divergence(self, made: ModelSpec, reference: ModelSpec) -> Divergence:
        """The divergence of what was made from the source, on the windows that choices were not made on.

        Raises:
            BadInput: the text is too short. EngineError: a model does not load, or the engine fails.
        """
        with self.scorer(made, reference) as scorer:
            windows = self.windows(scorer)[1::2][:_JUDGE_WINDOWS]
            return divergence(compared(scorer, windows, lambda n: self.say("measuring", n, len(windows))))

    def scorer(self, made: ModelSpec, reference: ModelSpec) -> ChildScorer:
        return open_scorer(
            made,
            context_tokens=WINDOW_TOKENS,
            limits=self.limits,
            threads=self.threads,
            reference=reference,
        )

    def windows(self, scorer: ChildScorer) -> list[list[int]]:
        """The text in windows of tokens.

        Raises:
            BadInput: there is no text, or too little.
        """
        if self.texts is None:
            raise BadInput(
                "no text is given, and the loss is measured on one", hint="of the kind that the model is for"
            )
        found = llama_windows(scorer, self.texts, min(WINDOW_TOKENS, scorer.context_tokens))
        if len(found) < 4:
            raise BadInput(
                f"the text makes {len(found)} windows of {WINDOW_TOKENS} tokens, and 4 are needed at least",
                hint="give it more text, of the kind that the model is for",
            )
        return found


def compared(
    scorer: ChildScorer, windows: Sequence[list[int]], done: Callable[[int], None] | None = None
) -> list[Comparison]:
    """The windows by the scorer's two models; `done` is called with how many are."""
    found = []
    for window in windows:
        found.append(scorer.compare(window, _UNJUDGED))
        if done is not None:
            done(len(found))
    return found
