"""The seccomp filter decides as meant, on both kinds of processors: read by an interpreter of its instructions."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from weigh.quality.sandbox.syscalls import AUDIT_ARCH, CLONE, CLONE3, REFUSED, SOCKET, seccomp_filter

ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x00050061
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def decision(machine: str, number: int, argument: int = 0, *, arch: int | None = None) -> int:
    """What the filter returns for a call (linux/bpf_common.h, the instructions that it uses)."""
    program = list(struct.iter_unpack("=HBBI", seccomp_filter(machine) or b""))
    data = struct.pack("<IIQQ", number, AUDIT_ARCH[machine] if arch is None else arch, 0, argument)
    place = value = 0
    while True:
        code, then, otherwise, operand = program[place]
        place += 1
        if code == 0x20:
            value = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            place += then if holds else otherwise


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_decisions(machine: str):
    column = list(AUDIT_ARCH).index(machine)
    refused = {numbers[column] for numbers in REFUSED.values() if numbers[column] is not None}
    special = {CLONE[column], CLONE3[column], SOCKET[column]}
    for number in range(500):
        if number not in special:
            assert decision(machine, number) == (EPERM if number in refused else ALLOW), number
    assert decision(machine, CLONE3[column]) == ENOSYS
    assert decision(machine, CLONE[column], 0x003D0F00) == ALLOW  # a thread
    assert decision(machine, CLONE[column], 0x10000000 | 17) == EPERM  # a user namespace
    assert {family for family in range(50) if decision(machine, SOCKET[column], family) == ALLOW} == {
        1,
        2,
        10,
    }
    assert decision(machine, SOCKET[column], 40) == EAFNOSUPPORT
    assert decision(machine, 1, arch=0x40000003) == KILL  # a 32-bit call


def test_the_second_set_of_numbers_of_x86():
    assert decision("x86_64", 0x40000000 + 1) == ENOSYS


def test_an_unknown_processor_has_none():
    assert seccomp_filter("riscv64") is None


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_numbers_are_the_kernels(machine: str):
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not here (linux-libc-dev)")
    lines = HEADERS[machine].read_text(encoding="utf-8").splitlines()
    found = [re.match(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", line) for line in lines]
    known = {match[1]: int(match[2]) for match in found if match}
    column = list(AUDIT_ARCH).index(machine)
    for name, numbers in {**REFUSED, "socket": SOCKET, "clone": CLONE, "clone3": CLONE3}.items():
        assert numbers[column] == known.get(name, numbers[column]), name
