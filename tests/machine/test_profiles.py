"""Profiles: machines a user names, from a file nobody has checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weigh.errors import BadFile, UnknownName
from weigh.machine.profiles import profiles, profiles_file, target_of
from weigh.units import GIB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "devices.toml"


def test_a_profile_names_devices(file: Path) -> None:
    file.write_text('[myrig]\ndevice = "2x RTX 3090, 128GB"\n')
    target = target_of("myrig", file)
    assert target.name == "myrig"
    assert len(target.gpus) == 2
    assert target.host.memory_bytes == 126 * GIB


def test_a_profile_gives_figures(file: Path) -> None:
    file.write_text(
        '[lab]\nvram = "48G"\nbandwidth = 768\nram = 128\ngpus = 2\nram_bandwidth = 51.2\nfp16 = 150\n'
    )
    target = target_of("lab", file)
    assert [gpu.memory_bytes for gpu in target.gpus] == [48 * GIB] * 2
    assert target.gpus[0].bandwidth_bytes_per_s == 768e9
    assert target.gpus[0].fp16_flops_per_s == 150e12
    assert target.host.memory_bytes == 128 * GIB
    assert target.host.bandwidth_bytes_per_s == 51.2e9


def test_other_names_are_devices(file: Path) -> None:
    assert target_of("RTX 4090", file).gpus[0].name == "NVIDIA GeForce RTX 4090"
    with pytest.raises(UnknownName):
        target_of("myrig", file)


def test_no_file_holds_no_profiles(file: Path) -> None:
    assert profiles(file) == {}


def test_all_profiles_are_listed(file: Path) -> None:
    file.write_text('[a]\ndevice = "RTX 4090"\n[b]\ndevice = "M1 8GB"\n')
    assert list(profiles(file)) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\ndevice = 7\n", "in `a`: `device` is not a text"),
        ('[a]\ndevice = "RTX 4900"\n', "in `a`: unknown device `RTX 4900`; did you mean `RTX 4090`"),
        ('[a]\ndevice = "RTX 4090"\nram = 4\n', "in `a`: unknown key `ram`"),
        ("[a]\nvram = 24\n", "in `a`: `bandwidth` is missing"),
        ('[a]\nvram = "much"\nbandwidth = 1\nram = 1\n', "in `a`: `vram`: `much` is not a size"),
        ("[a]\nvram = 24\nbandwidth = -1\nram = 1\n", "in `a`: `bandwidth` is not a positive number"),
        ("[a]\nvram = 24\nbandwidth = nan\nram = 1\n", "in `a`: `bandwidth` is not a positive number"),
        ("[a]\nvram = 24\nbandwidth = 9\nram = 1\ngpus = 1.5\n", "in `a`: `gpus` is not a whole number"),
        ("[a]\nvram = 24\nbandwidth = 9\nram = 1\ngpus = 100000\n", "in `a`: expected sizes above zero"),
        ("a = 3\n", "`a` is not a table"),
        ("[a\n", "not TOML"),
    ],
)
def test_a_wrong_entry_is_one_line_with_file_and_key(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(BadFile) as error:
        profiles(file)
    assert said in error.value.message
    assert error.value.message.startswith(str(file))
    assert "\n" not in error.value.message


def test_hostile_files_are_refused(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadFile, match="not TOML"):
        profiles(file)
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(BadFile, match="larger than 1 MiB"):
        profiles(file)
    file.write_text("a = " + "[" * 100_000)
    with pytest.raises(BadFile, match="not TOML"):
        profiles(file)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BadFile, match="not a file"):
        profiles(pipe)


def test_the_environment_says_where_the_file_is(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv("WEIGH_DEVICES", str(file))
    assert profiles_file() == file
    monkeypatch.delenv("WEIGH_DEVICES")
    assert profiles_file().name == "devices.toml"
