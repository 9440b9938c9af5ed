"""What makes boxes: a process without secrets that has everything loaded, and forks once per box.

This file's text is run by the system's interpreter, inside bubblewrap (or, where user namespaces are forbidden, as it
is). It runs nothing hostile itself. Starting an interpreter costs 25 ms of CPU, forking this one and giving the child
namespaces, file systems and limits of its own costs 2 ms; so isolation is made anew for every box and only memory pages
of the standard library are shared, copy on write.

Arguments: the texts of the modules it serves with, by name, as JSON; the seccomp program in hex (empty: none). Standard
input is a Unix socket: one JSON message per box, {"folder", "channels"}, with the descriptors of its channels
(requests, answers, and two to another box or none) and of the groups it enters; the reply is `k` with a descriptor of
the box's first process, or `e` and what went wrong.
"""

import ctypes
import errno
import fcntl
import gc
import importlib
import json
import os
import platform
import signal
import socket
import struct
import sys
import types
from collections.abc import Callable

PRELOADED = (
    "bisect", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "hashlib", "heapq", "io", "itertools", "math", "operator", "os", "random", "re", "statistics",
    "string", "sys", "time", "traceback", "typing",
)  # fmt: skip
"""Modules of the standard library that programs often import."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc_holding_the_interpreter = ctypes.PyDLL(None, use_errno=True)
_CLONE = {"x86_64": 56, "aarch64": 220}
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_PRIVATE_FROM_HERE = (1 << 18) | (1 << 14)
_NO_SUID, _NO_DEV, _NO_EXEC, _READ_ONLY = 2, 4, 8, 1
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _ADOPTS_ORPHANS, _SET_NO_NEW_PRIVILEGES, _AMBIENT = 1, 4, 22, 36, 38, 47
_FILTER, _CLEAR_ALL = 2, 4
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture

_READS = 0b1100  # landlock: read files, list folders
_EXECUTES, _WRITES = 0b1, 0b10
_FILE_ACCESS_SINCE = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_READABLE = ("/usr", "/lib", "/lib64", "/bin")
_LIBRARY_CACHE = "/etc/ld.so.cache"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def check(result: int, what: str) -> int:
    """The result of a call into the kernel.

    Raises:
        OSError: it failed.
    """
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def process_control(option: int, *values: object) -> None:
    """prctl(2)."""
    check(_libc.prctl(option, *values, *[ctypes.c_ulong(0)] * (4 - len(values))), f"prctl {option}")


def mount(kind: bytes, place: bytes, flags: int, options: bytes | None = None) -> None:
    """Mount a file system that has no device."""
    check(_libc.mount(kind, place, kind, ctypes.c_ulong(flags), options), f"mount {place.decode()}")


def own_file_systems() -> None:
    """Process list and writable folders of this box alone; everything else is read-only since bubblewrap made it."""
    check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE_FROM_HERE), None), "private mounts")
    mount(b"proc", b"/proc", _NO_SUID | _NO_DEV | _NO_EXEC)
    for place, options in ((b"/tmp", b"size=64m"), (b"/box", b"size=64m"), (b"/dev/shm", b"size=16m")):
        mount(b"tmpfs", place, _NO_SUID | _NO_DEV, options + b",mode=1777,nr_inodes=16k")
    mount(b"tmpfs", b"/dev/pts", _NO_SUID | _NO_DEV | _NO_EXEC | _READ_ONLY, b"size=4k")
    os.chdir("/box")


def drop_capabilities() -> None:
    """No capability in any set, and none to be had by executing a file."""
    process_control(_AMBIENT, _CLEAR_ALL)
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    check(_libc.capset(header, nothing), "capset")
    process_control(_SET_NO_NEW_PRIVILEGES, 1)


def apply_filter(program: bytes) -> None:
    """Deny system calls from here on, in this process and all its children."""
    if program:
        held = ctypes.create_string_buffer(program, len(program))
        described = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
        process_control(_SET_SECCOMP, _FILTER, described)


def landlock_version() -> int:
    """ABI of the kernel's landlock; 0 without it."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def restrict_files(folder: str) -> None:
    """Only the system may be read, only `folder` written; no TCP, and no signal to anything outside.

    Raises:
        OSError: the kernel has no landlock.
    """
    version = landlock_version()
    every = sum(bits for since, bits in _FILE_ACCESS_SINCE.items() if since <= version)
    network, scope = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("=QQQ", every, network, scope)[: 8 if version < 4 else 16 if version < 6 else 24]
    size = ctypes.c_size_t(len(attributes))
    rules = check(_libc.syscall(_CREATE_RULESET, attributes, size, ctypes.c_uint(0)), "landlock")
    allowed = [(path, _READS | _EXECUTES) for path in _READABLE]
    allowed += [(_LIBRARY_CACHE, 0b100), *((path, 0b110) for path in _DEVICES), (folder, every)]
    for path, access in allowed:
        if os.path.exists(path):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", access, opened)
            check(_libc.syscall(_ADD_RULE, rules, ctypes.c_uint(1), rule, ctypes.c_uint(0)), f"landlock {path}")
            os.close(opened)
    process_control(_SET_NO_NEW_PRIVILEGES, 1)
    check(_libc.syscall(_RESTRICT_SELF, rules, ctypes.c_uint(0)), "landlock")
    os.close(rules)


def take_channels(requests: int, answers: int, *peer: int) -> None:
    """Requests become descriptor 0, answers 3, those to and from another box 4 and 5; every other descriptor goes."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (requests, answers, *peer)]
    nothing = os.open("/dev/null", os.O_RDWR)
    for target, descriptor in enumerate((high[0], nothing, nothing, *high[1:])):
        os.dup2(descriptor, target)
    os.closerange(len(high) + 2, 1024)


def stand_out() -> None:
    """In a program's own process: readable by itself again, and the first to go when memory is short."""
    process_control(_SET_DUMPABLE, 1)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def serve_box(driver: types.ModuleType, channels: list[int], folder: str | None, program: bytes) -> None:
    """Be the first process of a box and serve its tests."""
    take_channels(*channels)
    os.setsid()
    confine: Callable[[], None] = stand_out
    if folder is None:
        own_file_systems()
        drop_capabilities()
        apply_filter(program)
    else:
        scratch = folder
        os.chdir(scratch)
        process_control(_SET_DEATH_SIGNAL, int(signal.SIGTERM))
        process_control(_ADOPTS_ORPHANS, 1)

        def confine() -> None:
            stand_out()
            os.environ["TMPDIR"] = scratch
            restrict_files(scratch)
            apply_filter(program)

    # What runs beside it has the same user: without this it could write into this process's memory.
    process_control(_SET_DUMPABLE, 0)
    driver.serve(confine, owns_every_process=folder is None)


def fork_into_namespaces() -> int:
    """fork(2) whose child is the first process of namespaces of its own; with what Python does around a fork."""
    number = _CLONE.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "clone")
    around, nothing = ctypes.pythonapi, ctypes.c_long(0)
    around.PyOS_BeforeFork()
    child = _libc_holding_the_interpreter.syscall(
        ctypes.c_long(number), ctypes.c_long(_NEW_NAMESPACES | signal.SIGCHLD), nothing, nothing, nothing, nothing
    )
    around.PyOS_AfterFork_Child() if child == 0 else around.PyOS_AfterFork_Parent()
    return check(child, "clone")


def make_box(
    control: socket.socket, driver: types.ModuleType, message: dict, received: list[int], program: bytes
) -> None:
    """Fork a box, and hand over a descriptor of its first process.

    Raises:
        OSError: the kernel refused.
    """
    channels, entrances = received[: message["channels"]], received[message["channels"] :]
    folder = message["folder"]
    child = os.fork() if folder is not None else fork_into_namespaces()
    if child:
        process = os.pidfd_open(child)
        socket.send_fds(control, [b"k"], [process])
        os.close(process)
        return
    try:
        for entrance in entrances:
            os.write(entrance, b"0")
        control.detach()
        serve_box(driver, channels, folder, program)
    finally:
        os._exit(1)


def reap() -> None:
    """Take note of boxes that ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def serve(control: socket.socket, driver: types.ModuleType, program: bytes) -> None:
    """Make boxes until the other side is gone."""
    while True:
        message, received, _, _ = socket.recv_fds(control, 4096, 8)
        if not message:
            return
        try:
            make_box(control, driver, json.loads(message), received, program)
        except OSError as error:
            control.send(b"e" + str(error).encode()[:1000])
        for descriptor in received:
            os.close(descriptor)
        reap()


def load(texts: dict[str, str]) -> types.ModuleType:
    """Make modules of texts, in order and under their names; the last one."""
    module = types.ModuleType("none")
    for name, text in texts.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(parts[depth - 1]))
        module = sys.modules[name] = types.ModuleType(name)
        exec(compile(text, f"{parts[-1]}.py", "exec"), module.__dict__)
    return module


def main() -> None:
    """Load everything, then serve."""
    texts, program = json.loads(sys.argv[1]), bytes.fromhex(sys.argv[2])
    sys.argv[1:] = []
    sys.path[:] = [path for path in sys.path if path.startswith("/")]
    for name in PRELOADED:
        importlib.import_module(name)
    driver = load(texts)
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=0)
    control.send(b"r")
    serve(control, driver, program)


if __name__ == "__main__":
    main()
