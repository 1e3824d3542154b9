"""Which GPUs an environment variable leaves to a process, and in which order.

CUDA_VISIBLE_DEVICES and its like list GPUs by number or by the start of their unique name; the list ends at
the first entry that names none. Sources: CUDA C++ Programming Guide, "Environment Variables";
ROCm documentation, "GPU isolation techniques"; Level Zero specification, "Affinity Mask".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weigh.machine.machine import Gpu


def named(entries: str, names: Sequence[Sequence[str]]) -> list[int]:
    """Positions of the GPUs that a list names, in its order.

    Args:
        entries: as the variable holds them: ``1,0``, ``GPU-8932f937``, ``0.1`` for a tile, "" for none.
        names: of each GPU its number and its unique names.
    """
    order: list[int] = []
    for entry in (part.strip() for part in entries.split(",")):
        whole, dot, _tile = entry.partition(".")
        fits = [at for at, own in enumerate(names) if _fits(whole, own)]
        if len(fits) != 1 or (fits[0] in order and not dot):
            break
        order += [at for at in fits if at not in order]
    return order


def _fits(entry: str, own: Sequence[str]) -> bool:
    if entry.isdigit():
        return entry in own
    return len(entry) > 4 and any(
        name.lower().startswith(entry.lower()) for name in own if not name.isdigit()
    )


def left_visible(
    gpus: Sequence[Gpu],
    names: Sequence[Sequence[str]],
    variables: Sequence[str],
    environment: Mapping[str, str],
) -> list[Gpu]:
    """The GPUs in the order engines see them, then the hidden ones with that as their problem.

    Args:
        variables: asked in turn; the first that is set counts.
    """
    variable = next((name for name in variables if name in environment), None)
    if variable is None:
        return list(gpus)
    order = named(environment[variable], names)
    said = f"{variable}={environment[variable][:60]}"
    shown = [replace(gpus[at], notes=(*gpus[at].notes, f"chosen by {said}")) for at in order]
    hidden = [
        gpu if gpu.problem else replace(gpu, problem=f"hidden from this process by {said}")
        for at, gpu in enumerate(gpus)
        if at not in order
    ]
    return shown + hidden
