"""Whether this machine has what a study needs of it: room, a sandbox that holds, a C++ compiler.

Belongs here: the machine itself. Does not belong here: services on it or elsewhere (the other checks).
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from amr_pipeline.engines import code_sandbox, compiled_programs
from amr_pipeline.report.findings import Finding, broken, ok, warning
from amr_pipeline.studies.study import Isolation

GIBIBYTE = 2**30

ENGINE_BYTES = 2 * GIBIBYTE
"""What one engine takes beside its weights: measured at 2 GB for the smallest models on CPU."""

DISK_LOW, DISK_NEEDED = 5 * GIBIBYTE, GIBIBYTE
"""Free space below which a deployment is warned, and below which its next commits may fail."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What models and tables have.

    Attributes:
        memory: bytes that are free for processes, or the least control group's rest; where runs have machines of their
            own, what such a run has.
        disk: bytes that are free.
        of_runs: whether `memory` is that of runs elsewhere.
    """

    memory: int
    disk: int
    of_runs: bool = False


def room_at(folder: Path, run_memory: int | None = None) -> Room:
    """What is free here, and on the disk of the first folder of a path that exists.

    Args:
        folder: the deployment's home.
        run_memory: bytes that a run has elsewhere; None: runs are processes of this machine.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    memory = _free_memory() if run_memory is None else run_memory
    return Room(memory=memory, disk=shutil.disk_usage(there).free, of_runs=run_memory is not None)


def check_room(folder: Path, room: Room, *, max_engines: int, weights: Iterable[int]) -> list[Finding]:
    """Compare room with what `max_engines` models take together.

    Args:
        folder: the deployment's home.
        room: what there is.
        max_engines: `AMR_MAX_ENGINES`.
        weights: bytes of every model that the study loads here; empty where it loads none.
    """
    return [_disk(folder, room.disk), _memory(room, max_engines, sorted(weights, reverse=True))]


def _disk(folder: Path, free: int) -> Finding:
    said = f"{free / GIBIBYTE:.1f} GiB free at {folder}"
    if free >= DISK_LOW:
        return ok("disk", said)
    wanted = f"{DISK_LOW // GIBIBYTE} GiB or more; tables, checkpoints and logs grow there"
    severity = broken if free < DISK_NEEDED else warning
    return severity(
        "disk", said, wanted=wanted, fix="make room (amr collect-garbage), or set AMR_HOME and AMR_STORAGE elsewhere"
    )


def _memory(room: Room, max_engines: int, weights: list[int]) -> Finding:
    free = room.memory
    said = f"{free / GIBIBYTE:.1f} GiB {'in a run' if room.of_runs else 'free'}"
    if not weights:
        return ok("memory", f"{said}; the study loads no model {'there' if room.of_runs else 'here'}")
    sizes = [ENGINE_BYTES + each for each in weights[:max_engines]]
    if sum(sizes) <= free:
        return ok("memory", f"{said} for {len(sizes)} models at a time")
    fitting = next((number for number in range(len(sizes) - 1, 0, -1) if sum(sizes[:number]) <= free), 0)
    wanted = f"{sum(sizes) / GIBIBYTE:.1f} GiB for AMR_MAX_ENGINES={max_engines}"
    if fitting:
        return warning("memory", said, wanted=wanted, fix=f"AMR_MAX_ENGINES={fitting}")
    first = "give runs more memory" if room.of_runs else "free memory"
    fix = f"{first}, or let models run elsewhere: AMR_RAY_ADDRESS, engine='http'"
    return broken("memory", said, wanted=wanted, fix=fix)


def _free_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    table = dict(line.split(":") for line in lines)
    free = [int(table["MemAvailable"].split()[0]) * 1024]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit).exists() and Path(used).exists() and (most := Path(limit).read_text().strip()).isdigit():
            free.append(int(most) - int(Path(used).read_text()))
    return max(0, min(free))


# --------------------------------------------------------------------------------------------------------- programs


def check_sandbox(weakest: Isolation | None) -> list[Finding]:
    """Try out what isolates programs here, and find the C++ compiler.

    Args:
        weakest: what the study's `CodeVerifier` asks for at least; None where it judges no programs.
    """
    means, why = code_sandbox.established()
    if means is None:
        severity = broken if weakest is not None else warning
        return [
            severity(
                "sandbox",
                f"nothing isolates programs here: {why}",
                wanted="bubblewrap, or landlock and seccomp; without them code verdicts stay undecided",
                fix="apt-get install bubblewrap, and allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)",
            ),
            _compiler(weakest),
        ]
    if weakest is not None and not means.isolation.suffices(weakest):
        finding = broken(
            "sandbox",
            f"programs are isolated by {means} ({why or 'nothing stronger is here'})",
            wanted=f"{weakest} or stronger: weakest_isolation of the study's CodeVerifier row",
            fix="apt-get install bubblewrap and allow user namespaces, or accept less in the row",
        )
    elif not means.has_namespaces:
        finding = warning(
            "sandbox",
            f"programs are isolated by {means} only ({why or 'bubblewrap is missing'})",
            wanted="bubblewrap and user namespaces, which also bound what a program writes",
            fix="apt-get install bubblewrap",
        )
    else:
        finding = ok("sandbox", f"programs are isolated by {means}")
    return [finding, _compiler(weakest)]


def _compiler(weakest: Isolation | None) -> Finding:
    found = compiled_programs.compiler_version()
    if found is not None:
        return ok("compiler", f"{compiled_programs.COMPILER} {found.splitlines()[0]}")
    if weakest is None:
        return ok("compiler", "none, and the study judges no programs")
    return warning(
        "compiler",
        f"there is no {compiled_programs.COMPILER}",
        wanted="g++; without it programs in C++ stay undecided",
        fix="apt-get install g++",
    )
