"""GPUs on the PCI bus, as /sys/bus/pci lists them whether or not a driver reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weigh.machine import kernel_files

NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086
_DISPLAY, _ACCELERATOR = 0x03, 0x12  # base class; AMD's Instinct cards say 0x12. Source: pci.ids, PCI SIG


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU on the bus; `address` is its slot (``0000:17:00.0``)."""

    address: str
    vendor: int
    device: int


def gpu_devices(root: Path = Path("/")) -> list[GpuDevice]:
    """GPUs of NVIDIA, AMD and Intel.

    Those of virtual machines and server boards (QEMU, virtio, VMware, ASPEED, Matrox) only draw a console
    and bear other makers' numbers, so they are not here; nor are Intel's NPUs.
    """
    found = []
    for folder in kernel_files.folders(root / "sys/bus/pci/devices"):
        vendor, device, kind = (_hexadecimal(folder / name) for name in ("vendor", "device", "class"))
        base = kind >> 16  # class is base, subclass and interface: 0x030200 is a 3D controller
        if vendor in {NVIDIA, AMD, INTEL} and (base == _DISPLAY or (base == _ACCELERATOR and vendor == AMD)):
            found.append(GpuDevice(folder.name.lower(), vendor, device))
    return found


def _hexadecimal(path: Path) -> int:
    try:
        return int(kernel_files.text(path), 16)
    except ValueError:
        return 0
