"""The machine: what is there, what this process may use of it, and how fast its memory and disk are.

`probe` looks and takes milliseconds; `bandwidth.measure_bandwidth` and `disk.measure_read_rate` measure and
take seconds.
"""

from weigh.machine.disk import models_folder
from weigh.machine.machine import Bandwidth, Cpu, Disk, Gpu, Machine, Memory
from weigh.machine.probe import probe

__all__ = [
    "Bandwidth",
    "Cpu",
    "Disk",
    "Gpu",
    "Machine",
    "Memory",
    "models_folder",
    "probe",
]
