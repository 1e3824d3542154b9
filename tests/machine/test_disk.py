"""Room on the disk, and read rates of real files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from weigh.figure import Basis
from weigh.machine.disk import measure_read_rate, models_folder, read_disk
from weigh.units import MIB


def test_room_is_asked_at_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    disk = read_disk(tmp_path / "not" / "yet" / "there")
    assert disk.path == tmp_path / "not" / "yet" / "there"
    assert disk.total_bytes == shutil.disk_usage(tmp_path).total
    assert 0 < disk.free_bytes <= disk.total_bytes
    assert not (tmp_path / "not").exists()


def test_models_live_in_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert read_disk().path == models_folder()
    assert models_folder().name == "weigh"


def test_a_file_in_the_way_and_a_relative_path_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert read_disk(tmp_path / "file" / "below").total_bytes == shutil.disk_usage(tmp_path).total
    assert read_disk(Path("relative")).path.is_absolute()


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A folder that is on a real disk: the temporary one may be a memory disk."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def file_system(path: Path) -> str:
    """As `stat` names it: ext4 is `ext2/ext3` to it; "" where it has no such option."""
    command = ["stat", "--file-system", "--format=%T", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def written(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))
    return path


def test_cold_and_cached_rates_of_a_real_file(on_disk: Path) -> None:
    file = written(on_disk / "model", 96 * MIB)
    before = file.stat()
    cold, cached = measure_read_rate(file), measure_read_rate(file, cached=True)
    assert cached is not None
    assert cached.unit == "bytes/s"
    assert cached.basis is Basis.MEASURED
    assert 0 < cached.low <= cached.value <= cached.high
    assert "dropped" not in cached.source
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    if cold is None and file_system(on_disk) not in {"ext2/ext3", "xfs"}:
        pytest.skip("this file system keeps the file's pages, or does not say whether it does")
    assert cold is not None
    assert "dropped" in cold.source
    assert 0 < cold.low <= cold.value <= cold.high


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no memory disk here")
def test_a_file_that_stays_in_memory_has_no_cold_rate() -> None:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        file = written(Path(folder) / "model", 8 * MIB)
        assert measure_read_rate(file) is None
        assert measure_read_rate(file, cached=True) is not None


def test_pages_held_by_another_mapping_are_not_called_cold(on_disk: Path) -> None:
    import mmap

    file = written(on_disk / "model", 64 * MIB)
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as engine:
        assert sum(engine[:: mmap.PAGESIZE]) >= 0  # touches every page, as a running engine does
        assert measure_read_rate(file) is None


def test_what_says_nothing_has_no_rate(tmp_path: Path) -> None:
    assert measure_read_rate(tmp_path / "absent") is None
    assert measure_read_rate(tmp_path) is None
    assert measure_read_rate(written(tmp_path / "small", 1 * MIB)) is None
