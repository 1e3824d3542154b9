"""A recipe, the best mix for a size, or the smallest for a loss: chosen, written, and the loss measured.

Divergence is that of `weigh.quality.divergence`, from the source, on a text that the caller gives. Its windows are
used in turns: sensitivities are measured on some, and what comes out is judged by the others.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from weigh import units
from weigh.engines.engine import Limits
from weigh.errors import BadFile, BadInput
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.gguf_encoding import NewTensor
from weigh.quality.divergence import Divergence, divergence
from weigh.quality.scorer import ChildScorer, Comparison, open_scorer
from weigh.quality.text import Texts, llama_windows
from weigh.shrink import quantize
from weigh.shrink.gguf_file import Weights
from weigh.shrink.imatrix import ImportanceMatrix
from weigh.shrink.importance import measure_importance
from weigh.shrink.mixes import Front, Mix
from weigh.shrink.quantize import Plan
from weigh.shrink.sensitivity import WorkingCopy, candidates, grouped, measure, options

WINDOW_TOKENS = 512
_UNJUDGED = 32  # tokens at the start of a window, which have little before them
_PROBE_WINDOWS = 4
_JUDGE_WINDOWS = 32
_IMPORTANCE_WINDOWS = 100
_LEAST_NATS = 1e-6
_MOST_TRIES = 7  # files written to find the smallest within a loss


class Say(Protocol):
    """Called with what is being done, how much of it is done, and how much there is."""

    def __call__(self, what: str, done: int, of: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A file that was made.

    Attributes:
        expected_nats: the loss that the choice added up to; None for a recipe.
        divergence: measured from the source; None when no text was given.
    """

    path: Path
    plan: Plan
    bytes: int
    expected_nats: float | None = None
    divergence: Divergence | None = None

    def bits_per_weight(self, weights: Weights) -> float:
        tensors = self.plan.tensors(weights)
        return 8 * sum(t.bytes for t in tensors) / sum(t.elements for t in tensors)

    def shares(self, weights: Weights) -> list[tuple[GgmlType, float]]:
        """The formats and the share of all weights in each, the most used first."""
        held: Counter[GgmlType] = Counter()
        for tensor in self.plan.tensors(weights):
            held[tensor.type] += tensor.elements
        return [(type, elements / held.total()) for type, elements in held.most_common()]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be shrunk, and how it is judged.

    Attributes:
        source: the GGUF file that the weights come from; None when they come from a checkpoint.
        texts: what divergence is measured on; None for a recipe whose loss is not asked for.
        limits: of the process that runs source and result together.
    """

    weights: Weights
    source: Path | None
    texts: Texts | None
    out: Path
    matrix: ImportanceMatrix | None = None
    limits: Limits = field(default_factory=Limits)
    threads: int | None = None
    say: Say = lambda what, done, of: None


# --- judging -------------------------------------------------------------------------------------------


def to_recipe(job: Job, recipe: str, *, requantize: bool = False) -> Shrunk:
    """The model as `llama-quantize` would make it, judged when there is a text.

    Raises:
        as `quantize.by_recipe` and `quantize.write`.
    """
    plan = quantize.by_recipe(job.weights, recipe, matrix=job.matrix is not None, requantize=requantize)
    size = _write(job, plan, job.out)
    if job.texts is None:
        return Shrunk(job.out, plan, size)
    with reference(job) as source:
        return Shrunk(job.out, plan, size, divergence=judge(job, job.out, source))


def judge(job: Job, path: Path, reference: Path) -> Divergence:
    """The divergence of a file from the source, on the windows that choices were not made on.

    Raises:
        BadInput: the text is too short. EngineError: a model does not load, or the engine fails.
    """
    with _scorer(job, path, reference) as scorer:
        windows = _windows(scorer, job.texts)[1::2][:_JUDGE_WINDOWS]
        return divergence(_compared(scorer, windows, lambda n: job.say("measuring", n, len(windows))))


def _scorer(job: Job, path: Path, reference: Path) -> ChildScorer:
    return open_scorer(
        read_gguf(path),
        context_tokens=WINDOW_TOKENS,
        limits=job.limits,
        threads=job.threads,
        reference=read_gguf(reference),
    )


def _windows(scorer: ChildScorer, texts: Texts | None) -> list[list[int]]:
    if texts is None:
        raise BadInput(
            "no text is given, and the loss is measured on one", hint="of the kind that the model is for"
        )
    found = llama_windows(scorer, texts, min(WINDOW_TOKENS, scorer.context_tokens))
    if len(found) < 4:
        raise BadInput(
            f"the text makes {len(found)} windows of {WINDOW_TOKENS} tokens, and 4 are needed at least",
            hint="give it more text, of the kind that the model is for",
        )
    return found


def _compared(
    scorer: ChildScorer, windows: Sequence[list[int]], done: Callable[[int], None] | None = None
) -> list[Comparison]:
    found = []
    for window in windows:
        found.append(scorer.compare(window, _UNJUDGED))
        if done is not None:
            done(len(found))
    return found


def with_importance(job: Job, text: str) -> Job:
    """The job with an importance matrix measured on the windows that nothing is judged by.

    Args:
        text: the name of the text.

    Raises:
        BadInput: the text is too short. EngineError: the model has experts, or the engine fails.
    """
    with reference(job) as source, _folder(job.out) as folder:
        with _scorer(job, source, source) as scorer:
            windows = _windows(scorer, job.texts)[::2][:_IMPORTANCE_WINDOWS]
        matrix = measure_importance(
            source,
            windows,
            folder,
            text=text,
            limits=job.limits,
            threads=job.threads,
            done=lambda n: job.say("measuring importance", n, len(windows)),
        )
    return replace(job, matrix=matrix)


# --- mixes ---------------------------------------------------------------------------------------------


@contextmanager
def reference(job: Job) -> Iterator[Path]:
    """The source as a GGUF file: itself, or made of a checkpoint for as long as it is needed."""
    if job.source is not None:
        yield job.source
        return
    with _folder(job.out) as folder:
        path = folder / "reference.gguf"
        job.say("converting", 0, 1)
        quantize.write(job.weights, Plan("as it is", {}), path)
        yield path


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder beside the result for what is only needed on the way; nothing is left of it."""
    folder = out.with_name(f".{out.name}.{os.getpid()}.{os.urandom(3).hex()}.work")
    try:
        folder.mkdir()
    except OSError as error:
        raise BadFile(out, f"cannot be written ({error.strerror})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mixable(weights: Weights) -> list[NewTensor]:
    """The tensors whose format can be chosen: those that a recipe would quantize."""
    rounded = quantize.by_recipe(weights, "Q8_0").types
    return [
        tensor
        for tensor in weights.tensors
        if rounded.get(tensor.name, tensor.type) is GgmlType.Q8_0 and candidates(tensor, None)
    ]


def front(job: Job, reference: Path) -> Front:
    """The best mixes of all sizes, by each tensor's measured sensitivity.

    Raises:
        BadInput: the model is quantized already, or the text is too short.
        NoSpace: there is no room for a copy in F16. EngineError: the engine fails.
    """
    tensors = mixable(job.weights)
    with _folder(job.out) as folder:
        path = folder / "working-copy.gguf"
        half = Plan("F16", {tensor.name: GgmlType.F16 for tensor in tensors})
        quantize.write(job.weights, half, path, progress=lambda n, of: job.say("copying", n, of))
        with _scorer(job, path, reference) as scorer:
            windows = _windows(scorer, job.texts)[::2][:_PROBE_WINDOWS]
            found = measure(
                job.weights,
                WorkingCopy(path),
                lambda: divergence(_compared(scorer, windows)).kl.value,
                grouped(tensors),
                matrix=job.matrix,
                progress=lambda n, of: job.say("measuring sensitivity", n, of),
            )
    return Front(options(job.weights, found, tensors, job.matrix))


def by_size(job: Job, most_bytes: int) -> Shrunk:
    """The mix of least loss within a file of `most_bytes`.

    Raises:
        BadInput: no mix is so small; also as `front`.
    """
    with reference(job) as source:
        made = of_size(job, front(job, source), most_bytes)
        return replace(made, divergence=judge(job, job.out, source))


def of_size(job: Job, mixes: Front, most_bytes: int) -> Shrunk:
    """The mix of a front that loses least within a file of `most_bytes`, written and not judged.

    Raises:
        BadInput: no mix is so small; also as `quantize.write`.
    """
    smallest = mixes.mix(0)
    beside_bytes = quantize.file_bytes(job.weights, _plan(smallest, ""), job.matrix) - smallest.bytes
    mix = mixes.within(most_bytes - beside_bytes)
    if mix is None:
        raise BadInput(
            f"no mix of this model is smaller than {units.gib(smallest.bytes + beside_bytes)}",
            hint="a smaller model loses less than fewer bits would",
        )
    plan = _plan(mix, f"mix for {units.gib(most_bytes)}")
    return Shrunk(job.out, plan, _write(job, plan, job.out), mix.loss)


def by_loss(job: Job, most_nats: float) -> Shrunk:
    """The smallest mix found whose divergence from the source, as measured, is at most `most_nats`.

    The first try is the mix that is expected to lose so much. Expected losses are then scaled by what was
    measured, and after a few tries what is left is halved.

    Raises:
        BadInput: no mix that was tried stays within it; also as `front`.
    """
    with reference(job) as source:
        mixes = front(job, source).fine()
        with _folder(job.out) as folder:
            best: Shrunk | None = None
            low, high = 0, len(mixes) - 1  # where the smallest lies
            guess = _first_within(mixes, most_nats)
            for tries in range(1, _MOST_TRIES + 1):
                made = _try(job, mixes[guess], f"mix within {most_nats:g} nats", folder, source)
                assert made.divergence is not None
                nats = made.divergence.kl.value
                worse = made if nats > most_nats else best
                if nats <= most_nats:
                    best, high = made, guess - 1
                else:
                    low = guess + 1
                if worse is not None:
                    worse.path.unlink()
                if low > high:
                    break
                scaled = _first_within(mixes, most_nats * mixes[guess].loss / max(nats, _LEAST_NATS))
                guess = min(high, max(low, scaled if tries < 3 else (low + high) // 2))
            if best is None:
                raise BadInput(
                    f"no mix was found within {most_nats:g} nats; the last tried, of {units.gib(made.bytes)}, "
                    f"diverges by {nats:.4f}"
                )
            best.path.replace(job.out)
            return replace(best, path=job.out)


def _first_within(mixes: Sequence[Mix], most_nats: float) -> int:
    """The smallest mix whose expected loss is at most that; expected losses fall from mix to mix."""
    return bisect_left(mixes, -most_nats, key=lambda mix: -mix.loss)


def _try(job: Job, mix: Mix, name: str, folder: Path, source: Path) -> Shrunk:
    plan, path = _plan(mix, name), folder / f"{os.urandom(4).hex()}.gguf"
    size = _write(job, plan, path)
    return Shrunk(path, plan, size, mix.loss, judge(job, path, source))


def _plan(mix: Mix, name: str) -> Plan:
    return Plan(name, mix.types)


def _write(job: Job, plan: Plan, path: Path) -> int:
    return quantize.write(
        job.weights, plan, path, matrix=job.matrix, progress=lambda n, of: job.say("writing", n, of)
    )
