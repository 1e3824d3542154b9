"""First program inside a sandbox: gives up what is left of privileges, sets limits, becomes the real one.

`python start.py ROOT LIMITS UID MODULE ARGUMENT...`: MODULE is beside this one, below ROOT, and has a `main` that
takes the arguments; LIMITS is `name=number,...` with the names of `resource.RLIMIT_*`; UID 0 keeps the user. Imports
nothing of weigh.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys


def main(limits: str, uid: int, module: str, arguments: list[str]) -> None:
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    for name, value in (limit.split("=") for limit in limits.split(",") if limit):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (int(value), int(value)))
    importlib.import_module(f"weigh.quality.sandbox.inside.{module}").main(*arguments)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:])
