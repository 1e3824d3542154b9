"""Where a setup is weighed: a target, what was measured of it, and what of its memory may be taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weigh.estimate.calibration import Calibration
from weigh.estimate.learned import Learned
from weigh.estimate.placement import DeviceMemory
from weigh.machine.target import Device, Target

# Kept free of a GPU unless the caller says otherwise: a screen, and the slack between what drivers call free
# and what they give. A judgement; llama.cpp's own fit step keeps 1 GiB.
GPU_RESERVE_BYTES = 512 << 20
RAM_RESERVE_BYTES = 2 << 30  # an editor and a browser


@dataclass(frozen=True)
class Site:
    """A target with what is known of its speed.

    Attributes:
        calibration: measured on this very machine; None for one that is only named, or not measured yet.
        learned: what earlier runs here say about estimates from a calibration; None where there are none.
    """

    target: Target
    calibration: Calibration | None = None
    learned: Learned | None = None

    @property
    def cpu_features(self) -> tuple[str, ...]:
        return self.target.cpu_features

    @property
    def default_reserve_bytes(self) -> int:
        """Left free of the RAM for everything else: 2 GiB, but at most an eighth of it all."""
        return min(RAM_RESERVE_BYTES, self.target.host.memory_bytes // 8)

    def available_bytes(self, reserve_bytes: int | None = None) -> tuple[int, ...]:
        """Memory a model may take of the RAM, and of each GPU: what is free less what is to stay free.

        Args:
            reserve_bytes: of the RAM, or of a GPU that shares it. GPUs of their own memory keep
                512 MiB, but at most a sixteenth.
        """
        reserved = self.default_reserve_bytes if reserve_bytes is None else reserve_bytes
        ram = max(0, self.target.host.free_bytes - reserved)
        return ram, *(min(ram, gpu.free_bytes) if gpu.unified else _of_gpu(gpu) for gpu in self.target.gpus)

    def together_bytes(self, available: Sequence[int]) -> int:
        """All of `available`; memory that a GPU shares with the host counts once."""
        gpus = zip(self.target.gpus, available[1:], strict=True)
        return available[0] + sum(room for gpu, room in gpus if not gpu.unified)

    def holds(self, devices: Sequence[DeviceMemory], available: Sequence[int]) -> bool:
        """Whether RAM and every GPU have room for what they would hold."""
        if not self.target.gpus:  # by far the commonest, asked hundreds of times
            return devices[0].total_bytes <= available[0]
        from weigh.estimate.split import fits_together

        now = [replace(d, available_bytes=a) for d, a in zip(devices, available, strict=True)]
        return fits_together(now, self.target, available)


def _of_gpu(gpu: Device) -> int:
    return max(0, gpu.free_bytes - min(GPU_RESERVE_BYTES, gpu.memory_bytes // 16))
