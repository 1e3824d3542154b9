"""The tables of GPUs and hosts that weigh knows, row by row, and their names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from weigh.machine.device_names import (
    Index,
    Ram,
    Spelling,
    short_name,
    spellings,
)
from weigh.units import GB, MIB

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True, slots=True)
class GpuSheet:
    """A row of data/devices.csv. Sizes are GB as printed on the box, several where it is sold with several."""

    name: str
    vendor: str
    kind: str
    generation: str
    sizes_gb: tuple[float, ...]
    driver_bytes: int | None
    memory_type: str
    bandwidth_bytes_per_s: float
    fp32_flops_per_s: float | None
    fp16_flops_per_s: float | None
    compute_capability: str
    tdp_watts: float | None
    bus: str
    host: str
    commonest: bool
    also: tuple[str, ...]
    source: str
    release: str = ""

    @property
    def usual_bandwidth_bytes_per_s(self) -> float:
        return self.bandwidth_bytes_per_s

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    @property
    def unified(self) -> bool:
        return self.kind != "gpu"

    @property
    def datacentre(self) -> bool:
        return bool(re.search(r"NVIDIA (Tesla |[ABHL]\d|G[BH]200)|Instinct|Data Center", self.name))


@dataclass(frozen=True, slots=True)
class HostSheet:
    """A row of data/hosts.csv: a processor, and the memory usual with it.

    Attributes:
        cores: those that compute alike; efficiency cores beside performance cores are not counted.
        fp32_flops_per_clock: of one core.
        kind: desktop, laptop, server, workstation, board, soc or phone; `assumed` for a made-up one.
    """

    name: str
    kind: str
    vendor: str
    generation: str
    cores: int
    clock_hz: float
    fp32_flops_per_clock: float
    features: tuple[str, ...]
    channels: int
    channel_bits: int
    mt_per_s: int
    memory_type: str
    sizes_gb: tuple[float, ...]
    also: tuple[str, ...]
    source: str
    release: str = ""
    tdp_watts: float | None = None

    @property
    def usual_bandwidth_bytes_per_s(self) -> float:
        """With the memory that is usual with it."""
        return self.bandwidth_bytes_per_s(Ram())

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    @property
    def fp32_flops_per_s(self) -> float:
        return self.cores * self.clock_hz * self.fp32_flops_per_clock

    def bandwidth_bytes_per_s(self, ram: Ram) -> float:
        """Channels x bytes of a channel x transfers per second, as fitted or as said."""
        channels = ram.channels or self.channels
        return channels * self.channel_bits / 8 * (ram.mt_per_s or self.mt_per_s) * 1e6


@cache
def gpu_sheets() -> tuple[GpuSheet, ...]:
    with (DATA / "devices.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_gpu_sheet(row) for row in csv.DictReader(file))


@cache
def host_sheets() -> tuple[HostSheet, ...]:
    with (DATA / "hosts.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_host_sheet(row) for row in csv.DictReader(file))


@cache
def gpu_index() -> Index[GpuSheet]:
    return Index((sheet, sheet.labels) for sheet in gpu_sheets())


@cache
def host_index() -> Index[HostSheet]:
    return Index((sheet, sheet.labels) for sheet in host_sheets())


@cache
def known_spellings() -> Mapping[int, Sequence[Spelling]]:
    return spellings(label for sheet in _sheets() for label in sheet.labels)


def _gpu_sheet(row: dict[str, str]) -> GpuSheet:
    return GpuSheet(
        name=row["name"],
        vendor=row["vendor"],
        kind=row["kind"],
        generation=row["generation"],
        sizes_gb=_numbers(row["memory_GB"]),
        driver_bytes=int(row["driver_MiB"]) * MIB if row["driver_MiB"] else None,
        memory_type=row["memory_type"],
        bandwidth_bytes_per_s=float(row["bandwidth_GBps"]) * GB,
        fp32_flops_per_s=_tera(row["fp32_TFLOPS"]),
        fp16_flops_per_s=_tera(row["fp16_TFLOPS"]),
        compute_capability=row["compute_capability"],
        tdp_watts=float(row["TDP_W"]) if row["TDP_W"] else None,
        bus=row["bus"],
        host=row["host"],
        commonest=row["commonest"] == "yes",
        also=tuple(filter(None, row["also"].split("|"))),
        source=row["source"],
        release=row["release"],
    )


def _host_sheet(row: dict[str, str]) -> HostSheet:
    return HostSheet(
        name=row["name"],
        kind=row["kind"],
        vendor=row["vendor"],
        generation=row["generation"],
        cores=int(row["cores"]),
        clock_hz=float(row["clock_GHz"]) * 1e9,
        fp32_flops_per_clock=float(row["fp32_flops_per_clock"]),
        features=tuple(row["features"].split()),
        channels=int(row["channels"]),
        channel_bits=int(row["channel_bits"]),
        mt_per_s=int(row["MTps"]),
        memory_type=row["memory_type"],
        sizes_gb=_numbers(row["memory_GB"]),
        also=tuple(filter(None, row["also"].split("|"))),
        source=row["source"],
        tdp_watts=float(row["TDP_W"]) if row["TDP_W"] else None,
    )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("|") if part)


def _tera(text: str) -> float | None:
    return float(text) * 1e12 if text else None


def known_devices(text: str) -> list[GpuSheet | HostSheet]:
    """The devices whose name holds every word of `text`; all of them for no words."""
    asked = text.lower().split()
    return [
        sheet
        for sheet in _sheets()
        if sheet.kind != "assumed" and all(word in sheet.name.lower() for word in asked)
    ]


def known_names() -> tuple[str, ...]:
    """Every device that can be named, as people say it."""
    return tuple(short_name(sheet.name) for sheet in _sheets() if sheet.kind != "assumed")


def _sheets() -> tuple[GpuSheet | HostSheet, ...]:
    return gpu_sheets() + host_sheets()
