"""The contributor's verbs: python dev.py test | lint | docs [--check]."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent
VERBS = {
    "test": [["-m", "pytest"]],
    "lint": [["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"], ["-m", "mypy"]],
    "docs": [["docs/make_cli.py"], ["docs/make_tasks.py"]],
}


def pages() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}


def main() -> int:
    verb, *rest = sys.argv[1:] or [""]
    if verb not in VERBS:
        print(__doc__, file=sys.stderr)
        return 2
    check = verb == "docs" and "--check" in rest
    before = pages()
    for command in VERBS[verb]:
        extra = [] if verb == "docs" else rest
        code = subprocess.call([sys.executable, *command, *extra], cwd=ROOT)
        if code:
            return code
    stale = [path.name for path, text in pages().items() if before.get(path) != text]
    if check and stale:
        print(f"stale and now written again: {', '.join(stale)}; commit them", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
