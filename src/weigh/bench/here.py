"""This machine, its engine, and what is known of the two together: the start of every answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.engines import default_engine, engine_named
from weigh.errors import EngineMissing
from weigh.estimate.site import Site
from weigh.machine import Machine, models_folder, probe
from weigh.machine.target_here import target_here
from weigh.store import Store
from weigh.store.ledger import learned

if TYPE_CHECKING:
    from weigh.bench.turns import Progress
    from weigh.engines.engine import Engine, Layout, Settings
    from weigh.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Here(Site):
    """This machine as a site.

    Attributes:
        engine: None when none is installed; then speeds stay unknown.
        rejected: why a calibration that was made just now was not kept; empty when it was, or none was made.
    """

    machine: Machine
    engine: Engine | None
    engine_version: str
    rejected: tuple[str, ...] = ()

    @property
    def on_host(self) -> Here:
        """This machine without its GPUs: where engines are measured."""
        return replace(self, target=replace(self.target, gpus=()))

    def under(self, engine: str) -> Here:
        """With another engine, known by name; what was learned of the first one's speed says nothing of it.

        Raises:
            EngineMissing: it is not installed.
            UnknownName: no such engine.
        """
        if self.engine is not None and engine == self.engine.name:
            return self
        other = engine_named(engine)
        return replace(self, engine=other, engine_version=other.version(), learned=None)


def gpus_left_alone(engine: str, machine: Machine) -> tuple[str, ...]:
    """What is said of GPUs that an engine started here does not use, and how to measure with them; () for none."""
    gpus = " and ".join(dict.fromkeys(gpu.name for gpu in machine.gpus if not gpu.problem))
    if not gpus or engine == "vllm":  # which picks its device itself
        return ()
    why = "has no code for" if engine == "llama.cpp" else "is told to leave alone"
    return (
        f"run on the processor, without {gpus}, which {engine} {why} here: to measure with it,"
        " start a server built for it (llama-server, vLLM, Ollama) and give its URL",
    )


def scratch_folder() -> Path:
    """Where probes and test-drives are written, and removed again."""
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def here(*, calibrate: bool = True, again: bool = False, progress: Progress | None = None) -> Here:
    """Probe the machine; take its calibration from the store, or make it now, and learn from earlier runs.

    A calibration that something disturbed never takes the place of a good one. Where there is none it is kept,
    with wider intervals, until asked for again: a machine that is always busy is not measured at every call.

    Args:
        calibrate: False leaves speeds unknown when the store has none.
        again: calibrate even when the store has one.

    Raises:
        EngineError: the engine failed while calibrating.
    """
    machine = probe()
    try:
        engine = default_engine()
        version = engine.version()
    except EngineMissing:
        return Here(target=target_here(machine), machine=machine, engine=None, engine_version="")
    store = Store()
    known = store.calibration(machine.speed_fingerprint, engine.name, version)
    rejected: tuple[str, ...] = ()
    if calibrate and (known is None or again):
        from weigh.bench.calibrate import calibrate as measure

        made = measure(machine, engine, folder=scratch_folder(), progress=progress or (lambda s, d: None))
        if made.problems and known is not None and not known.problems:
            rejected = made.problems
        else:
            known = made
            store.save_calibration(made)
    features = engine.cpu_features(machine.cpu.instruction_sets)
    return Here(
        target=target_here(machine, features),
        calibration=known,
        learned=learned(store, machine.speed_fingerprint, engine.name, version),
        machine=machine,
        engine=engine,
        engine_version=version,
        rejected=rejected,
    )


def ask_layout(here: Here, spec: ModelSpec, settings: Settings) -> Layout:
    """The engine's own figures for memory, from a file that holds only the header.

    Raises:
        EngineError: there is no engine, or it does not know the model.
    """
    engine = here.engine or default_engine()  # which says why there is none
    from weigh.synth import synthetic_file

    with synthetic_file(spec, scratch_folder(), weights=False) as path:
        return engine.layout(path, settings)
