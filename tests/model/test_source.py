"""Stretches of files, near and far."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weigh.errors import BadFile
from weigh.model.folder import sizes_below
from weigh.model.remote import FIRST_READ_BYTES, RemoteFile
from weigh.model.source import LocalFile, LocalFiles

DATA = bytes(range(256)) * 1024  # 256 KiB


def test_a_local_file_gives_stretches_and_its_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    with LocalFile(tmp_path / "a") as file:
        assert file.size_bytes == len(DATA)
        assert file.read(1000, 20) == DATA[1000:1020]
        assert file.read(len(DATA) - 5, 20) == DATA[-5:]


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path, "is a folder, not a model file"),
        (tmp_path / "pipe", "is a pipe or a device, not a file"),
        (tmp_path / "none", "cannot be read (No such file or directory)"),
        (Path("a\0b"), "cannot be read (no such path can be)"),
    ):
        with pytest.raises(BadFile) as caught:
            LocalFiles().open(path).__enter__()
        assert said in str(caught.value)


def remote(asked: list[tuple[int, int]]) -> RemoteFile:
    """A file far away that notes what was asked of it."""

    def stretch(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return DATA[offset : offset + length]

    return RemoteFile(Path("org/name/file"), len(DATA), stretch)


def test_a_remote_file_is_asked_for_no_byte_of_its_beginning_twice() -> None:
    asked: list[tuple[int, int]] = []
    file = remote(asked)
    assert file.read(0, 8) == DATA[:8]
    assert file.read(8, 100) == DATA[8:108]
    assert file.read(0, FIRST_READ_BYTES + 10) == DATA[: FIRST_READ_BYTES + 10]
    assert asked == [(0, FIRST_READ_BYTES), (FIRST_READ_BYTES, 10)]


def test_a_remote_file_ends_where_it_was_said_to() -> None:
    asked: list[tuple[int, int]] = []
    file = remote(asked)
    assert file.read(len(DATA) - 5, 100) == DATA[-5:]
    assert file.read(len(DATA), 100) == b""
    assert file.read(len(DATA) + 7, 100) == b""
    assert file.read(0, 1 << 40) == DATA
    assert asked == [(len(DATA) - 5, 5), (0, len(DATA))]


# --- folders --------------------------------------------------------------------------------------------


def test_a_listing_goes_as_deep_as_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("top", "a/one", "a/b/two"):
        (tmp_path / name).write_bytes(name.encode())
    assert sizes_below(tmp_path, 0) == {"top": 3}
    assert sizes_below(tmp_path, 1) == {"top": 3, "a/one": 5}
    assert sizes_below(tmp_path, 2) == {"top": 3, "a/one": 5, "a/b/two": 7}


def test_links_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to("self")
    assert sizes_below(tmp_path, 50) == {"a/file": 1}


def test_what_is_hidden_gone_or_no_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "file").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert sizes_below(tmp_path) == {}
    assert sizes_below(tmp_path / "none") == {}


def test_a_listing_ends_in_a_folder_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weigh.model.folder.MOST_ENTRIES", 10)
    for number in range(30):
        (tmp_path / f"{number:02}").write_bytes(b"")
    assert len(sizes_below(tmp_path)) == 10
