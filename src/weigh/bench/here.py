"""This machine, its engine, and what is known of the two together: the start of every answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.engines import default_engine
from weigh.errors import EngineMissing
from weigh.machine import Machine, models_folder, probe
from weigh.store import Store

if TYPE_CHECKING:
    from weigh.bench.drive import Progress
    from weigh.engines.engine import Engine, Layout, Settings
    from weigh.estimate.calibration import Calibration
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.speed import Workload
    from weigh.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Here:
    """Attributes:
    engine: None when none is installed; then speeds stay unknown.
    cpu_features: instruction sets the engine's build uses.
    """

    machine: Machine
    engine: Engine | None
    engine_version: str
    calibration: Calibration | None
    cpu_features: tuple[str, ...]

    @property
    def default_reserve_bytes(self) -> int:
        """Left free for everything else: 2 GiB, an editor and a browser, but at most an eighth of it all."""
        return min(2 << 30, self.machine.memory.usable_bytes // 8)

    def available_bytes(self, reserve_bytes: int | None) -> int:
        """Memory a model may take: what is free now less what is to stay free."""
        reserved = self.default_reserve_bytes if reserve_bytes is None else reserve_bytes
        return max(0, self.machine.memory.available_bytes - reserved)


def scratch_folder() -> Path:
    """Where probes and test-drives are written, and removed again."""
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def here(*, calibrate: bool = True, again: bool = False, progress: Progress | None = None) -> Here:
    """Probe the machine; take its calibration from the store, or make it now.

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
        return Here(machine, None, "", None, machine.cpu.instruction_sets)
    store = Store()
    known = None if again else store.calibration(machine.fingerprint, engine.name, version)
    if known is None and calibrate:
        from weigh.bench.calibrate import calibrate as measure

        known = measure(machine, engine, folder=scratch_folder(), progress=progress or (lambda s, d: None))
        store.save_calibration(known)
    return Here(machine, engine, version, known, engine.cpu_features(machine.cpu.instruction_sets))


def weigh_here(
    here: Here,
    spec: ModelSpec,
    settings: Settings | None = None,
    workload: Workload | None = None,
    *,
    reserve_bytes: int | None = None,
) -> SetupEstimate:
    """One setup weighed against what is free on this machine now."""
    from weigh.engines.engine import Settings
    from weigh.estimate.setup import estimate
    from weigh.estimate.speed import Workload

    return estimate(
        spec,
        settings or Settings(),
        workload or Workload(),
        available_bytes=here.available_bytes(reserve_bytes),
        calibration=here.calibration,
        cpu_features=here.cpu_features,
    )


def ask_layout(here: Here, spec: ModelSpec, settings: Settings) -> Layout:
    """The engine's own figures for memory, from a file that holds only the header.

    Raises:
        EngineError: there is no engine, or it does not know the model.
    """
    if here.engine is None:
        raise EngineMissing("no engine is installed", hint="pip install xllamacpp")
    from weigh.synth import synthetic_file

    with synthetic_file(spec, scratch_folder(), weights=False) as path:
        return here.engine.layout(path, settings)
