"""Marketing names of GPUs by their number on the bus.

First weigh's own table (data/gpu_ids.csv: libdrm's amdgpu.ids of 2026-02-25 and pci.ids of 2025-06-21, cut to
GPUs that run models), then the lists of this system, which may be newer.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from weigh.machine import kernel_files, pci
from weigh.machine.pci import GpuDevice

_TABLE = Path(__file__).parents[1] / "data/gpu_ids.csv"
_AMD_LISTS = ("usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids")
_PCI_LISTS = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")
_MAKERS = {pci.NVIDIA: "NVIDIA", pci.AMD: "AMD", pci.INTEL: "Intel"}


def gpu_name(card: GpuDevice, root: Path = Path("/")) -> str:
    """``AMD Radeon RX 7900 XTX``; ``AMD GPU (PCI 1002:744c)`` when no list knows it."""
    row = _row(card)
    listed = row[0] if row else _listed_by_libdrm(card, root) or _listed_by_pci_ids(card, root)
    return listed or f"{_MAKERS[card.vendor]} GPU (PCI {card.id})"


def is_integrated(card: GpuDevice) -> bool | None:
    """Whether it shares the system's memory; None when the table does not know it."""
    row = _row(card)
    return row[1] == "integrated" if row else None


@cache
def _table() -> dict[tuple[int, int, int | None], tuple[str, str]]:
    """(vendor, device, revision or None for all) -> (name, kind)."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return {
            (int(row["vendor"], 16), int(row["device"], 16), int(row["revision"], 16) if row["revision"] else None): (
                row["name"],
                row["kind"],
            )
            for row in csv.DictReader(file)
        }  # fmt: skip


def _row(card: GpuDevice) -> tuple[str, str] | None:
    """The row of its revision; of a revision that is not listed, the name all of its kind share."""
    table = _table()
    exact = table.get((card.vendor, card.device, card.revision)) or table.get(
        (card.vendor, card.device, None)
    )
    if exact:
        return exact
    alike = {
        row for (vendor, device, _), row in table.items() if (vendor, device) == (card.vendor, card.device)
    }
    return alike.pop() if len(alike) == 1 else None


def _listed_by_libdrm(card: GpuDevice, root: Path) -> str:
    if card.vendor != pci.AMD:
        return ""
    wanted = (f"{card.device:04X}", f"{card.revision:02X}")
    for place in _AMD_LISTS:
        for line in kernel_files.text(root / place).splitlines():
            fields = [field.strip() for field in line.split(",", 2)]
            if len(fields) == 3 and (fields[0].upper(), fields[1].upper().zfill(2)) == wanted:
                return fields[2] if fields[2].startswith("AMD") else f"AMD {fields[2]}"
    return ""


def _listed_by_pci_ids(card: GpuDevice, root: Path) -> str:
    """``Navi 31 [Radeon RX 7900 XT/7900 XTX]``, which names every product of the chip, as ``AMD ...``."""
    for place in _PCI_LISTS:
        listed = kernel_files.text(root / place)
        ours = listed.partition(f"\n{card.vendor:04x}  ")[2]
        name = ours.partition(f"\n\t{card.device:04x}  ")
        ended = any(line[:1] not in "\t#" for line in name[0].splitlines()[1:])
        if name[1] and not ended:
            return f"{_MAKERS[card.vendor]} {name[2].partition(chr(10))[0]}"
    return ""
