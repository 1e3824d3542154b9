"""Machines a user has described once and names again: profiles in a TOML file.

    [myrig]
    device = "2x RTX 3090, Ryzen 9 5950X, 128GB"    # anything that can be named

    [lab]
    vram = "48G"            # of one card; `gpus`, `vendor` and `fp16` (TFLOPS) may follow
    bandwidth = 768         # GB/s
    ram = "128G"
    ram_bandwidth = 51.2    # GB/s; without it, two channels of DDR5 are taken for granted
    gpus = 2

The file is `devices.toml` in the user's folder for configuration, or the one that $WEIGH_DEVICES names.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weigh.errors import BadFile, BadInput
from weigh.machine.devices import target_custom, target_named
from weigh.machine.target import Target
from weigh.units import GB, parse_bytes

MOST_BYTES = 1 << 20
_FIGURES = {"vram", "bandwidth", "ram", "ram_bandwidth", "gpus", "vendor", "fp16"}


def profiles_file() -> Path:
    """Where profiles are kept, whether or not the file exists."""
    named = os.environ.get("WEIGH_DEVICES")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("weigh")) / "devices.toml"


def profiles(path: Path | None = None) -> dict[str, Target]:
    """All profiles of the file by name; none when there is no file.

    Raises:
        BadFile: the file or an entry of it is not as described above; the message names the key.
    """
    path = path or profiles_file()
    return {name: _target(path, name, entry) for name, entry in _entries(path).items()}


def target_of(text: str, path: Path | None = None) -> Target:
    """A profile of that name, else the machine that `target_named` understands.

    Raises:
        BadFile: the profile, or the file, is not as described above.
        BadInput: neither a profile nor a device.
    """
    path = path or profiles_file()
    entries = _entries(path)
    return _target(path, text, entries[text]) if text in entries else target_named(text)


def _entries(path: Path) -> dict[str, Any]:
    """Tables by name, not yet looked into."""
    try:
        if not path.exists():
            return {}
        if not path.is_file():
            raise BadFile(path, "not a file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise BadFile(path, "larger than 1 MiB, which no list of machines is")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(path, f"not TOML: {error}") from None


def _target(path: Path, name: str, entry: object) -> Target:
    if not isinstance(entry, Mapping):
        raise BadFile(path, f"`{name}` is not a table", hint=f"write `[{name}]` above its keys")
    try:
        target = _named(entry) if "device" in entry else _custom(entry)
    except BadFile:
        raise
    except BadInput as error:
        raise BadFile(path, f"in `{name}`: {error.message}", hint=error.hint) from None
    return replace(target, name=name)


def _named(entry: Mapping[str, object]) -> Target:
    _only(entry, {"device"})
    device = entry["device"]
    if not isinstance(device, str):
        raise BadInput("`device` is not a text")
    return target_named(device)


def _custom(entry: Mapping[str, object]) -> Target:
    _only(entry, _FIGURES)
    for key in ("bandwidth", "ram"):
        if key not in entry:
            raise BadInput(f"`{key}` is missing", hint="give `device`, or `vram`, `bandwidth` and `ram`")
    gpus = entry.get("gpus", 1)
    vendor = entry.get("vendor", "NVIDIA")
    if not isinstance(gpus, int) or isinstance(gpus, bool):
        raise BadInput("`gpus` is not a whole number")
    if not isinstance(vendor, str):
        raise BadInput("`vendor` is not a text")
    fp16, ram_rate = entry.get("fp16"), entry.get("ram_bandwidth")
    return target_custom(
        _size("vram", entry.get("vram", 0)),
        _number("bandwidth", entry["bandwidth"]) * GB,
        _size("ram", entry["ram"]),
        gpus,
        fp16_flops_per_s=None if fp16 is None else _number("fp16", fp16) * 1e12,
        vendor=vendor,
        ram_bandwidth_bytes_per_s=None if ram_rate is None else _number("ram_bandwidth", ram_rate) * GB,
    )


def _only(entry: Mapping[str, object], known: set[str]) -> None:
    strange = sorted(set(entry) - known)
    if strange:
        raise BadInput(f"unknown key `{strange[0]}`", hint=f"known are {', '.join(sorted(known))}")


def _size(key: str, value: object) -> int:
    """`"24G"`, or a number of GiB."""
    try:
        return parse_bytes(value) if isinstance(value, str) else int(_number(key, value, least=0) * (1 << 30))
    except BadInput as error:
        raise BadInput(f"`{key}`: {error.message}", hint=error.hint) from None


def _number(key: str, value: object, least: float = 1e-6) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e9:
        raise BadInput(f"`{key}` is not a positive number")
    return float(value)
