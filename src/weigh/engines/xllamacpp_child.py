"""The embedded engine's own process: `python xllamacpp_child.py PARAMETERS`, with the parameters as JSON.

PARAMETERS maps names of `xllamacpp.CommonParams` (dots for nested ones) to values. The server's log goes to
stderr, where it says the address it is listening on. It imports nothing of weigh.
"""

from __future__ import annotations

import json
import signal
import sys


def main(given: dict[str, object]) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    for name, value in given.items():
        *path, last = name.split(".")
        target = params
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    _server = xllamacpp.Server(params)  # returns when the model is loaded; serves until it is deleted
    signal.pause()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
