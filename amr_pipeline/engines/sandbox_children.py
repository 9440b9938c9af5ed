"""Hostile children of a box's first process: forked, limited, watched and ended with all they started.

Loaded inside boxes as text, so it imports the standard library only.
"""

import os
import resource
import select
import signal
import time
from collections.abc import Callable

Limits = dict[str, float]
"""cpu_seconds, wall_seconds; memory_bytes and processes, 0 where a control group holds them."""

LOOK_SECONDS = 0.5
"""How often the CPU time of a child's processes is added up."""

ANSWER_FD = 3
"""The box's answers; no child keeps it."""

_confine: list[Callable[[], None]] = []
"""What a hostile child does to itself first; set by `serve`."""

_running: set[int] = set()
"""Process groups of hostile children."""

_owns_every_process = False
"""Whether this is the first process of a PID namespace."""


class AnswerTooLarge(Exception):
    """The answer exceeds its cap."""


def limit(limits: Limits) -> None:
    """Limits of one hostile process: CPU, file size, no core; memory and processes where no group holds them."""
    seconds, memory = max(1, int(limits["cpu_seconds"] + 0.999)), int(limits["memory_bytes"])
    wanted = [
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_STACK, 2**26, 2**26),
        (resource.RLIMIT_FSIZE, 2**26, 2**26),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ]
    if memory:
        wanted.append((resource.RLIMIT_AS, memory, memory))
    if limits["processes"]:
        wanted.append((resource.RLIMIT_NPROC, int(limits["processes"]), int(limits["processes"])))
    for kind, soft, hard in wanted:
        resource.setrlimit(kind, (soft, hard))


def start_child(body: Callable[[int], None], limits: Limits) -> tuple[int, int]:
    """Fork a hostile child that runs `body(answers)`; (its pid, where to read)."""
    from_child, answers = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            os.close(from_child)
            os.close(ANSWER_FD)
            nothing = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            limit(limits)
            _confine[0]()
            body(answers)
            status = 0
        except MemoryError:
            status = 3
        except AnswerTooLarge:
            status = 4
        except BaseException:  # noqa: BLE001 (the boundary: whatever hostile code raises is its answer to this test)
            status = 1
        finally:
            os._exit(status)
    _running.add(child)
    os.close(answers)
    return child, from_child


def kill(how: Callable[[int, int], None], whom: int) -> None:
    """Send SIGKILL to whoever may still be there."""
    try:
        how(whom, signal.SIGKILL)
    except ProcessLookupError:
        pass


def end_child(child: int) -> tuple[int, float]:
    """Kill a child and all it started; (wait status, CPU seconds that all of them used)."""
    before = cpu_of_the_dead()
    kill(os.killpg, child)
    kill(os.kill, child)
    status = os.waitpid(child, 0)[1]
    _running.discard(child)
    kill(os.killpg, child)  # what it had started may outlive it
    if _owns_every_process:
        kill(os.kill, -1)
    try:
        while os.waitpid(-1, 0 if _owns_every_process else os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    return status, cpu_of_the_dead() - before


def cpu_of_the_dead() -> float:
    """CPU seconds of every process that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_of_the_living(child: int) -> float:
    """CPU seconds of a child and of all it started, and of those of them that were waited for."""
    ticks = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if _owns_every_process or int(fields[2]) == child:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Allowance:
    """What is left of a child's limits: CPU time of all its processes together, and wall time."""

    def __init__(self, child: int, limits: Limits) -> None:
        self._child, self._limits, self._before = child, limits, cpu_of_the_dead()
        self._deadline = time.monotonic() + limits["wall_seconds"]

    def wait(self, watched: list[int]) -> list[int]:
        """Descriptors that are ready; none when it is time to look at what was used."""
        left = self._deadline - time.monotonic()
        return select.select(watched, [], [], max(0.0, min(LOOK_SECONDS, left)))[0]

    def exceeded(self) -> str | None:
        """Name of a limit that is reached.

        With little CPU used by the wall deadline, the machine was busy or the program waits; it is not known which.
        """
        used = cpu_of_the_living(self._child) + cpu_of_the_dead() - self._before
        # One second beyond: a single process is stopped by the kernel, exactly at its limit.
        if used > self._limits["cpu_seconds"] + 1:
            return "time_limit"
        return "wall_limit" if time.monotonic() > self._deadline else None


def in_child(body: Callable[[int], None], limits: Limits, longest: int) -> tuple[bytes, str | None]:
    """Run `body(answers)` in a forked child; (bytes it wrote, failure or None)."""
    child, from_child = start_child(body, limits)
    try:
        return collect(from_child, child, limits, longest)
    finally:
        os.close(from_child)


def collect(reader: int, child: int, limits: Limits, longest: int) -> tuple[bytes, str | None]:
    """What the child writes until it ends, reaches a limit or writes too much."""
    got, allowance, ended = b"", Allowance(child, limits), os.pidfd_open(child)
    watched = [reader, ended]
    try:
        while True:
            ready = allowance.wait(watched)
            if reader in ready:
                part = os.read(reader, 65536)
                got += part
                if not part:
                    watched.remove(reader)
                if len(got) > longest:
                    end_child(child)
                    return b"", "output_limit"
            elif ready:
                return got, failure_of(*end_child(child), limits)
            elif failure := allowance.exceeded():
                end_child(child)
                return got, failure
    finally:
        os.close(ended)


def failure_of(status: int, cpu_seconds: float, limits: Limits) -> str | None:
    """Name of how a child ended, None when well."""
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == signal.SIGXCPU or cpu_seconds >= limits["cpu_seconds"]:
            return "time_limit"
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else "crashed"
    return {0: None, 3: "memory_limit", 4: "output_limit"}.get(os.WEXITSTATUS(status), "exception")


def end_groups(_number: int, _frame: object) -> None:
    """SIGTERM: end every hostile child and go."""
    for group in _running:
        kill(os.killpg, group)
    os._exit(0)


def prepare(confine: Callable[[], None], *, owns_every_process: bool) -> None:
    """Say how children are confined, and whether this is the first process of a PID namespace."""
    global _owns_every_process
    _confine[:], _owns_every_process = [confine], owns_every_process
    signal.signal(signal.SIGTERM, end_groups)
