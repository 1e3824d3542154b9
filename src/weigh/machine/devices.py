"""Devices by name: data sheets of GPUs, processors and boards, and the targets they make.

A box says "24 GB"; what an engine gets is what the driver shows. Where its figure is known it is used
(`driver_MiB` of the table); else:
- NVIDIA with HBM, GeForce and workstation cards: the size in GiB less 12 MiB, from Blackwell on less 0.5 %;
- NVIDIA datacentre cards with GDDR: 15/16 of it, since error correction is on and lies in the same memory;
- AMD: less 16 MiB; Intel Arc: 94.4 %, as its runtime shows an A770 (15,473 of 16,384 MiB);
- Apple: what macOS lets the GPU have by default (`iogpu.wired_limit_mb`), two thirds of up to 32 GB and three
  quarters of more: Metal's `recommendedMaxWorkingSetSize` is 11,453 MB of 16 GB and 28,991 MB of 36 GB in
  public logs of llama.cpp; newer macOS gives up to 78 %;
- other GPUs that share the system's memory: `_SHARED`.
RAM is the size in GiB less a 64th, which Linux keeps for its records of pages (64 bytes for each of 4 KiB).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from weigh.errors import BadInput, UnknownName
from weigh.machine.device_names import (
    Index,
    Ram,
    Said,
    close_names,
    parts,
    short_name,
    words,
)
from weigh.machine.device_sheets import (
    GpuSheet,
    HostSheet,
    gpu_index,
    host_index,
    host_sheets,
    known_spellings,
)
from weigh.machine.target import Backend, Device, Target
from weigh.units import GB, GIB, MIB

APPLE_SMALL_GB = 32
PCIE_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9}
# Share of unified memory its GPU may take, and where that comes from.
_SHARED = {
    ("soc", "NVIDIA"): (0.94, "what the system leaves of it"),
    ("soc", "AMD"): (0.75, "as the firmware can give it; the default of Linux is half"),
    ("integrated", "AMD"): (0.5, "the default of Linux (GTT) and of Windows"),
    ("integrated", "Intel"): (0.5, "the default of Linux and of Windows"),
}
MOST_DEVICES = 128
MOST_CHANNELS = 128
MOST_MEMORY_BYTES = 10**16
MOST_LETTERS = 256  # of all that is said of one machine


def target_named(text: str) -> Target:
    """The machine meant by `RTX 4090`, `2x RTX 3090, 64GB`, `M4 Max 64GB` or `EPYC 9554, 12x DDR5-4800`.

    What was not said stands in `assumed`.

    Raises:
        UnknownName: no such device; close names attached.
        BadInput: several devices are meant that differ much, or a size it is not sold with.
    """
    if len(text) > MOST_LETTERS:
        raise BadInput(f"a device's name of {len(text):,} letters", hint=f"expected {MOST_LETTERS} at most")
    said = parts(text)
    named = [part for part in said if part.name]
    if not named:
        raise BadInput(f"`{text}` names no device", hint="name one, like `RTX 4090` or `Ryzen 7950X, 64GB`")
    notes: list[str] = []
    gpus: list[tuple[GpuSheet, Said]] = []
    host: HostSheet | None = None
    for part in named:
        sheet = _sheet(part, notes)
        if isinstance(sheet, GpuSheet):
            gpus.append((sheet, part))
        elif host is not None:
            raise BadInput(f"`{text}` names two processors: `{host.name}` and `{sheet.name}`")
        else:
            host = sheet
            said = [*said, Said("", 1, None, Ram(int(part.size_gb * GIB)))] if part.size_gb else said
    _check_counts(gpus)
    ram = _merged(part.ram for part in said)
    _check_memory(ram)
    name = " + ".join(_said_again(part, sheet) for sheet, part in gpus) or (host.name if host else text)
    return _target(name, gpus, host, ram, notes)


def _check_counts(gpus: Sequence[tuple[GpuSheet, Said]]) -> None:
    for sheet, part in gpus:
        if not 1 <= part.count <= MOST_DEVICES:
            raise BadInput(f"{part.count} of `{sheet.name}`: expected 1 to {MOST_DEVICES}")
    if (count := sum(part.count for _, part in gpus)) > MOST_DEVICES:
        raise BadInput(f"{count:,} GPUs: expected {MOST_DEVICES} at most")
    if len(gpus) > 1 and any(sheet.unified for sheet, _ in gpus):
        raise BadInput("a GPU that shares the system's memory cannot stand beside another one")


def _merged(found: Iterable[Ram]) -> Ram:
    rams = list(found)
    return Ram(
        next((r.bytes for r in rams if r.bytes is not None), None),
        next((r.channels for r in rams if r.channels is not None), None),
        next((r.mt_per_s for r in rams if r.mt_per_s is not None), None),
    )


def _check_memory(ram: Ram) -> None:
    if ram.bytes is not None and not 0 < ram.bytes < MOST_MEMORY_BYTES:
        raise BadInput(f"a memory of {ram.bytes / GIB:g} GiB cannot be")
    if ram.channels is not None and not 0 < ram.channels <= MOST_CHANNELS:
        raise BadInput(f"{ram.channels} channels of memory: expected 1 to {MOST_CHANNELS}")
    if ram.mt_per_s == 0:
        raise BadInput("memory that moves nothing")


def _said_again(part: Said, sheet: GpuSheet) -> str:
    return f"{part.count}x {sheet.name}" if part.count > 1 else sheet.name


Sheet = TypeVar("Sheet", GpuSheet, HostSheet)


def _sheet(part: Said, notes: list[str]) -> GpuSheet | HostSheet:
    """The sheet that is meant, GPUs before processors: `M4 Max` is a GPU with its host."""
    asked = words(part.name)
    unnamed = _unnamed_host(asked)
    if unnamed is not None:
        notes.append(f"the processor: a {unnamed.name} of {unnamed.cores} cores")
        return unnamed
    gpus = meant(asked, gpu_index(), part.size_gb)
    if gpus:
        return _one_variant(part, gpus, notes)
    hosts = meant(asked, host_index())
    if len(hosts) > 1:
        names = ", ".join(f"`{short_name(h.name)}`" for h in hosts[:8])
        raise BadInput(f"`{part.name}` could be {names}", hint="name one of them")
    if hosts:
        return hosts[0]
    if re.match(r"\d{4,}\s*[x×*]\s*\S", part.name):
        raise BadInput(f"`{part.name}` are too many devices", hint=f"expected 1 to {MOST_DEVICES}")
    close = close_names(part.name, known_spellings())
    hint = None if close else "`weigh devices` lists them; else give its memory and bandwidth"
    raise UnknownName("device", part.name, close=close, hint=hint)


def _unnamed_host(asked: tuple[str, ...]) -> HostSheet | None:
    """`CPU only`, `a desktop`; `Xeon, 8x DDR4-3200`, of which only the memory counts for much."""
    if asked in (("cpu",), ("cpu", "only"), ("no", "gpu"), ("desktop",)):
        return _assumed_host("desktop")
    if asked in (("server",), ("xeon",), ("epyc",)):
        return _assumed_host("server")
    return None


def meant(asked: Sequence[str], index: Index[Sheet], size_gb: float | None = None) -> list[Sheet]:
    """Sheets the words fit: of those with the size said, if any, those with nothing unsaid, if any."""
    found = index.meant(asked)
    found = [each for each in found if size_gb in each[1].sizes_gb] or found
    exact = [each for count, each in found if count == 0]
    return exact or [each for _, each in found]


def _one_variant(part: Said, sheets: list[GpuSheet], notes: list[str]) -> GpuSheet:
    """Of several variants, the one with the memory said, else the commonest."""
    if part.size_gb is not None:
        fitting = [s for s in sheets if part.size_gb in s.sizes_gb or not s.sizes_gb]
        if not fitting:
            sizes = sorted({size for sheet in sheets for size in sheet.sizes_gb})
            said = ", ".join(f"{size:g} GB" for size in sizes)
            raise BadInput(
                f"`{part.name}` comes with {said}, not {part.size_gb:g} GB",
                hint="for a card that was changed, give its memory and bandwidth instead",
            )
        sheets = fitting
    if len(sheets) == 1:
        return sheets[0]
    common = [sheet for sheet in sheets if sheet.commonest]
    if not common and _differ_much(sheets):
        names = ", ".join(f"`{short_name(s.name)}`" for s in sheets[:8])
        raise BadInput(f"`{part.name}` could be {names}", hint="name one of them, they differ much")
    chosen = (common or sheets)[0]
    others = ", ".join(_difference(s) for s in sheets if s is not chosen)
    notes.append(f"{_difference(chosen)} is meant, not {others}")
    return chosen


def _difference(sheet: GpuSheet) -> str:
    return sheet.name.removeprefix(sheet.vendor).strip()


def _differ_much(sheets: Sequence[GpuSheet]) -> bool:
    rates = [sheet.bandwidth_bytes_per_s for sheet in sheets]
    sizes = [size for sheet in sheets for size in sheet.sizes_gb]
    return max(rates) > 1.25 * min(rates) or (bool(sizes) and max(sizes) > 1.25 * min(sizes))


def _target(
    name: str,
    gpus: Sequence[tuple[GpuSheet, Said]],
    host: HostSheet | None,
    ram: Ram,
    notes: list[str],
) -> Target:
    if gpus and gpus[0][0].unified:
        return _unified_target(gpus[0][0], gpus[0][1], ram, notes)
    cards = tuple(_card(sheet, part, notes) for sheet, part in gpus for _ in range(part.count))
    if host is None:
        host = _assumed_host(_usual_host([sheet for sheet, _ in gpus]))
        notes.append(f"the host: a {host.name} of {host.cores} cores")
    if ram.bytes is None:
        ram = replace(ram, bytes=_usual_ram_bytes(host, cards))
        notes.append(f"{ram.bytes // GIB if ram.bytes else 0} GiB of RAM")
    if not (ram.channels and ram.mt_per_s):
        notes.append(said_memory(host, ram))
    return Target(
        name=name,
        host=_host(host, ram),
        gpus=cards,
        host_cores=host.cores,
        cpu_features=host.features,
        assumed=tuple(notes),
    )


def said_memory(host: HostSheet, ram: Ram) -> str:
    channels = ram.channels or host.channels
    width = "" if host.channel_bits == 64 else f" of {host.channel_bits} bits"
    kind = host.memory_type.removeprefix("unified ")
    return f"{channels} channel{'s'[: channels > 1]}{width} of {kind}-{ram.mt_per_s or host.mt_per_s}"


def _assumed_host(kind: str) -> HostSheet:
    return next(h for h in host_sheets() if h.kind == "assumed" and h.name == kind)


def _usual_host(sheets: Sequence[GpuSheet]) -> str:
    if any(sheet.datacentre for sheet in sheets):
        return "server"
    return "laptop" if any("Mobile" in sheet.name for sheet in sheets) else "desktop"


def _usual_ram_bytes(host: HostSheet, cards: Sequence[Device]) -> int:
    """The middle size the host is usual with, and no less than its cards hold, in steps of 32 GiB."""
    usual = int(host.sizes_gb[len(host.sizes_gb) // 2]) * GIB
    step = 32 * GIB
    return max(usual, -(-sum(card.memory_bytes for card in cards) // step) * step)


def _host(sheet: HostSheet, ram: Ram) -> Device:
    size = ram.bytes or int(sheet.sizes_gb[0] * GIB)
    usable = size if sheet.vendor == "Apple" else size - size // 64
    return Device(
        name=sheet.name if sheet.kind != "assumed" else f"{sheet.name} processor",
        vendor=sheet.vendor,
        backend=Backend.CPU,
        memory_bytes=usable,
        free_bytes=usable,
        bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s(ram),
        fp32_flops_per_s=sheet.fp32_flops_per_s,
        generation=sheet.generation,
        tdp_watts=sheet.tdp_watts,
        source=sheet.source or "a usual machine of its kind, assumed",
    )


def _card(sheet: GpuSheet, part: Said, notes: list[str]) -> Device:
    size_gb = _size_gb(sheet, part, notes)
    shown = shown_bytes(sheet, size_gb)
    return device_of(sheet, shown, "memory as the driver shows it")


def _size_gb(sheet: GpuSheet, part: Said, notes: list[str]) -> float:
    if part.size_gb is not None:
        return part.size_gb
    size = sheet.sizes_gb[0]
    if len(sheet.sizes_gb) > 1:
        others = ", ".join(f"{s:g}" for s in sheet.sizes_gb[1:])
        note = f"{size:g} GB of memory (it also comes with {others})"
        notes.extend([note] if note not in notes else [])
    return size


def shown_bytes(sheet: GpuSheet, size_gb: float) -> int:
    """Memory the driver shows of a card sold with `size_gb`; see the head of this file for the rules."""
    if sheet.driver_bytes is not None and size_gb == sheet.sizes_gb[0]:
        return sheet.driver_bytes
    size = int(size_gb * GIB)
    if sheet.vendor == "Intel":
        return int(size * 0.944)
    if sheet.vendor == "AMD":
        return size - 16 * MIB
    if sheet.datacentre and "HBM" not in sheet.memory_type:
        return size * 15 // 16
    return int(size * 0.995) if "Blackwell" in sheet.generation else size - 12 * MIB


def device_of(sheet: GpuSheet, memory_bytes: int, how: str) -> Device:
    return Device(
        name=sheet.name,
        vendor=sheet.vendor,
        backend=backend_of(sheet.vendor, sheet.generation),
        memory_bytes=memory_bytes,
        free_bytes=memory_bytes,
        bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s,
        fp16_flops_per_s=sheet.fp16_flops_per_s,
        fp32_flops_per_s=sheet.fp32_flops_per_s,
        generation=sheet.generation,
        compute_capability=sheet.compute_capability,
        unified=sheet.unified,
        link_bytes_per_s=_link_bytes_per_s(sheet.bus),
        tdp_watts=sheet.tdp_watts,
        source=f"{sheet.source}; {how}",
    )


def backend_of(vendor: str, generation: str) -> Backend:
    """The code path most people take: ROCm where AMD supports it, Vulkan on its older GPUs."""
    if vendor == "AMD":
        return (
            Backend.ROCM if generation.startswith(("RDNA 2", "RDNA 3", "RDNA 4", "CDNA")) else Backend.VULKAN
        )
    if vendor == "Intel":
        return (
            Backend.SYCL
            if generation.startswith(("Xe-HPG", "Xe2-HPG", "Generation 12.5"))
            else Backend.VULKAN
        )
    return {"NVIDIA": Backend.CUDA, "Apple": Backend.METAL}.get(vendor, Backend.VULKAN)


def _link_bytes_per_s(bus: str) -> float | None:
    """One way, from `PCIe 4.0 x16`; NVLink-C2C moves 450 GB/s each way."""
    if "C2C" in bus:
        return 450e9
    found = re.fullmatch(r"PCIe (\d)\.\d x(\d+)", bus)
    return PCIE_LANE_BYTES_PER_S[int(found[1])] * int(found[2]) if found else None


def _unified_target(sheet: GpuSheet, part: Said, ram: Ram, notes: list[str]) -> Target:
    """A chip whose GPU computes from the system's memory."""
    hosts = [h for h in host_sheets() if h.name == sheet.host]
    host = hosts[0] if hosts else _assumed_host("laptop")
    if part.count > 1:
        raise BadInput(f"`{sheet.name}` shares one machine's memory: several of them are several machines")
    if part.size_gb is None and ram.bytes is not None:
        part = replace(part, size_gb=ram.bytes / GIB)
    if sheet.sizes_gb:
        size = int(_size_gb(sheet, part, notes) * GIB)
    else:
        size = int((part.size_gb or host.sizes_gb[0]) * GIB)
        if part.size_gb is None:
            notes.append(f"{size // GIB} GiB of RAM")
    ram = replace(ram, bytes=size)
    _check_memory(ram)
    share, why = shared_share(sheet.kind, sheet.vendor, size)
    notes.append(f"{share:.0%} of memory for the GPU ({why})")
    name = sheet.name if sheet.name.endswith(" GB") else f"{sheet.name}, {size / GIB:g} GB"
    own = _host(host, ram)
    own = replace(own, bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s)
    return Target(
        name=name,
        host=own,
        gpus=(device_of(sheet, int(own.memory_bytes * share), why),),
        host_cores=host.cores,
        cpu_features=host.features,
        assumed=tuple(notes),
    )


def shared_share(kind: str, vendor: str, memory_bytes: int) -> tuple[float, str]:
    """Share of unified memory that its GPU may take by default, and why."""
    if vendor == "Apple":
        small = memory_bytes <= APPLE_SMALL_GB * GIB
        return (2 / 3 if small else 0.75), "the default of macOS; `iogpu.wired_limit_mb` raises it"
    return _SHARED[kind, vendor]


# --- by figures ---------------------------------------------------------------------------------------------


def target_custom(
    vram_bytes: int,
    bandwidth_bytes_per_s: float,
    ram_bytes: int,
    gpus: int = 1,
    *,
    fp16_flops_per_s: float | None = None,
    vendor: str = "NVIDIA",
    ram_bandwidth_bytes_per_s: float | None = None,
) -> Target:
    """A machine of which only figures are known; `gpus` cards alike, none when `vram_bytes` is 0.

    Raises:
        BadInput: a figure that cannot be.
    """
    if not 0 < vram_bytes + ram_bytes < MOST_MEMORY_BYTES:
        raise BadInput(f"a memory of {(vram_bytes + ram_bytes) / GIB:g} GiB cannot be")
    if not 0 < bandwidth_bytes_per_s < 1e16:
        raise BadInput(f"a bandwidth of {bandwidth_bytes_per_s / GB:g} GB/s cannot be")
    if vram_bytes < 0 or ram_bytes < 0 or not 0 <= gpus <= MOST_DEVICES:
        raise BadInput(f"expected sizes above zero and up to {MOST_DEVICES} GPUs")
    backends = {"NVIDIA": Backend.CUDA, "AMD": Backend.ROCM, "Intel": Backend.SYCL, "Apple": Backend.METAL}
    if vendor not in backends:
        raise UnknownName("maker of GPUs", vendor, close=tuple(backends))
    card = Device(
        name=f"GPU of {vram_bytes / GIB:g} GiB at {bandwidth_bytes_per_s / GB:g} GB/s",
        vendor=vendor,
        backend=backends[vendor],
        memory_bytes=vram_bytes,
        free_bytes=vram_bytes,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        fp16_flops_per_s=fp16_flops_per_s,
        source="as said",
    )
    cards = (card,) * (gpus if vram_bytes else 0)
    sheet = _assumed_host("desktop")
    ram_rate = ram_bandwidth_bytes_per_s if cards else (ram_bandwidth_bytes_per_s or bandwidth_bytes_per_s)
    host = replace(
        _host(sheet, Ram(ram_bytes)),
        memory_bytes=ram_bytes,
        free_bytes=ram_bytes,
        bandwidth_bytes_per_s=ram_rate or sheet.bandwidth_bytes_per_s(Ram()),
    )
    notes = [f"the host: a desktop of {sheet.cores} cores"]
    if cards:
        notes.append(f"the card works like one of {vendor}")
    if not ram_rate:
        notes.append(said_memory(sheet, Ram()))
    name = f"{len(cards)}x {card.name}" if len(cards) > 1 else card.name if cards else host.name
    return Target(name, host, cards, sheet.cores, sheet.features, assumed=tuple(notes))
