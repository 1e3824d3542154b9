"""Scorers: what gives the log-probability of each token of a text, whatever runs the model.

A GGUF file and a safetensors folder are loaded in a child process, so that a crash, a hang or the OOM killer never
takes weigh with it; a server at a URL is in `url_scorer.py`. All of them answer the same questions.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from weigh import units
from weigh.engines.closing import ClosedAfterUse
from weigh.engines.engine import HOST, Limits
from weigh.errors import BadInput, EngineTimeout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from weigh.engines.engine import ProcessMemory
    from weigh.model.spec import ModelSpec

_LISTENING = re.compile(r"^listening on 127\.0\.0\.1:(\d+)$")
_EXACT_BYTES = 4  # a weight in float32
_HELD = 1.2  # of the weights: repacked ones replace mapped ones, and caches and logits come on top


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as a model reads it.

    Attributes:
        tokens: ids, without a token for its beginning.
        ends_bytes: where in the text's UTF-8 each token ends; None where that cannot be known.
        whole: whether the tokens spell the text, but for a blank before it; a server's are taken to.
    """

    tokens: list[int]
    ends_bytes: list[int] | None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Scores:
    """Of each judged token: its log-probability in nats, and whether it was the likeliest of all."""

    log_probs: NDArray[np.float64]
    top: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of each judged token, by two models that have read the same.

    Attributes:
        reference_log_probs, log_probs: of the token itself, in nats.
        kl_nats: KL(reference || candidate) of the two distributions it was drawn from.
        same_top: whether both hold the same token for the likeliest.
    """

    reference_log_probs: NDArray[np.float64]
    log_probs: NDArray[np.float64]
    kl_nats: NDArray[np.float64]
    same_top: NDArray[np.bool_]


class Scorer(Protocol):
    """A model that scores text.

    Attributes:
        name: what runs it, for messages and records.
        vocab: token ids there are.
        start: the token put before a text. The model's beginning of sequence (BOS); of a model that has none the
            end token, which stands between texts in training. None where there is neither.
        adds_bos: whether the model itself wants its BOS there.
        context_tokens: the most tokens of a window, without the last, which nothing follows.
    """

    name: str
    vocab: int
    start: int | None
    adds_bos: bool
    context_tokens: int

    def tokenize(self, text: str) -> TokenizedText: ...

    def score(self, tokens: Sequence[int], first: int) -> Scores:
        """Judge `tokens[first:]`, each by all before it in `tokens`; `first` is 1 or more."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_scorer(
    spec: ModelSpec,
    *,
    context_tokens: int,
    limits: Limits,
    threads: int | None = None,
    reference: ModelSpec | None = None,
) -> ChildScorer:
    """Load a model's own file, and its reference with it, in a child process.

    Args:
        context_tokens: the longest window; no longer than the model was trained for.
        limits: of the process that holds both.

    Raises:
        BadInput: the model is no file on this machine, or reference and model are of two kinds.
        EngineError: the model does not load.
    """
    models = [_own(one) for one in (reference, spec) if one is not None]
    kinds = {one.format for one in models}
    if len(kinds) > 1:
        raise BadInput(
            "a GGUF file and a safetensors folder are run by two engines, and their distributions are not compared",
            hint="convert one to the other's format first",
        )
    (kind,) = kinds
    given = {
        "kind": kind,
        "models": [str(_place(one).absolute()) for one in models],
        "context_tokens": min([context_tokens, *(one.context_train or context_tokens for one in models)]),
        "threads": threads,
        "exact": _fits_exactly(models, limits.memory_bytes),
    }
    return ChildScorer(_python(kind), given, limits)


def _own(spec: ModelSpec) -> ModelSpec:
    if spec.file is None or spec.format not in ("gguf", "safetensors"):
        raise BadInput(
            f"{spec.name} is no GGUF file and no safetensors checkpoint on this machine, which scoring text needs",
            hint="`weigh models` lists what is here",
        )
    return spec


def _place(spec: ModelSpec) -> Path:
    """The file, or the folder of a checkpoint."""
    from weigh.engines.checkpoint_folder import has_weights

    assert spec.file is not None
    if spec.format == "gguf":
        return spec.file
    folder = spec.file if spec.file.is_dir() else spec.file.parent
    if not has_weights(folder):
        raise BadInput(f"{folder} holds a config and no weights, and made-up ones have no quality")
    return folder


def held_bytes(spec: ModelSpec) -> float:
    """What a process takes that holds the model: a GGUF file as it is, a checkpoint in float32."""
    weights = (spec.file_bytes or 0) if spec.format == "gguf" else spec.parameters * _EXACT_BYTES
    return weights * _HELD


def _fits_exactly(models: Sequence[ModelSpec], memory_bytes: int | None) -> bool:
    """Whether checkpoints can be held in float32, in which their weights say what they say."""
    return memory_bytes is None or sum(map(held_bytes, models)) < memory_bytes


def _python(kind: str) -> str:
    """The interpreter: weigh's own, or for checkpoints the one that has transformers.

    Raises:
        EngineMissing: there is none.
    """
    if kind == "gguf":
        return sys.executable
    from weigh.engines.transformers import Transformers

    return Transformers().python


class ChildScorer(ClosedAfterUse):
    """See `Scorer`. With two models it also compares them; alone it scores the only one."""

    def __init__(self, python: str, given: Mapping[str, Any], limits: Limits) -> None:
        """Start the child and wait until its models are loaded.

        Raises:
            EngineError: it did not come up; nothing of it is left.
        """
        from weigh.engines.child import Child

        self.name = "llama.cpp" if given["kind"] == "gguf" else "transformers"
        self.context_tokens: int = given["context_tokens"]
        self._silence_s = limits.silence_s
        self._connection: socket.socket | None = None
        script = Path(__file__).with_name("scoring_child.py")
        # `-P` keeps this folder out of the child's import path
        self.command = (python, "-P", str(script), json.dumps(given))
        self._child = Child(self.command, limits, what=self.name)
        try:
            _, found = self._child.wait_for(_LISTENING, time.monotonic() + limits.start_s)
            self._connection = socket.create_connection((HOST, int(found[1])), timeout=self._silence_s)
            self._lines = self._connection.makefile("rb")  # holds the socket open until it is closed itself
            facts = self._ask("facts")
        except BaseException:
            self.close()
            raise
        self.vocab: int = facts["vocab"]
        self.adds_bos: bool = facts["adds_bos"]
        self.special: dict[str, int | None] = facts["special"]
        bos, eos = self.special["bos"], self.special["eos"]
        self.start = eos if bos is None else bos

    def tokenize(self, text: str) -> TokenizedText:
        """Nothing is added, and words that look like special tokens are plain text; of two models the reference's."""
        made = self._ask("tokens", text=text)
        return TokenizedText(made["tokens"], made["ends_bytes"], made["whole"])

    def score(self, tokens: Sequence[int], first: int) -> Scores:
        """See `Scorer`.

        Raises:
            BadInput: the window is longer than `context_tokens + 1`, or holds what is no token.
            EngineTimeout: nothing came for `silence_s`; the child is ended.
            EngineError: the child died.
        """
        import numpy as np

        made = self._ask("score", tokens=list(tokens), first=first)
        return Scores(np.array(made["log_probs"]), np.array(made["top"], dtype=bool))

    def compare(self, tokens: Sequence[int], first: int) -> Comparison:
        """Judge `tokens[first:]` by both models; raises as `score`."""
        import numpy as np

        made = self._ask("compare", tokens=list(tokens), first=first)
        return Comparison(
            np.array(made["reference_log_probs"]),
            np.array(made["log_probs"]),
            np.array(made["kl_nats"]),
            np.array(made["same_top"], dtype=bool),
        )

    def _ask(self, ask: str, **more: Any) -> dict[str, Any]:
        assert self._connection is not None
        try:
            self._connection.sendall(json.dumps({"ask": ask, **more}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._lines.readline())
        except TimeoutError:
            self._child.end()
            raise EngineTimeout(f"{self.name} was silent for {units.seconds(self._silence_s)}") from None
        except (OSError, ValueError):  # a line that breaks off is no JSON
            self._child.fail()
        if "refused" in answer:
            raise BadInput(f"{self.name} refused the request: {answer['refused']}")
        return answer

    def memory(self) -> ProcessMemory:
        return self._child.memory

    def close(self) -> None:
        if self._connection is not None:
            self._lines.close()
            self._connection.close()
        self._child.end()
