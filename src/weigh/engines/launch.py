"""Become another program, under limits and tied to the life of the parent.

Run as a script with its own interpreter (`python launch.py PARENT DATA_BYTES COMMAND...`), because what it
sets must be in force before the program starts and must not touch the parent. It imports nothing of weigh.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, data_bytes: int, command: list[str]) -> None:
    """Replace this process by `command`; `data_bytes` 0 sets no limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not fill the disk with gigabytes
    if data_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took effect
        return
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    except OSError as error:
        sys.exit(f"error: {sys.argv[3]}: {error.strerror}")
