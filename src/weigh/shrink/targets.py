"""A recipe, the best mix for a size, or the smallest for a loss: chosen, written, and judged."""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from weigh import units
from weigh.engines.transformers import require_compressed_tensors
from weigh.errors import BadFile, BadInput
from weigh.model.checkpoint import read_checkpoint
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.model.gguf_encoding import NewTensor
from weigh.model.spec import ModelSpec
from weigh.quality.divergence import Divergence, divergence
from weigh.shrink import compressed, quantize
from weigh.shrink.compressed import Rounding
from weigh.shrink.gguf_file import Weights
from weigh.shrink.imatrix import ImportanceMatrix
from weigh.shrink.importance import measure_importance
from weigh.shrink.judging import Judge, compared
from weigh.shrink.mixes import Front, Mix
from weigh.shrink.quantize import Plan
from weigh.shrink.sensitivity import WorkingCopy, candidates, grouped, measure, options

_PROBE_WINDOWS = 4
_IMPORTANCE_WINDOWS = 100
_LEAST_NATS = 1e-6
_MOST_TRIES = 7  # files written to find the smallest within a loss


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What was made.

    Attributes:
        model: as it is read from its file or folder.
        expected_nats: the loss that the choice added up to; None for a recipe.
        divergence: measured from the source; None when no text was given.
    """

    model: ModelSpec
    expected_nats: float | None = None
    divergence: Divergence | None = None

    @property
    def path(self) -> Path:
        assert self.model.file is not None
        return self.model.file

    @property
    def bytes(self) -> int:
        assert self.model.file_bytes is not None
        return self.model.file_bytes

    def shares(self) -> list[tuple[str, float]]:
        """The formats and the share of all weights in each, the most used first."""
        held: Counter[str] = Counter()
        for group in self.model.tensors:
            held[group.type.name] += group.total_elements
        return [(name, elements / held.total()) for name, elements in held.most_common()]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be made into a GGUF file, and how it is judged.

    Attributes:
        source: the GGUF file that the weights come from; None when they come from a checkpoint.
    """

    weights: Weights
    source: Path | None
    judge: Judge
    out: Path
    matrix: ImportanceMatrix | None = None


def to_rounding(spec: ModelSpec, rounding: Rounding, judge: Judge, out: Path) -> Shrunk:
    """A folder of safetensors files with its linear layers rounded, judged when there is a text.

    Raises:
        as `compressed.write`. EngineMissing: there is a text, and nothing that runs the folder.
    """
    if judge.texts is not None:
        require_compressed_tensors()
    compressed.write(spec, rounding, out, lambda n, of: judge.say("writing", n, of))
    made = read_checkpoint(out)
    divergence = judge.divergence(made, spec) if judge.texts is not None else None
    return Shrunk(made, divergence=divergence)


def to_recipe(job: Job, recipe: str, *, requantize: bool = False) -> Shrunk:
    """The model as `llama-quantize` would make it, judged when there is a text.

    Raises:
        as `quantize.by_recipe` and `quantize.write`.
    """
    plan = quantize.by_recipe(job.weights, recipe, matrix=job.matrix is not None, requantize=requantize)
    made = _made(job, plan, job.out)
    if job.judge.texts is None:
        return made
    with reference(job) as source:
        return _judged(job, made, source)


def _judged(job: Job, made: Shrunk, reference: Path) -> Shrunk:
    return replace(made, divergence=job.judge.divergence(made.model, read_gguf(reference)))


def with_importance(job: Job, text: str) -> Job:
    """The job with an importance matrix measured on the windows that nothing is judged by.

    Args:
        text: the name of the text.

    Raises:
        BadInput: the text is too short. EngineError: the model has experts, or the engine fails.
    """
    with reference(job) as source, _folder(job.out) as folder:
        model = read_gguf(source)
        with job.judge.scorer(model, model) as scorer:
            windows = job.judge.windows(scorer)[::2][:_IMPORTANCE_WINDOWS]
        matrix = measure_importance(
            source,
            windows,
            folder,
            text=text,
            limits=job.judge.limits,
            threads=job.judge.threads,
            done=lambda n: job.judge.say("measuring importance", n, len(windows)),
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
        job.judge.say("converting", 0, 1)
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
        quantize.write(job.weights, half, path, progress=lambda n, of: job.judge.say("copying", n, of))
        with job.judge.scorer(read_gguf(path), read_gguf(reference)) as scorer:
            windows = job.judge.windows(scorer)[::2][:_PROBE_WINDOWS]
            found = measure(
                job.weights,
                WorkingCopy(path),
                lambda: divergence(compared(scorer, windows)).kl.value,
                grouped(tensors),
                matrix=job.matrix,
                progress=lambda n, of: job.judge.say("measuring sensitivity", n, of),
            )
    return Front(options(job.weights, found, tensors, job.matrix))


def by_size(job: Job, most_bytes: int) -> Shrunk:
    """The mix of least loss within a file of `most_bytes`.

    Raises:
        BadInput: no mix is so small; also as `front`.
    """
    with reference(job) as source:
        return _judged(job, of_size(job, front(job, source), most_bytes), source)


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
    return _made(job, plan, job.out, mix.loss)


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
            return replace(best, model=replace(best.model, file=job.out))


def _first_within(mixes: Sequence[Mix], most_nats: float) -> int:
    """The smallest mix whose expected loss is at most that; expected losses fall from mix to mix."""
    return bisect_left(mixes, -most_nats, key=lambda mix: -mix.loss)


def _try(job: Job, mix: Mix, name: str, folder: Path, source: Path) -> Shrunk:
    path = folder / f"{os.urandom(4).hex()}.gguf"
    return _judged(job, _made(job, _plan(mix, name), path, mix.loss), source)


def _plan(mix: Mix, name: str) -> Plan:
    return Plan(name, mix.types)


def _made(job: Job, plan: Plan, path: Path, expected_nats: float | None = None) -> Shrunk:
    def progress(done: int, of: int) -> None:
        job.judge.say("writing", done, of)

    quantize.write(job.weights, plan, path, matrix=job.matrix, progress=progress)
    return Shrunk(read_gguf(path), expected_nats)
