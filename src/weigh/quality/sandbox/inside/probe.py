"""Says what a program in this sandbox could do, so that weigh can see that the walls stand.

Prints one line of JSON. Imports nothing of weigh.
"""

from __future__ import annotations

import json
import os


def lines(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes longer to import than all else
        return file.read().splitlines()


def status(field: str) -> str:
    return next(line.split()[1] for line in lines("/proc/self/status") if line.startswith(f"{field}:"))


def main() -> None:
    facts = {
        "user": os.getuid(),
        "capabilities": int(status("CapEff"), 16),
        "new_privileges_refused": status("NoNewPrivs") == "1",
        "system_calls_filtered": status("Seccomp") == "2",
        "processes": sum(entry.isdigit() for entry in os.listdir("/proc")),  # noqa: PTH208
        "network_devices": [line.partition(":")[0].strip() for line in lines("/proc/net/dev")[2:]],
        "variables": sorted(os.environ),
        "homes": [path for path in ("/home", "/etc/passwd", "/var") if os.access(path, os.F_OK)],
        "root_writable": os.access("/", os.W_OK),
    }
    print(json.dumps(facts))
