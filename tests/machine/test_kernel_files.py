from __future__ import annotations

from pathlib import Path

import pytest

from weigh.machine import kernel_files


@pytest.mark.parametrize(
    ("written", "cpus"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("5", {5}),
        ("", set()),
        ("0,2-3\n", {0, 2, 3}),
        ("nonsense", set()),
        ("0-99999999999", set()),
    ],
)
def test_cpu_list_in_the_kernels_format(written: str, cpus: set[int]) -> None:
    assert kernel_files.cpu_list(written) == cpus


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert kernel_files.text(tmp_path / "absent") == ""
    assert kernel_files.text(tmp_path) == ""
    assert kernel_files.number(tmp_path / "absent") is None
    assert kernel_files.table(tmp_path / "absent") == {}
    assert kernel_files.folders(tmp_path / "absent") == []


def test_max_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert kernel_files.number(tmp_path / "memory.max") is None
    assert kernel_files.pair(tmp_path / "cpu.max") == (None, 100000)


def test_table_takes_both_spellings_and_passes_over_the_rest(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("inactive_file 4096\nMemTotal:   24684084 kB\nodd\nname value\n")
    assert kernel_files.table(tmp_path / "stat") == {"inactive_file": 4096, "MemTotal": 24684084}


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"Board \xff\x00")
    assert kernel_files.text(tmp_path / "model").startswith("Board ")
