"""What boxes are made of here: namespaces, seccomp, control groups, landlock; and the nursery that forks them.

`candidates` lists what is at hand, strongest first; `code_sandbox` tries each out before it trusts it. A nursery is one
bubblewrap box without network, home, environment or rights, in which `sandbox_nursery` waits; every box it forks gets
namespaces and file systems of its own inside, so leaving a box leads into another empty one.

Source: reliability measurements A2 to A7 (own user per slot, scrubbed environment, `--as-pid-1`, groups for totals).
"""

import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from amr_pipeline.engines import cgroups, sandbox_children, sandbox_driver, sandbox_frames, sandbox_nursery
from amr_pipeline.engines.cgroups import BoxGroup, Cgroups
from amr_pipeline.engines.seccomp_filter import architecture, filter_program
from amr_pipeline.studies.study import Isolation

START_SECONDS = 30.0
"""Longest a nursery or a box may take to start on a busy machine before that is the machine's failure."""

COMPLAINT_SECONDS = 2.0
"""Longest that the last words of a nursery are waited for: what outlives it holds their pipe open."""

_LIMIT_OF_USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_FIRST_USER, _USERS = 60_000, 5_000
_FOLDER = "amr-box-"
_slots = itertools.count()


class BoxFailureError(RuntimeError):
    """The box, not the program, failed."""


@dataclass(frozen=True)
class Means:
    """One way to make boxes.

    Attributes:
        groups: where control groups are made, or None for limits per process.
        limits_user_namespaces: whether the kernel counts user namespaces in a box, or seccomp alone denies them.
    """

    isolation: Isolation
    groups: Cgroups | None
    limits_user_namespaces: bool = True

    def __str__(self) -> str:
        """As verdicts name it."""
        return str(self.isolation) + (
            "" if self.limits_user_namespaces else ", user namespaces denied by seccomp alone"
        )

    @property
    def has_namespaces(self) -> bool:
        """Whether a box has a PID namespace, which ends with its first process."""
        return self.isolation != Isolation.LANDLOCK_SECCOMP

    @property
    def has_seccomp(self) -> bool:
        """Whether system calls are filtered."""
        return self.isolation != Isolation.BUBBLEWRAP_RLIMITS


@cache
def interpreter() -> str | None:
    """The interpreter inside boxes; the system's, since a box sees nothing but /usr."""
    return next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(path).exists()), None)


def missing_program() -> str | None:
    """What no box can do without, in one line; None when it is there."""
    if interpreter() is None:
        return "no python3 under /usr (Debian: apt-get install python3)"
    return None


def candidates() -> Iterator[Means]:
    """Ways to make boxes that this machine seems to have, strongest first.

    Without the kernel's limit of user namespaces, none is without a filter: nothing else would deny them.
    """
    groups, filters, limited = cgroups.detect(), architecture() is not None, kernel_limits_user_namespaces()
    sweep_folders()
    if shutil.which("bwrap"):
        if filters and groups is not None:
            yield Means(Isolation.BUBBLEWRAP_SECCOMP_CGROUP, groups, limited)
        if filters:
            yield Means(Isolation.BUBBLEWRAP_SECCOMP, None, limited)
        if limited:
            yield Means(Isolation.BUBBLEWRAP_RLIMITS, None)
    if filters:
        yield Means(Isolation.LANDLOCK_SECCOMP, groups)


def kernel_limits_user_namespaces() -> bool:
    """Whether there is what `bwrap --disable-userns` sets; gVisor has none (google/gvisor#11210)."""
    return _LIMIT_OF_USER_NAMESPACES.exists()


def sweep_folders() -> None:
    """Remove scratch folders of processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def bubblewrap(filter_descriptor: int | None, *, limits_user_namespaces: bool = True) -> list[str]:
    """The command line that puts what follows it into the outer box, in the launcher's own session and process group.

    `Nursery` makes both new: without a terminal, and so that one signal reaches launcher and child at any instant.
    """
    return [
        "bwrap", "--unshare-user", "--unshare-all", "--die-with-parent", "--as-pid-1", "--clearenv",
        # The only capability, over namespaces that hold nothing: to mount what each inner box has for itself.
        "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN",
        *(("--disable-userns",) if limits_user_namespaces else ()),
        "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
        "--symlink", "usr/bin", "/bin", "--proc", "/proc", "--dev", "/dev",
        "--size", "4096", "--tmpfs", "/dev/shm", "--size", "4096", "--tmpfs", "/tmp",
        "--size", "4096", "--tmpfs", "/box", "--chdir", "/box",
        "--setenv", "PYTHONHASHSEED", "0", "--remount-ro", "/dev", "--remount-ro", "/",
        *(() if filter_descriptor is None else ("--seccomp", str(filter_descriptor))),
    ]  # fmt: skip


@cache
def _texts() -> str:
    """The modules a nursery serves with, by name."""
    modules = (sandbox_frames, sandbox_children, sandbox_driver)
    return json.dumps({module.__name__: Path(str(module.__file__)).read_text() for module in modules})


class Nursery:
    """This side of one nursery process. Used by one thread at a time; its box ends with the thread that started it."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        outer = _filter_file(means) if means.has_namespaces else None
        try:
            self._process = self._start(other, outer)
            self._ended = os.pidfd_open(self._process.pid)
        except OSError:
            self._control.close()
            raise
        finally:
            other.close()
            if outer is not None:
                os.close(outer)
        try:
            self._hear(b"r")
        except BoxFailureError:
            self.close()
            raise

    def _start(self, other: socket.socket, outer: int | None) -> subprocess.Popen[bytes]:
        python = interpreter()
        if python is None:
            raise BoxFailureError("no interpreter")
        machine = architecture()
        inner = b""
        if self.means.has_seccomp and machine is not None:
            inner = filter_program(machine, group_bound=not self.means.has_namespaces)
        nursery = Path(str(sandbox_nursery.__file__)).read_text()
        limited = self.means.limits_user_namespaces
        box = bubblewrap(outer, limits_user_namespaces=limited) if self.means.has_namespaces else []
        # Root gets users of its own for boxes: RLIMIT_NPROC counts per user and not at all for root.
        self.user = _FIRST_USER + (os.getpid() + 1009 * next(_slots)) % _USERS if os.getuid() == 0 else None
        return subprocess.Popen(
            [*box, python, "-s", "-S", "-c", nursery, _texts(), inner.hex()],
            stdin=other.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Whatever starts inside could read this in /proc/1/environ. A fixed seed makes verdicts repeatable.
            env={"PATH": "/usr/bin:/bin:/usr/local/bin", "PYTHONHASHSEED": "0"},
            cwd="/",
            pass_fds=[] if outer is None else [outer],
            start_new_session=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )

    def make_box(self, channels: Sequence[int], group: BoxGroup | None, folder: str | None) -> int:
        """Fork a box on (requests to read, answers to write, and the same to another box); its first process.

        Raises:
            BoxFailureError: no box came of it.
        """
        try:
            entrances = [] if group is None else group.open_entrances()
        except OSError as error:
            raise BoxFailureError(f"the group cannot be entered: {error}") from error
        try:
            message = json.dumps({"folder": folder, "channels": len(channels)}).encode()
            socket.send_fds(self._control, [message], [*channels, *entrances])
        except OSError as error:
            raise BoxFailureError(f"the nursery is gone: {error}") from error
        finally:
            for entrance in entrances:
                os.close(entrance)
        return self._hear(b"k")[0]

    def _hear(self, wanted: bytes) -> list[int]:
        """Descriptors that came with the reply `wanted`."""
        ready = select.select([self._control, self._ended], [], [], START_SECONDS)[0]
        if self._control not in ready:
            # Its end closes nothing where a process of its own that waits for it outlives it.
            raise BoxFailureError(self._complaint(b"") if ready else "no word from the nursery in time")
        try:
            said, received, _, _ = socket.recv_fds(self._control, 2048, 1)
        except OSError as error:
            raise BoxFailureError(f"no word from the nursery: {error}") from error
        if said[:1] != wanted:
            raise BoxFailureError(self._complaint(said))
        return received

    def _complaint(self, said: bytes) -> str:
        if said:
            return said[1:].decode("utf-8", "replace")
        self._control.close()  # what is left of it ends with its input
        self._kill()
        try:
            complaint = self._process.communicate(timeout=COMPLAINT_SECONDS)[1]
        except subprocess.TimeoutExpired as late:
            complaint = late.stderr or b""
        return complaint.decode("utf-8", "replace").strip()[-300:] or "the nursery ended"

    def scratch_folder(self) -> str | None:
        """A new folder for a box without file systems of its own; None where boxes have them."""
        if self.means.has_namespaces:
            return None
        folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
        if self.user is not None:
            os.chown(folder, self.user, self.user)
        return folder

    def close(self) -> None:
        """End the nursery and every box in it."""
        self._control.close()  # it ends by itself at the end of its input, unless it hangs
        select.select([self._ended], [], [], 2)
        self._kill()
        os.close(self._ended)
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._process.wait()

    def _kill(self) -> None:
        """Kill what is left of its process group: a launcher that was killed while it started leaves a child behind."""
        if self._process.returncode is None:  # until it is waited for, nobody else has its number
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _filter_file(means: Means) -> int | None:
    """The outer filter as bubblewrap reads it: what denies everything but the making of boxes."""
    machine = architecture()
    if not means.has_seccomp or machine is None:
        return None
    descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
    os.write(descriptor, filter_program(machine, makes_boxes=True))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
