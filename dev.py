"""The contributor's verbs: python dev.py test | lint | docs."""

from __future__ import annotations

import subprocess
import sys

VERBS: dict[str, list[list[str]]] = {
    "test": [["pytest"]],
    "lint": [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]],
    "docs": [["weigh.cli.reference"]],
}


def main() -> int:
    verb, *rest = sys.argv[1:] or [""]
    if verb not in VERBS:
        print(__doc__, file=sys.stderr)
        return 2
    for module, *arguments in VERBS[verb]:
        code = subprocess.call([sys.executable, "-m", module, *arguments, *rest])
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
