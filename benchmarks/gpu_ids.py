"""Names of GPUs by their number on the PCI bus: `src/weigh/data/gpu_ids.csv` from two public lists.

AMD sells one chip under many names, told apart by its revision, so its names come from libdrm's
`data/amdgpu.ids`; Intel's come from the PCI ID repository's `pci.ids`.

    python benchmarks/gpu_ids.py amdgpu.ids pci.ids
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TABLE = Path(__file__).parents[1] / "src/weigh/data/gpu_ids.csv"
# Newer than the list; source: intel/compute-runtime issue 959.
NEWER = {"e223": "Arc Pro B70"}
DISCRETE = ("DG1", "DG2", "ATS-M", "Ponte Vecchio", "Battlemage")


def amd_names(listed: str) -> Iterator[tuple[str, str, str, str, str]]:
    """APUs have numbers below 2000 (hexadecimal), apart from the MI300A; the oldest, of 9xxx, are left out."""
    seen = set()
    for line in listed.splitlines():
        found = re.fullmatch(r"([0-9A-F]{4}),\s+([0-9A-F]{1,2}),\s+(.+)", line.strip())
        if not found:
            continue
        device, revision, name = found[1].lower(), found[2].lower().zfill(2), found[3].strip()
        if (device, revision) in seen:
            continue
        seen.add((device, revision))
        shared = int(device, 16) < 0x2000 or "MI300A" in name
        name = name.removesuffix(" Graphics") if re.search(r"\d", name) else name
        name = name.removesuffix(" Series")
        name = name if name.startswith("AMD") else f"AMD {name}"
        yield "1002", device, revision, name, "integrated" if shared else "gpu"


def intel_names(listed: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Those that run models: from Iris Xe and DG1 on, and integrated ones back to UHD Graphics."""
    intel = listed.partition("\n8086")[2]
    for line in intel.splitlines()[1:]:
        if line and not line.startswith(("\t", "#")):
            return
        found = re.fullmatch(r"\t([0-9a-f]{4})  (.+)", line)
        if not found or re.search(r"Audio|Controller|Thermal|Host", found[2]):
            continue
        discrete = found[2].startswith(DISCRETE)
        named = re.search(r"\[(.+)\]", found[2])
        name = NEWER.get(found[1]) or (named[1] if named else found[2] if discrete else "")
        if discrete or re.search(r"Iris|UHD|Arc|(?<!HD )Graphics", name):
            code = "" if re.search(r"\d", name) else f" ({found[2].partition(' [')[0]})"
            full = f"Intel {name.removeprefix('Intel ')}{code}"
            yield "8086", found[1], "", full, "gpu" if discrete else "integrated"


def main(amd: Path, pci: Path) -> None:
    rows = [*amd_names(amd.read_text(encoding="utf-8")), *intel_names(pci.read_text(encoding="utf-8"))]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("vendor", "device", "revision", "name", "kind"))
        writer.writerows(rows)
    print(f"{len(rows)} names")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
