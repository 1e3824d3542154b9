"""A model file as a judge of code: one process gives the log-probabilities, and the engine's server writes lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.engines.engine import Limits, Settings
from weigh.model.gguf import printable
from weigh.quality.completion import FimTokens, LlamaCompletion
from weigh.quality.own_code import Budget, OwnCode, Progress, own_code
from weigh.quality.repository import MOST_FILES, held_out
from weigh.quality.scorer import ChildScorer, held_bytes, open_scorer
from weigh.quality.text import Text, score_text

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec

CONTEXT_TOKENS = 1664  # an excerpt or a prompt and a line, should each byte of it be a token


class CodeModel:
    """See `weigh.quality.own_code.Judge`. A safetensors checkpoint reads; a GGUF file also writes."""

    def __init__(self, name: str, scorer: ChildScorer, completion: LlamaCompletion | None) -> None:
        self.name, self.writes = name, completion is not None
        self._scorer, self._completion = scorer, completion

    def bits(self, text: str) -> tuple[float, int]:
        """What it needs for `text`, and for how many bytes.

        Raises:
            EngineError: the scorer fails.
        """
        found = score_text(self._scorer, Text(self.name, 0, text))
        return found.bits, found.text_bytes

    def next_line(self, before: str) -> str:
        """See `LlamaCompletion.next_line`."""
        assert self._completion is not None
        return self._completion.next_line(before)

    def middle(self, before: str, after: str) -> str | None:
        """See `LlamaCompletion.middle`."""
        assert self._completion is not None
        return self._completion.middle(before, after)


@contextmanager
def opened(spec: ModelSpec, name: str, limits: Limits, *, threads: int | None = None) -> Iterator[CodeModel]:
    """Load a model's own file.

    Raises:
        BadInput: the model is no file on this machine.
        EngineError: it does not load.
    """
    from weigh.engines import default_engine
    from weigh.engines.http_session import HttpSession

    context_tokens = min(CONTEXT_TOKENS, spec.context_train or CONTEXT_TOKENS)
    with ExitStack() as held:
        scorer = held.enter_context(
            open_scorer(spec, context_tokens=context_tokens, limits=limits, threads=threads)
        )
        completion = None
        if spec.format == "gguf":
            assert spec.file is not None  # `open_scorer` has seen to it
            settings = Settings(context_tokens=context_tokens, threads=threads)
            session = held.enter_context(default_engine().start(spec.file, settings, limits))
            assert isinstance(session, HttpSession)  # as all that run GGUF files
            completion = LlamaCompletion(session.url, context_tokens=context_tokens, fim=_fim(scorer.special))
        yield CodeModel(name, scorer, completion)


def _fim(special: dict[str, int | None]) -> FimTokens | None:
    """As llama.cpp has them: by the file's metadata (`tokenizer.ggml.fim_pre_token_id` …), else by names it knows."""
    prefix, suffix = special.get("fim_prefix"), special.get("fim_suffix")
    middle = special.get("fim_middle")
    if prefix is None or suffix is None or middle is None:
        return None
    return FimTokens(prefix, suffix, middle)


def on_repository(
    specs: Sequence[ModelSpec],
    folder: Path,
    *,
    budget: Budget,
    seed: int = 0,
    most_files: int = MOST_FILES,
    threads: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    progress: Progress = lambda stage, done: None,
) -> OwnCode:
    """Measure model files on held-out files of a repository; all at once where memory allows it.

    Raises:
        BadInput: a model is no file on this machine, or the folder has no code to measure with.
        EngineError: a model does not load.
    """
    from weigh.machine.memory import read_memory

    progress("choosing files", 0.0)
    chosen = held_out(folder, most_files=most_files)
    openers = [
        (name, partial(opened, spec, name, limits, threads=threads))
        for name, spec in zip(names(specs), specs, strict=True)
    ]
    together = fit_together(specs, read_memory().available_bytes)
    return own_code(openers, chosen, budget=budget, seed=seed, together=together, progress=progress)


def names(specs: Sequence[ModelSpec]) -> list[str]:
    """What tells the models apart: name and quantization; where several share those, the file's name with them."""
    short = [f"{spec.name} {spec.quantization}" for spec in specs]
    return [
        name if short.count(name) == 1 or spec.file is None else f"{name} ({printable(spec.file.name)})"
        for name, spec in zip(short, specs, strict=True)
    ]


def fit_together(specs: Sequence[ModelSpec], available_bytes: int) -> bool:
    """Whether all models can be held at once, GGUF files by two processes each."""
    return sum(held_bytes(spec) * (2 if spec.format == "gguf" else 1) for spec in specs) < available_bytes
