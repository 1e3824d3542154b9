"""Versions of installed Python packages, read off the names of their metadata folders.

Reading the metadata itself would cost 30 ms of imports.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def package_version(package: str) -> str | None:
    """The version of a package that can be imported here; None when it cannot."""
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    return version_in(Path(found.origin).parent.parent, package) or "of unknown version"


def version_in(folder: Path, package: str) -> str | None:
    """The version whose metadata lie in `folder`, a `site-packages`."""
    names = sorted(path.name for path in folder.glob(f"{package}-*.dist-info"))
    return names[-1].removesuffix(".dist-info").rpartition("-")[2] if names else None
