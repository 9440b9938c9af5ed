"""Which of our servers can be reached from elsewhere: Dagster and MLflow have no login, Ray has a token where it is on.

Read from /proc: listening sockets, and the processes of this user that hold them. A cluster
that others join has to be reached by them, so of Ray's processes a token is asked instead.

Belongs here: sockets and who holds them. Does not belong here: starting servers.
"""

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from amr_pipeline.report.findings import Finding, broken, ok, warning

CHECK = "listeners"

OURS = {
    "ray": re.compile(
        r"\bgcs_server\b|\braylet\b|\bray::|\bray/(?:dashboard|autoscaler|_private)/|\bray[./]util[./]client\b"
    ),
    "dagster": re.compile(r"\bdagster(?:-webserver|-daemon|_webserver)?\b"),
    "mlflow": re.compile(r"\bmlflow\b"),
    "vllm": re.compile(r"\bvllm (?:serve|\S*api_server)|vllm\.entrypoints"),
    "amr": re.compile(r"\bamr_pipeline\b|(?:^|/)amr\b"),
}
"""Program of ours by what its command line says; the first that fits names it."""

_LISTENING = "0A"
_CONTAINERS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A server of ours.

    Attributes:
        asks_for_token: whether it was started with Ray's token authentication.
    """

    program: str
    pid: int
    address: str
    port: int
    asks_for_token: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def is_in_container() -> bool:
    """Whether this process runs in a container, where all addresses are its own and what is published counts."""
    return any(Path(sign).exists() for sign in _CONTAINERS)


def check_listeners(*, in_container: bool, proc: Path = Path("/proc")) -> list[Finding]:
    """Find servers of ours that listen beyond loopback.

    Args:
        in_container: as `is_in_container`.
        proc: where processes are described.
    """
    found = list(listeners(proc))
    outside = [one for one in found if not one.is_loopback]
    excused = [one for one in outside if in_container or one.asks_for_token]
    findings = [_exposed(one) for one in outside if one not in excused]
    if excused:
        findings.append(
            warning(
                CHECK,
                f"beyond loopback: {_named(excused)}",
                wanted="only this platform's own machines reach them",
                fix="close these ports to others (firewall, network policy), and publish ports on 127.0.0.1 only",
            )
        )
    return findings or [ok(CHECK, f"{len(found)} of our servers listen here, all on loopback")]


def _exposed(one: Listener) -> Finding:
    is_ray = one.program == "ray"
    fix = "start it with RAY_AUTH_MODE=token" if is_ray else "start it with --host 127.0.0.1, as make dev does"
    return broken(
        CHECK,
        f"{one.program} (process {one.pid}) listens on {one.address} port {one.port} and asks for no login",
        wanted="a token" if is_ray else "loopback: whoever reaches it runs programs as this user",
        fix=f"{fix}, and reach it through ssh -L or kubectl port-forward",
    )


def _named(found: list[Listener]) -> str:
    ports = {one.program: sorted({each.port for each in found if each.program == one.program}) for one in found}
    return "; ".join(f"{name} on {', '.join(map(str, numbers))}" for name, numbers in sorted(ports.items()))


def listeners(proc: Path = Path("/proc")) -> Iterator[Listener]:
    """Listening sockets that processes of ours hold, each once, in the order of their ports."""
    sockets = {inode: place for table in ("tcp", "tcp6") for inode, place in _listening(proc / "net" / table)}
    seen: set[str] = set()
    held = [
        Listener(program=program, pid=pid, address=sockets[inode][0], port=sockets[inode][1], asks_for_token=has_token)
        for pid, program, has_token in _processes(proc)
        for inode in _inodes(proc / str(pid) / "fd")
        if inode in sockets and not (inode in seen or seen.add(inode))
    ]
    yield from sorted(held, key=lambda one: (one.port, one.address))


def _listening(table: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """(inode, (address, port)) of the listening sockets of one table."""
    with suppress(FileNotFoundError):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                address, port = fields[1].split(":")
                yield fields[9], (_address(address), int(port, 16))


def _address(text: str) -> str:
    """The kernel writes addresses as 32-bit words in the machine's byte order."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _processes(proc: Path) -> Iterator[tuple[int, str, bool]]:
    """This user's processes that are programs of ours, and whether Ray's token is on; one that ends is left out."""
    for folder in sorted((path for path in proc.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        with suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            program = next((name for name, pattern in OURS.items() if pattern.search(line)), None)
            if program is not None:
                yield int(folder.name), program, program == "ray" and _asks_for_token(folder)


def _asks_for_token(folder: Path) -> bool:
    """Ray's workers write their title over their own environment, so that of their parent counts as well."""
    status = (folder / "status").read_text()
    parent = next((line.split()[1] for line in status.splitlines() if line.startswith("PPid:")), "0")
    for place in (folder, folder.parent / parent):
        with suppress(OSError):
            if b"RAY_AUTH_MODE=token" in (place / "environ").read_bytes().split(b"\0"):
                return True
    return False


def _inodes(folder: Path) -> Iterator[str]:
    with suppress(OSError):
        for entry in folder.iterdir():
            with suppress(OSError):
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
                if found:
                    yield found[1]
