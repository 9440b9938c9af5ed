"""The system calls that a hostile program may not make, assembled into a BPF program.

A deny list: what programs that compute, read and print need is long and varies, what would let one out is known.
Denied calls fail with EPERM, as on a machine where the caller lacks the right; `clone3` fails with ENOSYS, because its
flags lie in memory where no filter reads them, and C libraries then fall back to `clone`, whose flags are checked. A
call of another architecture's convention ends the process.

Source: seccomp(2), linux/filter.h, linux/audit.h; the list is reliability measurements A7 and what came since.
"""

import platform
import struct
from collections.abc import Iterable

X86_64, AARCH64 = 0xC000003E, 0xC00000B7

_DENIED: dict[str, tuple[int | None, int | None]] = {
    # looking into other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "perf_event_open": (298, 241),
    # changing what is mounted where
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225),
    # other namespaces
    "unshare": (272, 97), "setns": (308, 268), "sethostname": (170, 161), "setdomainname": (171, 162),
    # other users and more rights
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "capset": (126, 91), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218),
    # the network; socketpair stays, since event loops need it and it reaches nobody else
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # parts of the kernel with a history of holes that no answer needs
    "bpf": (321, 280), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "memfd_secret": (447, 447), "fanotify_init": (300, 262), "personality": (135, 92),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "lookup_dcookie": (212, 18), "modify_ldt": (154, None),
    # the machine itself
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "acct": (163, 89), "reboot": (169, 142), "syslog": (103, 116), "vhangup": (153, 58),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
"""Name to its number on x86-64 and on aarch64."""

STAYS_IN_ITS_GROUP: dict[str, tuple[int | None, int | None]] = {"setsid": (112, 157), "setpgid": (109, 154)}
"""Denied too where no PID namespace ends a program's children: then all of them end with their process group."""

FOR_MAKING_BOXES = frozenset({"mount", "capset"})
"""Allowed to the process that makes boxes, denied inside each."""

_CLONE, _CLONE3 = (56, 220), (435, 435)
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*: NS, CGROUP, UTS, IPC, USER, PID, NET
_NEW_USER_NAMESPACE = 0x10000000  # boxes are made without one, so it is denied to what makes them, too
_EPERM, _ENOSYS = 1, 38
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_X32_CALLS = 0x40000000


def architecture() -> int | None:
    """This machine's audit architecture, or None where this module knows no numbers for it."""
    return {"x86_64": X86_64, "aarch64": AARCH64}.get(platform.machine())


def denied_numbers(machine: int, *, without: Iterable[str] = (), group_bound: bool = False) -> list[int]:
    """Numbers of the calls that fail with EPERM on a machine."""
    names = {**_DENIED, **(STAYS_IN_ITS_GROUP if group_bound else {})}
    column = 0 if machine == X86_64 else 1
    left_out = set(without)
    return sorted(
        number for name, numbers in names.items() if name not in left_out and (number := numbers[column]) is not None
    )


def filter_program(machine: int, *, makes_boxes: bool = False, group_bound: bool = False) -> bytes:
    """A BPF program in the form of `struct sock_filter[]`, for `bwrap --seccomp` and `prctl(PR_SET_SECCOMP)`.

    Args:
        machine: audit architecture, from `architecture`.
        makes_boxes: allow what making a box takes (mounts, and namespaces but those of users) and deny the rest.
        group_bound: deny leaving the process group as well.
    """
    program = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_JUMP_EQUAL, machine, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
    ]
    if machine == X86_64:
        program += [_step(_JUMP_AT_LEAST, _X32_CALLS, 0, 1), _step(_RETURN, _KILL)]
    for number in denied_numbers(machine, without=FOR_MAKING_BOXES if makes_boxes else (), group_bound=group_bound):
        program += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ERROR | _EPERM)]
    column = 0 if machine == X86_64 else 1
    program += [_step(_JUMP_EQUAL, _CLONE3[column], 0, 1), _step(_RETURN, _ERROR | _ENOSYS)]
    program += [
        _step(_JUMP_EQUAL, _CLONE[column], 0, 3),
        _step(_LOAD, _FIRST_ARGUMENT_AT),  # the low half of the flags: no namespace has a bit in the high half
        _step(_JUMP_ANY_BIT, _NEW_USER_NAMESPACE if makes_boxes else _NEW_NAMESPACES, 0, 1),
        _step(_RETURN, _ERROR | _EPERM),
    ]
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One `struct sock_filter`."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
