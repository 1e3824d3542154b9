"""Virtual environments that hold one engine each: where they lie, and whether they are whole.

A receipt (`weigh.json`) is written into the folder first and completed last, so that one that was left half
made is never taken for an engine, and a folder that is not weigh's is never touched.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from weigh.engines.packages import version_in

VARIABLE = "WEIGH_ENGINES"
_RECEIPT = "weigh.json"
_MOST_RECEIPT_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Receipt:
    """What `weigh engines add` did.

    Attributes:
        whole: False until all of it is installed and has been seen to run.
        packages: what was asked for, as a package index is asked.
        size_bytes: on the disk.
    """

    engine: str
    whole: bool = False
    packages: tuple[str, ...] = ()
    size_bytes: int = 0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Environment:
    """One engine's folder, there or not."""

    name: str

    @property
    def folder(self) -> Path:
        return environments_folder() / self.name

    @property
    def python(self) -> Path:
        return self.program("python")

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    def version(self, package: str) -> str | None:
        """Of a package that is installed in it; None when it is not."""
        return next(filter(None, (version_in(one, package) for one in self.package_folders())), None)

    def package_folders(self) -> list[Path]:
        return sorted(self.folder.glob("lib/python3*/site-packages"))

    @property
    def receipt(self) -> Receipt | None:
        """None where the folder is not one that weigh made; one that cannot be read counts as half made."""
        path = self.folder / _RECEIPT
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                said = json.loads(file.read(_MOST_RECEIPT_BYTES))
            return Receipt(
                self.name,
                said["whole"] is True,
                tuple(map(str, said["packages"])),
                int(said["size_bytes"]),
                float(said["took_s"]),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Receipt(self.name)

    def write(self, receipt: Receipt) -> None:
        """At once: a reader sees the old one or the new one."""
        new = self.folder / f"{_RECEIPT}.new"
        new.write_text(json.dumps(asdict(receipt)), encoding="utf-8")
        new.replace(self.folder / _RECEIPT)

    @property
    def usable(self) -> bool:
        return self.receipt is not None and not self.problem

    @property
    def problem(self) -> str:
        """Why an environment that is there does not serve; "" when it does, or there is none."""
        receipt = self.receipt
        if receipt is None:
            return ""
        if not receipt.whole:
            return "its installation was not finished"
        if not os.access(self.python, os.X_OK):  # a link to a Python that has been removed or upgraded
            return "the Python it was made with is gone"
        if not self.package_folders():
            return "its packages are gone"
        return ""


def environments_folder() -> Path:
    """`WEIGH_ENGINES`, else `engines` in the user's data folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).absolute()
    from platformdirs import user_data_path

    return user_data_path("weigh") / "engines"
