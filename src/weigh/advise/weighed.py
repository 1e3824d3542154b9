"""The catalog's setups under one question, weighed once and kept between calls.

Weighing a few hundred setups takes most of a second; the same question asked again should not. What is
kept depends on nothing that changes from call to call: free memory comes in later, when setups are judged.
Only the split over GPUs needs it, so that is made for free memory in whole steps of 256 MiB.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weigh.engines.engine import Settings
    from weigh.estimate.placement import DeviceMemory, Placement
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.site import Site
    from weigh.estimate.speed import SpeedEstimate, Workload
    from weigh.figure import Figure
    from weigh.model.catalog import CatalogEntry

FILES_KEPT = 24
FREE_STEP_BYTES = 256 << 20


@dataclass(frozen=True)
class Weighed:
    """Of one setup, what searching and showing need.

    Attributes:
        memory: of all devices together; `devices` has each, RAM first.
        first_token_s: for the task's typical prompt; None, as `speed`, without a calibration.
    """

    quantization: str
    parameters: int
    active_parameters: int
    context_train: int
    memory: DeviceMemory
    devices: tuple[DeviceMemory, ...]
    placement: Placement
    why: str
    speed: SpeedEstimate | None
    first_token_s: Figure | None


def weighed(found: SetupEstimate, prompt_tokens: int) -> Weighed:
    """What is kept of an estimate; TTFT is of a prompt of `prompt_tokens`."""
    return Weighed(
        quantization=found.spec.quantization,
        parameters=found.spec.parameters,
        active_parameters=found.spec.active_parameters,
        context_train=found.spec.context_train,
        memory=found.memory,
        devices=found.devices,
        placement=found.placement,
        why=found.why,
        speed=found.speed,
        first_token_s=found.ttft_s(prompt_tokens),
    )


class Weighings:
    """Setups of one question, by model and recipe."""

    def __init__(
        self,
        site: Site,
        settings: Settings,
        workload: Workload,
        prompt_tokens: int,
        reserve_bytes: int | None = None,
    ) -> None:
        self._site = _steady(site, reserve_bytes)
        self._settings, self._workload = settings, workload
        self._prompt_tokens = prompt_tokens
        self._path = _folder() / f"weighed-{self._key()}.pickle"
        self._known = _read(self._path)
        self._complete = len(self._known)

    def _key(self) -> str:
        """Of all that the weighings depend on; the catalog and the code by their time of change."""
        asked = (self._settings, self._workload, self._prompt_tokens)
        known = (self._site, _newest_file_ns())
        return hashlib.sha256(repr((asked, known)).encode()).hexdigest()[:20]

    def of(self, entry: CatalogEntry, recipe: str) -> Weighed | None:
        """The setup's weights in the scales; None when the model's shapes are not known."""
        if (entry.id, recipe) not in self._known:
            self._known[entry.id, recipe] = self._weigh(entry, recipe)
        return self._known[entry.id, recipe]

    def _weigh(self, entry: CatalogEntry, recipe: str) -> Weighed | None:
        if entry.unsupported:
            return None
        from weigh.estimate.setup import weigh
        from weigh.model.quantization import quantize

        spec = quantize(entry.spec(), recipe)
        found = weigh(spec, self._site, self._settings, self._workload, reserve_bytes=0)
        return weighed(found, self._prompt_tokens)

    def keep(self) -> None:
        """Write what is new; a folder that cannot be written only costs time at the next call."""
        if len(self._known) == self._complete:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(f".{os.getpid()}")
            part.write_bytes(pickle.dumps(self._known))
            part.replace(self._path)  # whole or not at all, also when two weighs write at once
            by_age = sorted(self._path.parent.glob("weighed-*.pickle"), key=lambda p: p.stat().st_mtime)
            for old in by_age[:-FILES_KEPT]:
                old.unlink()


def _steady(site: Site, reserve_bytes: int | None) -> Site:
    """The site without what changes from call to call, and without what is to stay free."""
    from weigh.estimate.site import Site

    target = site.target
    free_bytes = site.available_bytes(reserve_bytes)[0] if target.gpus else 0
    host = replace(target.host, free_bytes=_in_steps(free_bytes))
    gpus = (replace(gpu, free_bytes=_in_steps(gpu.free_bytes)) for gpu in target.gpus)
    return Site(replace(target, host=host, gpus=tuple(gpus)), site.calibration, site.learned)


def _in_steps(free_bytes: int) -> int:
    return free_bytes // FREE_STEP_BYTES * FREE_STEP_BYTES


def _folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("weigh", appauthor=False) / "weighed"


def _read(path: Path) -> dict[tuple[str, str], Weighed | None]:
    """What an earlier call wrote into the user's own cache; nothing when it cannot be read."""
    try:
        found: dict[tuple[str, str], Weighed | None] = pickle.loads(path.read_bytes())
    except Exception:  # absent, cut short, or of a class that has changed: weigh again
        return {}
    return found


def _newest_file_ns() -> int:
    package = Path(__file__).parent.parent
    folders = (package, *(package / name for name in ("advise", "estimate", "model", "data", "engines")))
    return max(entry.stat().st_mtime_ns for folder in folders for entry in os.scandir(folder))
