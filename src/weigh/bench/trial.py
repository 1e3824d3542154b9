"""The test-drive: run the real engine on a file of the true shapes and hold it against the estimate."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass

from weigh.bench.drive import Drive, Progress, drive, relative_spread
from weigh.bench.here import Here, scratch_folder
from weigh.bench.keep import keep
from weigh.engines.engine import Limits
from weigh.errors import EngineMissing, NotSupported
from weigh.estimate.setup import SetupEstimate
from weigh.figure import Basis, Figure
from weigh.store.run import Kind
from weigh.synth import synthetic_file


@dataclass(frozen=True, slots=True)
class Trial:
    """An estimate and the measurement made right after it.

    Attributes:
        basis: `measured` on the user's own file, `test-driven` on a synthetic one.
        peak_memory_bytes: highest resident memory of the engine, mapped file pages included.
    """

    estimate: SetupEstimate
    drive: Drive
    engine: str
    engine_version: str
    command: tuple[str, ...]
    basis: Basis

    @property
    def load_s(self) -> Figure:
        return Figure.exact(self.drive.load_s, "s", self.basis)

    @property
    def prefill_tokens_per_s(self) -> Figure:
        return self._rate([g.prefill_tokens_per_s for g in self.drive.prefills])

    @property
    def decode_tokens_per_s(self) -> Figure:
        return self._rate([g.decode_tokens_per_s for g in self.drive.decodes])

    @property
    def peak_memory_bytes(self) -> Figure:
        return Figure.exact(self.drive.memory.peak_bytes, "bytes", self.basis)

    def _rate(self, samples: list[float]) -> Figure:
        return Figure(statistics.median(samples), min(samples), max(samples), "tokens/s", self.basis)

    @property
    def noise(self) -> float:
        """Relative spread of single decode steps: how steady the machine was meanwhile."""
        return relative_spread(self.drive.step_times_s)


def expected_seconds(estimated: SetupEstimate, repetitions: int) -> float | None:
    """How long the test-drive will take, without writing the file."""
    if estimated.speed is None:
        return None
    work = estimated.workload
    runs = work.prompt_tokens / estimated.speed.prefill_tokens_per_s.value
    runs += work.output_tokens / estimated.speed.decode_tokens_per_s.value
    return estimated.speed.load_s.value + repetitions * runs


def run_trial(
    estimated: SetupEstimate,
    here: Here,
    *,
    repetitions: int = 1,
    progress: Progress = lambda stage, done: None,
) -> Trial:
    """Run the setup for real and keep the result beside its estimate in the store.

    A model read from a file is run from it; for any other a file of its shapes with random weights is
    written, and removed again.

    Raises:
        EngineError: the engine failed, or there is none.
        NotSupported: an embedding model.
        NoSpace: the disk has no room for the synthetic file.
    """
    if here.engine is None:
        raise EngineMissing("no engine is installed", hint="pip install xllamacpp")
    spec = estimated.spec
    if not spec.generates:
        raise NotSupported(f"{spec.name} is an embedding model: it writes no tokens to test-drive")
    with ExitStack() as stack:
        file, basis = (spec.file if spec.format == "gguf" else None), Basis.MEASURED
        if file is None:
            basis = Basis.TEST_DRIVEN
            progress("writing a file of the true shapes", 0.0)
            writing = lambda done, total: progress("writing a file of the true shapes", done / total)  # noqa: E731
            file = stack.enter_context(synthetic_file(spec, scratch_folder(), progress=writing))
        progress("loading", 0.0)
        limits = Limits(memory_bytes=estimated.available[0])
        session = stack.enter_context(here.engine.start(file, estimated.settings, limits))
        seen = drive(
            session,
            vocab=spec.vocab,
            prompt_tokens=estimated.workload.prompt_tokens,
            output_tokens=estimated.workload.output_tokens,
            depth_tokens=estimated.workload.depth_tokens,
            repetitions=repetitions,
            progress=progress,
        )
        result = Trial(estimated, seen, here.engine.name, here.engine_version, session.command, basis)
    _keep(result, here)
    return result


def _keep(result: Trial, here: Here) -> None:
    seen = result.drive
    keep(
        result.estimate,
        here,
        Kind(result.basis),
        decode_tokens_per_s=[g.decode_tokens_per_s for g in seen.decodes],
        prefill_tokens_per_s=[g.prefill_tokens_per_s for g in seen.prefills],
        load_s=[seen.load_s],
        peak_memory_bytes=[seen.memory.peak_bytes],
        noise=result.noise,
    )
