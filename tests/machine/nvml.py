"""NVML's answers, played back: the calls that weigh makes, refused where a card does not know them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Card:
    """A card, or a part of one; a total of None means that its memory is refused."""

    name: str
    total: int | None = None
    free: int = 0
    bus: int = 1
    domain: int = 0
    uuid: str = ""
    capability: tuple[int, int] | None = (9, 0)
    split: bool = False
    parts: list[Card | None] = field(default_factory=list)
    slices: int = 0
    vgpu: bool = False


class Nvml:
    class NVMLError(Exception):
        pass

    def __init__(self, cards: list[Card], driver: str = "570.86.15") -> None:
        self.cards, self.driver, self.shut = cards, driver, False

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut = True

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return self.driver

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetPciInfo(self, card: Card) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(domain=card.domain, bus=card.bus, device=0)

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: N802
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:  # noqa: N802
        return self._known(card.uuid)

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=self._known(card.total), free=card.free)

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:  # noqa: N802
        return self._known(card.capability)

    def nvmlDeviceGetVirtualizationMode(self, card: Card) -> int:  # noqa: N802
        return 2 if card.vgpu else 0

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:  # noqa: N802
        return self._known([1, 1] if card.split else None)

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:  # noqa: N802
        return len(card.parts)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:  # noqa: N802
        return self._known(card.parts[index])

    def nvmlDeviceGetAttributes(self, card: Card) -> SimpleNamespace:  # noqa: N802
        total = self._known(card.total)
        return SimpleNamespace(gpuInstanceSliceCount=card.slices, memorySizeMB=total >> 20)

    def nvmlDeviceGetGpuInstanceId(self, card: Card) -> int:  # noqa: N802
        return self._known(card.slices or None)

    def nvmlDeviceGetComputeInstanceId(self, _card: Card) -> int:  # noqa: N802
        return 0

    def _known(self, answer: T | None) -> T:
        if answer is None or answer == "":
            raise self.NVMLError("Not Supported")
        return answer
