"""Bytes, seconds and rates, said to people and read from them.

GiB = 2**30 is for memory and files, GB = 10**9 for bandwidth; no other module divides by either.
"""

from __future__ import annotations

import re

from weigh.errors import BadInput

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
GB = 10**9

_SUFFIX_BYTES = {
    "": 1,
    "B": 1,
    "K": KIB,
    "KIB": KIB,
    "KB": 10**3,
    "M": MIB,
    "MIB": MIB,
    "MB": 10**6,
    "G": GIB,
    "GIB": GIB,
    "GB": GB,
    "T": 1 << 40,
    "TIB": 1 << 40,
    "TB": 10**12,
}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*")
MOST_TOKENS = 2**31 - 1  # engines count them in 32 bits


def parse_bytes(text: str) -> int:
    """Bytes meant by ``4G``, ``24 GiB`` or ``500MB``; a bare ``K M G T`` counts in powers of 1024.

    Raises:
        BadInput: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].upper() not in _SUFFIX_BYTES:
        raise BadInput(f"`{text}` is not a size", hint="write it like `4G`, `512M` or `6.5GiB`")
    return int(float(match[1]) * _SUFFIX_BYTES[match[2].upper()])


def parse_tokens(text: str) -> int:
    """Tokens meant by ``8192``, ``8k`` (8192) or ``128k`` (131072).

    Raises:
        BadInput: the text is not a count of tokens from 1 to MOST_TOKENS.
    """
    match = re.fullmatch(r"\s*(\d{1,18})\s*([kK]?)\s*", text)
    if match is None or int(match[1]) < 1:
        raise BadInput(f"`{text}` is not a number of tokens", hint="write it like `8192` or `8k`")
    tokens = int(match[1]) * (1024 if match[2] else 1)
    if tokens > MOST_TOKENS:
        raise BadInput(f"`{text}` is more tokens than an engine counts", hint=f"{MOST_TOKENS:,} are the most")
    return tokens


def gib(value_bytes: float) -> str:
    """``4.58 GiB``; below a tenth of a GiB in MiB, below one MiB in KiB."""
    if 0 < abs(value_bytes) < MIB:
        return f"{value_bytes / KIB:.1f} KiB"
    if abs(value_bytes) < GIB / 10:
        return f"{value_bytes / MIB:.1f} MiB"
    return f"{value_bytes / GIB:.2f} GiB" if value_bytes < 100 * GIB else f"{value_bytes / GIB:.0f} GiB"


def gb_per_s(value_bytes_per_s: float) -> str:
    """``12.4 GB/s``."""
    return f"{value_bytes_per_s / GB:.1f} GB/s"


def seconds(value_s: float) -> str:
    """``85 ms``, ``1.4 s``, ``31 s`` or ``4 min``."""
    if value_s < 1:
        return f"{value_s * 1000:.0f} ms"
    if value_s < 10:
        return f"{value_s:.1f} s"
    return f"{value_s:.0f} s" if value_s < 120 else f"{value_s / 60:.0f} min"


def count(value: float) -> str:
    """Parameters as people say them: ``30.5B``, ``494M``."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{letter}" if scaled >= 100 else f"{scaled:.3g}{letter}"
    return f"{value:.0f}"


def rate(value: float) -> str:
    """A speed with three meaningful digits: ``9.8``, ``104``, ``0.43``."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
