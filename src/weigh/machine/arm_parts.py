"""Names of ARM cores by (implementer, part), as /proc/cpuinfo numbers them.

Only cores that language models are likely to meet. Source: util-linux, sys-utils/lscpu-arm.c (commit
01e2697a), which takes them from ARM's manuals and the kernel; the names are facts, the selection is ours.
"""

from __future__ import annotations

_ARM, _FUJITSU, _HISILICON, _NVIDIA, _APPLE, _AMPERE = 0x41, 0x46, 0x48, 0x4E, 0x61, 0xC0

ARM_PARTS = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_ARM, 0xD84): "Neoverse-V3",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_ARM, 0xD8E): "Neoverse-N3",
    (_FUJITSU, 0x001): "A64FX",
    (_HISILICON, 0xD01): "Kunpeng-920",
    (_NVIDIA, 0x004): "Carmel",
    (_NVIDIA, 0x010): "Olympus",
    (_APPLE, 0x022): "Icestorm-M1",
    (_APPLE, 0x023): "Firestorm-M1",
    (_APPLE, 0x024): "Icestorm-M1-Pro",
    (_APPLE, 0x025): "Firestorm-M1-Pro",
    (_APPLE, 0x028): "Icestorm-M1-Max",
    (_APPLE, 0x029): "Firestorm-M1-Max",
    (_APPLE, 0x032): "Blizzard-M2",
    (_APPLE, 0x033): "Avalanche-M2",
    (_AMPERE, 0xAC3): "Ampere-1",
    (_AMPERE, 0xAC4): "Ampere-1a",
}
