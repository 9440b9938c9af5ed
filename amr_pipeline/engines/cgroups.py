"""Memory and process limits of one box: a control group of its own, on cgroup v2 or v1, gone when the box is gone.

RLIMIT_AS is per process and RLIMIT_NPROC per user; only a control group bounds what a program and all its children take
together. Where this process may not make groups, `detect` says None and boxes do with rlimits.
"""

import itertools
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROCESSES = 96
"""Processes and threads in a box."""

SECONDS_TO_EMPTY = 10.0
"""Longest wait for killed processes to leave a group."""

ATTEMPTS = 3
"""Groups tried in one place before it counts as one where none can be made."""

_numbers = itertools.count()


def _prefix() -> str:
    """Start of this PID namespace's group names: elsewhere the same number is another process."""
    return f"amr-box-{Path('/proc/self/ns/pid').stat().st_ino}-"


@dataclass(frozen=True)
class Cgroups:
    """Where groups may be made: the memory and pids folders on v1, the same folder twice on v2."""

    version: int
    memory: Path
    pids: Path

    def group(self, memory_bytes: int) -> "BoxGroup":
        """A new group with its limits set.

        Raises:
            OSError: it could not be made.
        """
        name = f"{_prefix()}{os.getpid()}-{next(_numbers)}"
        group = BoxGroup(self.version, self.memory / name, self.pids / name)
        try:
            for folder in group.folders:
                folder.mkdir()
            _write_limits(group, memory_bytes)
        except OSError:
            group.remove()
            raise
        return group

    def sweep(self) -> None:
        """Remove empty groups of processes that ended without doing so."""
        for parent in {self.memory, self.pids}:
            for folder in parent.glob(f"{_prefix()}*"):
                owner = folder.name.removeprefix(_prefix()).partition("-")[0]
                if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                    with suppress(OSError):
                        folder.rmdir()


@dataclass(frozen=True)
class BoxGroup:
    """The group of one box."""

    version: int
    memory: Path
    pids: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        """Each folder once."""
        return tuple(dict.fromkeys((self.memory, self.pids)))

    def open_entrances(self) -> list[int]:
        """Descriptors; a process that writes `0` to each is in the group, by the opener's rights."""
        opened: list[int] = []
        try:
            opened.extend(os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in self.folders)
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return opened

    def memory_kills(self) -> int:
        """How many processes the kernel killed because the group was full."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        try:
            lines = dict(line.split() for line in (self.memory / name).read_text().splitlines())
        except (OSError, ValueError):
            return 0
        return int(lines.get("oom_kill", 0))

    def processes(self) -> set[int]:
        """Processes in the group."""
        found: set[int] = set()
        for folder in self.folders:
            with suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return found

    def kill(self) -> None:
        """Kill everything in the group: at once where the kernel can, else until nothing is left."""
        for folder in self.folders:
            with suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
        for pid in self.processes():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, 9)

    def remove(self) -> None:
        """Kill what is left and remove the folders.

        Raises:
            OSError: something could not be killed within `SECONDS_TO_EMPTY`.
        """
        deadline = time.monotonic() + SECONDS_TO_EMPTY
        for folder in self.folders:
            while True:
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    self.kill()
                    time.sleep(0.002)


def _write_limits(group: BoxGroup, memory_bytes: int) -> None:
    if group.version == 2:
        (group.memory / "memory.max").write_text(str(memory_bytes))
        with suppress(OSError):  # absent without swap
            (group.memory / "memory.swap.max").write_text("0")
    else:
        (group.memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
        with suppress(OSError):  # absent without accounting of swap
            (group.memory / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
    (group.pids / "pids.max").write_text(str(PROCESSES))


def detect(mounts: str | None = None, own_groups: str | None = None) -> Cgroups | None:
    """Where this process may make groups that bound memory and processes, tried out; None where nowhere.

    Args:
        mounts: text of `/proc/self/mounts`; given by tests.
        own_groups: text of `/proc/self/cgroup`; given by tests.
    """
    try:
        mounted = Path("/proc/self/mounts").read_text() if mounts is None else mounts
        own = Path("/proc/self/cgroup").read_text() if own_groups is None else own_groups
    except OSError:
        return None
    for candidate in _candidates(mounted, own):
        for _ in range(ATTEMPTS):
            try:
                candidate.sweep()
                candidate.group(64 * 2**20).remove()
            except (PermissionError, FileNotFoundError):
                break
            except OSError:  # a busy kernel, or a name that a killed process left: the next attempt has another
                continue
            return candidate
    return None


def _candidates(mounts: str, own_groups: str) -> Iterable[Cgroups]:
    """Places worth trying: v2 inside the own group and beside it, then v1 in the same order."""
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2].strip("/") for line in own_groups.splitlines() if line}
    unified: list[Path] = []
    by_controller: dict[str, Path] = {}
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "cgroup2":
            unified.append(Path(fields[1]))
        elif len(fields) > 3 and fields[2] == "cgroup":
            by_controller.update({option: Path(fields[1]) for option in fields[3].split(",")})
    for mount in unified:
        for parent in _own_and_above(mount, paths.get("", "")):
            if _has_controllers(parent):
                yield Cgroups(2, parent, parent)
    if "memory" in by_controller and "pids" in by_controller:
        memory = _own_and_above(by_controller["memory"], paths.get("memory", ""))
        pids = _own_and_above(by_controller["pids"], paths.get("pids", ""))
        yield from (Cgroups(1, one, other) for one, other in zip(memory, pids, strict=True))


def _own_and_above(mount: Path, own: str) -> list[Path]:
    """The own group's folder where it is visible, then the one above it."""
    inside = mount / own
    folder = inside if inside.is_dir() else mount
    return [folder, folder.parent if folder != mount else mount]


def _has_controllers(parent: Path) -> bool:
    """Whether groups made in `parent` get memory and pids limits, switching these on where that is possible."""
    wanted = {"memory", "pids"}
    try:
        if not wanted <= set((parent / "cgroup.controllers").read_text().split()):
            return False
        switched_on = parent / "cgroup.subtree_control"
        if not wanted <= set(switched_on.read_text().split()):
            switched_on.write_text("+memory +pids")  # refused while the group itself holds processes
        return wanted <= set(switched_on.read_text().split())
    except OSError:
        return False
