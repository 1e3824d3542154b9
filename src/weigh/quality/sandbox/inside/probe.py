"""Says what a program in this sandbox could do, so that weigh can see that the walls stand.

Prints one line of JSON. Imports nothing of weigh.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


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
        "homes": [str(path) for path in (Path("/home"), Path("/etc/passwd"), Path("/var")) if path.exists()],
        "root_writable": os.access("/", os.W_OK),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
