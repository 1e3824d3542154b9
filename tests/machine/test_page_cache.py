"""Pages of real files: in memory, asked to leave, and brought back."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from weigh.machine.page_cache import cached_bytes, is_cold, make_cold, read_through, resident_fraction
from weigh.units import MIB

SIZE_BYTES = 8 * MIB


@pytest.fixture
def file() -> Iterator[Path]:
    """On a real disk: the temporary folder may be a memory disk, whose pages cannot leave."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        path = Path(folder) / "model"
        path.write_bytes(os.urandom(SIZE_BYTES))
        yield path


def test_dropped_pages_are_gone_and_reading_brings_them_back(file: Path) -> None:
    read_through([file])
    assert cached_bytes([file]) == SIZE_BYTES
    if not make_cold([file]):
        pytest.skip("this file system keeps its pages")
    assert cached_bytes([file]) == 0
    with file.open("rb") as opened:
        opened.read(1)
    some = cached_bytes([file])
    assert some is not None
    assert mmap.PAGESIZE <= some < SIZE_BYTES
    read_through([file])
    assert cached_bytes([file]) == SIZE_BYTES


def test_pages_that_are_mapped_by_someone_stay_and_it_is_said(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert sum(view[at] for at in range(0, SIZE_BYTES, mmap.PAGESIZE)) > 0  # touches every page
        assert not make_cold([file])
        assert cached_bytes([file]) == SIZE_BYTES


def test_several_files_count_together(file: Path) -> None:
    other = file.with_name("second")
    other.write_bytes(b"x" * MIB)
    assert cached_bytes([file, other]) == SIZE_BYTES + MIB


def test_what_cannot_be_asked_is_not_called_cold(tmp_path: Path) -> None:
    assert not make_cold([tmp_path / "none"])
    assert cached_bytes([tmp_path / "none"]) is None
    assert not is_cold([])
    assert not is_cold([0.0, 0.5])


def test_a_part_of_a_file_is_asked_about(file: Path) -> None:
    with file.open("rb") as opened:
        assert resident_fraction(opened.fileno(), mmap.ALLOCATIONGRANULARITY, MIB) == 1.0
