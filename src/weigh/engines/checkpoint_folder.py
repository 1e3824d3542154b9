"""Checkpoint folders as engines are handed them: a config, with or without weights, and no pickles."""

from __future__ import annotations

from pathlib import Path

from weigh.errors import BadFile

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def has_weights(folder: Path) -> bool:
    """Whether the checkpoint holds weights; False for a config alone, which engines run on made-up ones.

    Raises:
        BadFile: no folder with a config, or one whose weights are pickled: loading those can run code.
    """
    if not folder.is_dir():
        raise BadFile(folder, "is not a folder; this engine takes a checkpoint: a config and safetensors")
    if not (folder / "config.json").is_file():
        raise BadFile(folder, "holds no config.json")
    if any(folder.glob("*.safetensors")):
        return True
    if any(found for pattern in _PICKLES for found in folder.glob(pattern)):
        raise BadFile(folder, "its weights are pickled, which can run code; only safetensors are loaded")
    return False
