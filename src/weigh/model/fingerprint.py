"""What tells one model's file from another, whatever it is called: a digest of its size and of parts all over it."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.model.gguf import SPLIT_NAME

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec

END_BYTES = 1 << 20  # read of the beginning, where the header is, and of the end
STRETCHES, STRETCH_BYTES = 256, 4096  # in between: a few weights of most tensors


def fingerprint(spec: ModelSpec) -> str:
    """16 hexadecimal digits of the model's files; "" when it is none on this machine.

    Reads 3 MiB a file at most, since models are large. It tells honest files apart; whoever changes weights in
    between on purpose can keep it the same.
    """
    if spec.file is None or not spec.format:
        return ""
    whole = hashlib.sha256()
    try:
        for path in _files(spec.file):
            _take(whole.update, path)
    except OSError:  # removed meanwhile
        return ""
    return whole.hexdigest()[:16]


def _files(file: Path) -> list[Path]:
    """All parts of it, in their order."""
    if file.is_dir():
        return sorted(file.glob("*.safetensors"))
    split = SPLIT_NAME.fullmatch(file.name)
    return sorted(file.parent.glob(f"{glob.escape(split[1])}-*-of-{split[3]}.gguf")) if split else [file]


def _take(update: Callable[[bytes], None], path: Path) -> None:
    size_bytes = path.stat().st_size
    update(f"{size_bytes}\n".encode())
    with path.open("rb") as file:
        update(file.read(END_BYTES))
        for number in range(STRETCHES if size_bytes > 2 * END_BYTES else 0):
            file.seek(END_BYTES + (size_bytes - 2 * END_BYTES) * number // STRETCHES)
            update(file.read(STRETCH_BYTES))
        file.seek(max(END_BYTES, size_bytes - END_BYTES))
        update(file.read(END_BYTES))
