"""Words on the left, what they say on the right: how most answers are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Grid, show

if TYPE_CHECKING:
    from weigh.bench.here import Here
    from weigh.estimate.placement import DeviceMemory
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.site import Site

_WHEN_QUIET = "run `weigh machine --calibrate` when the machine is quiet"


def facts(rows: list[tuple[str, str]]) -> None:
    """Words on the left, what they say on the right, wrapped under itself."""
    show(facts_grid(rows))


def facts_grid(rows: list[tuple[str, str]]) -> Grid:
    grid = Grid(("", "said"), prose=("said",), head=False)
    for row in rows:
        grid.add(*row)
    return grid


def disturbed(site: Site) -> list[tuple[str, str]]:
    """A line when speeds rest on a calibration that something disturbed."""
    caution = site.calibration.caution if site.calibration else ""
    return [("Disturbed", f"{caution}: {_WHEN_QUIET}")] if caution else []


def not_kept(here: Here) -> list[tuple[str, str]]:
    """A line when a calibration made just now was thrown away for a better one."""
    if not here.rejected or here.calibration is None:
        return []
    of = here.calibration.created[:16].replace("T", " ")
    why = " and ".join(here.rejected)
    return [
        ("Not kept", f"what was measured just now, since {why}; that of {of} UTC still counts: {_WHEN_QUIET}")
    ]


def unknown_speed(setup: SetupEstimate) -> str:
    """Why no speed is known of a setup."""
    if not setup.spec.generates:
        return "not estimated: an embedding model writes no tokens"
    return "unknown: this machine is not calibrated (weigh machine --calibrate)"


def held(devices: Sequence[DeviceMemory], *, of_room: bool = True) -> str:
    """`22.1 of 23.5 GiB + 8.3 GiB RAM`: what the GPUs hold of what they may, and the RAM; RAM alone without GPUs."""
    ram, *gpus = devices
    taken = sum(gpu.total_bytes for gpu in gpus)
    if not taken:
        return _of(ram.total_bytes, ram.available_bytes, of_room=of_room)
    rooms = sum(gpu.available_bytes for gpu in gpus if gpu.total_bytes)
    return f"{_of(taken, rooms, of_room=of_room)} + {units.gib(ram.total_bytes)} RAM"


def _of(taken_bytes: int, room_bytes: int, *, of_room: bool) -> str:
    return f"{units.gib(taken_bytes)} of {units.gib(room_bytes)}" if of_room else units.gib(taken_bytes)
