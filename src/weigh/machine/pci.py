"""GPUs on the PCI bus, as /sys/bus/pci lists them whether or not a driver reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from weigh.machine import kernel_files

NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086
_DISPLAY, _ACCELERATOR = 0x03, 0x12  # base class; AMD's Instinct cards say 0x12. Source: pci.ids, PCI SIG


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU on the bus.

    Attributes:
        address: its slot (``0000:17:00.0``).
        revision: tells apart products of one chip.
        driver: kernel module bound to it; "" for none.
        folder: its files, some the kernel's, some its driver's.
    """

    address: str
    vendor: int
    device: int
    revision: int = 0
    driver: str = ""
    folder: Path = Path()

    @property
    def id(self) -> str:
        return f"{self.vendor:04x}:{self.device:04x}"


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
            revision = _hexadecimal(folder / "revision")
            found.append(
                GpuDevice(folder.name.lower(), vendor, device, revision, bound_driver(folder), folder)
            )
    return found


def bound_driver(folder: Path) -> str:
    """Name of the kernel module bound to a device, from its `uevent`."""
    lines = kernel_files.text(folder / "uevent").splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("DRIVER=")), "")


def unbound(card: GpuDevice, wanted: str) -> str | None:
    """Why a card without its driver cannot be used; None when a driver that can read it is bound.

    Args:
        wanted: names of its drivers, separated by spaces.
    """
    if card.driver in wanted.split():
        return None
    if card.driver == "vfio-pci":
        return "set aside for a virtual machine (its driver is vfio-pci)"
    names = " or ".join(wanted.split())
    return (
        f"bound to `{card.driver}`, not to {names}" if card.driver else f"no driver is bound to it ({names})"
    )


def render_node(card: GpuDevice, root: Path) -> Path | None:
    """The device file that programs compute through (``/dev/dri/renderD128``); None without a driver."""
    for node in kernel_files.folders(card.folder / "drm"):
        if node.name.startswith("renderD"):
            return root / "dev/dri" / node.name
    return None


def closed(nodes: Iterable[Path | None], root: Path) -> str:
    """Which of the device files exist but may not be opened by this process, in words; "" for none."""
    refused = [node for node in nodes if node and node.exists() and not os.access(node, os.R_OK | os.W_OK)]
    names = " and ".join(f"/{node.relative_to(root)}" for node in refused)
    return (
        f"no permission to open {names}: join the group that owns it (`render` or `video`)" if names else ""
    )


def _hexadecimal(path: Path) -> int:
    try:
        return int(kernel_files.text(path), 16)
    except ValueError:
        return 0
