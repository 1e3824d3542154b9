"""A text written to a file whole or not at all, so that a full disk leaves an older one as it was."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from weigh.errors import BadInput


def write_whole(path: Path, text: str) -> None:
    """Raises BadInput: the file cannot be written."""
    made: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.absolute().parent, prefix=".weigh-", delete=False
        ) as file:
            made = Path(file.name)
            file.write(text)
        made.chmod(0o666 & ~_umask())
        made.replace(path)
    except (OSError, ValueError) as error:
        if made is not None:
            with contextlib.suppress(OSError):
                made.unlink()
        raise BadInput(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
