"""System calls that model-written code does not need, refused by a seccomp filter.

Refused are those which reach around the other walls: new namespaces and mounts, other processes' memory,
memory that no limit counts (memfd, System V), kernel keys, programs in the kernel, and sockets of families
a network namespace does not hold (vsock reaches a virtual machine's host).
"""

from __future__ import annotations

import platform
import struct

# name -> number on (x86_64, aarch64); None where it does not exist. Source: Linux, arch/x86/entry/syscalls/
# syscall_64.tbl and include/uapi/asm-generic/unistd.h.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "fanotify_init": (300, 262),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
}
SOCKET = (41, 198)
CLONE = (56, 220)
CLONE3 = (435, 435)  # its flags lie in memory a filter cannot read; libc falls back to clone
SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* but CLONE_NEWTIME, which clone cannot ask for

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000  # x86_64's second set of numbers
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter as `struct sock_filter`s (linux/filter.h); None on a machine whose numbers are not known."""
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCH:
        return None
    column = list(AUDIT_ARCH).index(machine)
    program = [
        _step(LOAD, ARCH_AT),
        _step(IF_EQUAL, AUDIT_ARCH[machine], then=1),
        _step(RETURN, KILL),  # 32-bit calls have other numbers
        _step(LOAD, NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [_step(IF_AT_LEAST, X32, otherwise=1), _step(RETURN, ERRNO | ENOSYS)]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            program += [_step(IF_EQUAL, number, otherwise=1), _step(RETURN, ERRNO | EPERM)]
    program += [_step(IF_EQUAL, CLONE3[column], otherwise=1), _step(RETURN, ERRNO | ENOSYS)]
    program += [
        _step(IF_EQUAL, CLONE[column], otherwise=4),
        _step(LOAD, FIRST_ARGUMENT_AT),
        _step(IF_ANY_BIT, NEW_NAMESPACES, otherwise=1),
        _step(RETURN, ERRNO | EPERM),
        _step(RETURN, ALLOW),
        _step(IF_EQUAL, SOCKET[column], otherwise=len(SOCKET_FAMILIES) + 2),
        _step(LOAD, FIRST_ARGUMENT_AT),
        *(
            _step(IF_EQUAL, family, then=len(SOCKET_FAMILIES) - place)
            for place, family in enumerate(SOCKET_FAMILIES)
        ),
        _step(RETURN, ERRNO | EAFNOSUPPORT),
        _step(RETURN, ALLOW),
    ]
    return b"".join(program)


def _step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are instructions to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)
