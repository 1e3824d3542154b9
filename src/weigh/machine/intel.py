"""Intel GPUs: Arc and Data Center cards with memory of their own, and those inside processors.

Neither of Intel's drivers (i915, xe) tells the memory of a card in /sys on every kernel. Programs ask through
the card's render node instead, and so does weigh: the question allocates nothing and needs no privilege
beyond opening the node. How much is free is told only to a process with CAP_PERFMON; to others it looks
empty, so free memory stays unknown then. Where the node cannot be opened, the size is the data sheet's, and
a note says so.

Source: include/uapi/drm/i915_drm.h and xe_drm.h of Linux (names in capitals below are theirs).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from weigh.machine import kernel_files, pci
from weigh.machine.machine import Gpu, Memory
from weigh.machine.pci import GpuDevice
from weigh.machine.pci_names import gpu_name, is_integrated
from weigh.machine.visible import left_visible

Query = Callable[[Path, str], bytes]

_HIDING = ("ZE_AFFINITY_MASK",)
_MOST_REGIONS, _MOST_REPLY_BYTES = 64, 1 << 16
_OWN_MEMORY = 1  # I915_MEMORY_CLASS_DEVICE and DRM_XE_MEM_REGION_CLASS_VRAM


def read_intel(
    cards: Sequence[GpuDevice],
    memory: Memory,
    root: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
    query: Query | None = None,
) -> list[Gpu]:
    """Every Intel GPU of the bus, those with memory of their own first, as Level Zero numbers them.

    Args:
        cards: what the bus shows; other vendors' are passed over.
        memory: RAM, which integrated GPUs share.
        query: asks a render node for its memory regions; stands in to play back recorded replies.
    """
    own = [card for card in cards if card.vendor == pci.INTEL]
    gpus = [_read(card, memory, root, query or regions_reply) for card in own]
    gpus.sort(key=lambda gpu: gpu.unified)
    names = [(str(at),) for at in range(len(gpus))]
    return left_visible(gpus, names, _HIDING, os.environ if environment is None else environment)


def _read(card: GpuDevice, memory: Memory, root: Path, query: Query) -> Gpu:
    gpu = Gpu(
        gpu_name(card, root),
        "Intel",
        driver=card.driver or None,
        problem=pci.unbound(card, "i915 xe"),
        unified=_is_integrated(card),
        pci_id=card.id,
    )
    if gpu.problem:
        return gpu
    node = pci.render_node(card, root)
    closed = pci.closed((node,), root)
    gpu = replace(gpu, backends=("SYCL", "Vulkan") if node and not closed else (), problem=closed or None)
    return _with_shared_memory(gpu, memory) if gpu.unified else _with_own_memory(gpu, card, node, query)


def _is_integrated(card: GpuDevice) -> bool:
    """By the table; a GPU that is not in it is integrated when it sits in the processor's slot, 00:02.0."""
    known = is_integrated(card)
    return card.address.endswith(":00:02.0") if known is None else known


def _with_shared_memory(gpu: Gpu, memory: Memory) -> Gpu:
    from weigh.machine.devices import shared_share

    share, why = shared_share("integrated", "Intel", memory.total_bytes)
    total = int(memory.total_bytes * share)
    said = f"may take {share:.0%} of RAM ({why})"
    free = min(total, memory.available_bytes)
    return replace(gpu, total_bytes=total, free_bytes=free, notes=(*gpu.notes, said))


def _with_own_memory(gpu: Gpu, card: GpuDevice, node: Path | None, query: Query) -> Gpu:
    """What the driver answers, else what /sys tells, else what the data sheet says."""
    total, free = _asked(card, node, query)
    if total:
        return replace(gpu, total_bytes=total, free_bytes=free)
    total = _told_in_sys(card)
    if total:
        return replace(gpu, total_bytes=total, notes=(*gpu.notes, "memory with what the driver keeps of it"))
    total = _by_data_sheet(gpu)
    if total:
        return replace(
            gpu, total_bytes=total, notes=(*gpu.notes, "memory by its data sheet: the driver was not asked")
        )
    return replace(gpu, problem=gpu.problem or "its driver does not answer, and there is no data sheet of it")


def _asked(card: GpuDevice, node: Path | None, query: Query) -> tuple[int, int | None]:
    if node is None:
        return 0, None
    try:
        reply = query(node, card.driver)
    except OSError:
        return 0, None
    return own_memory(reply, card.driver)


def own_memory(reply: bytes, driver: str) -> tuple[int, int | None]:
    """(bytes of memory of its own, bytes free or None when not told) from a driver's list of regions.

    Both replies start with the number of regions. i915 then has three more words of 4 bytes, and per region
    its class (2 bytes), instance (2), 4 unused, `probed_size` and `unallocated_size` (8 each) and 64 more. xe
    has one more word, and per region class, instance, smallest page (4), `total_size` and `used` (8 each)
    and 64 more. Unprivileged, i915 calls all of it unallocated and xe none of it used.
    """
    head, step = (16, 88) if driver == "i915" else (8, 88)
    if len(reply) < head:
        return 0, None
    (count,) = struct.unpack_from("<I", reply)
    total = free = 0
    for at in range(head, head + step * min(count, _MOST_REGIONS), step):
        if at + 24 > len(reply):
            break
        kind, _instance, _page, size, second = struct.unpack_from("<HHIQQ", reply, at)
        if kind == _OWN_MEMORY:
            total += size
            free += second if driver == "i915" else max(0, size - second)
    return total, free if 0 < free < total else None


def regions_reply(node: Path, driver: str) -> bytes:
    """The driver's list of memory regions, asked twice: for its length, then for itself.

    Raises:
        OSError: the node cannot be opened, or the driver does not know the question.
    """
    import fcntl

    handle = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        ask = _ask_i915 if driver == "i915" else _ask_xe
        return ask(lambda request, content: fcntl.ioctl(handle, request, content, True))
    finally:
        os.close(handle)


Ioctl = Callable[[int, bytearray], object]


def _ask_xe(ioctl: Ioctl) -> bytes:
    """`struct drm_xe_device_query`: extensions (8), query (4), size (4), data (8), reserved (16)."""
    import ctypes

    request, regions = _readwrite(0x40, 40), 1  # DRM_IOCTL_XE_DEVICE_QUERY, DRM_XE_DEVICE_QUERY_MEM_REGIONS
    question = bytearray(struct.pack("<QIIQQQ", 0, regions, 0, 0, 0, 0))
    ioctl(request, question)
    (size,) = struct.unpack_from("<I", question, 12)
    reply = ctypes.create_string_buffer(min(size, _MOST_REPLY_BYTES))
    ioctl(request, bytearray(struct.pack("<QIIQQQ", 0, regions, len(reply), ctypes.addressof(reply), 0, 0)))
    return reply.raw


def _ask_i915(ioctl: Ioctl) -> bytes:
    """`struct drm_i915_query`: items (4), flags (4), pointer (8). Item: id (8), length (4), flags (4), pointer (8)."""
    import ctypes

    request, regions = _readwrite(0x40 + 0x39, 16), 4  # DRM_IOCTL_I915_QUERY, DRM_I915_QUERY_MEMORY_REGIONS
    item = ctypes.create_string_buffer(struct.pack("<QiIQ", regions, 0, 0, 0), 24)
    question = struct.pack("<IIQ", 1, 0, ctypes.addressof(item))
    ioctl(request, bytearray(question))
    (size,) = struct.unpack_from("<i", item.raw, 8)
    reply = ctypes.create_string_buffer(max(0, min(size, _MOST_REPLY_BYTES)))
    item.raw = struct.pack("<QiIQ", regions, len(reply), 0, ctypes.addressof(reply))
    ioctl(request, bytearray(question))
    return reply.raw


def _readwrite(number: int, size: int) -> int:
    """The request of a graphics driver (type `d`) that reads and writes `size` bytes; _IOWR of Linux."""
    return 3 << 30 | size << 16 | ord("d") << 8 | number


def _told_in_sys(card: GpuDevice) -> int:
    """`physical_vram_size_bytes` per tile (some xe), `lmem_total_bytes` (Intel's own builds of i915)."""
    tiles = [f for f in kernel_files.folders(card.folder) if f.name.startswith("tile")]
    places = ("physical_vram_size_bytes", "memory/physical_vram_size_bytes")
    xe = sum(kernel_files.number(tile / place) or 0 for tile in tiles for place in places)
    cards = [f for f in kernel_files.folders(card.folder / "drm") if f.name.startswith("card")]
    return xe or sum(kernel_files.number(folder / "lmem_total_bytes") or 0 for folder in cards)


def _by_data_sheet(gpu: Gpu) -> int:
    from weigh.machine.devices import shown_bytes
    from weigh.machine.target_here import gpu_sheet_of

    sheet = gpu_sheet_of(gpu, 0)
    return shown_bytes(sheet, min(sheet.sizes_gb)) if sheet and sheet.sizes_gb else 0
