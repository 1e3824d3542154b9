"""The machine: what is there, what this process may use of it, and how fast its memory and disk are.

`probe` looks and takes milliseconds; `measure_bandwidth` and `measure_read_rate` measure and take seconds.
"""

from weigh.machine.bandwidth import measure_bandwidth
from weigh.machine.disk import measure_read_rate, models_folder
from weigh.machine.machine import Bandwidth, Cpu, Disk, Gpu, Machine, Memory
from weigh.machine.probe import probe

__all__ = [
    "Bandwidth",
    "Cpu",
    "Disk",
    "Gpu",
    "Machine",
    "Memory",
    "measure_bandwidth",
    "measure_read_rate",
    "models_folder",
    "probe",
]
