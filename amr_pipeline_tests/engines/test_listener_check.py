"""Servers of ours that others can reach are found, whichever way the kernel writes their address."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from amr_pipeline.engines.listener_check import Listener, check_listeners, listeners
from amr_pipeline.report.findings import Finding

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LOOPBACK, ANYWHERE, ONE_ADDRESS = "0100007F", "00000000", "020200C0"
ANYWHERE_6, LOOPBACK_6, MAPPED = "0" * 32, "0" * 24 + "01000000", "0" * 16 + "FFFF0000" + "0100007F"


class Machine:
    """A folder that looks like /proc."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "net").mkdir(parents=True)
        (folder / "net" / "tcp").write_text(HEADER)
        (folder / "net" / "tcp6").write_text(HEADER)
        self.inode = 100

    def run(
        self, pid: int, command: str, address: str, port: int, *, parent: int = 1, environ: str = "", state: str = "0A"
    ) -> None:
        self.inode += 1
        table = self.folder / "net" / ("tcp" if len(address) == 8 else "tcp6")
        with table.open("a") as file:
            file.write(
                f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0 0 {self.inode} 1\n"
            )
        process = self.folder / str(pid)
        (process / "fd").mkdir(parents=True, exist_ok=True)
        (process / "cmdline").write_bytes(command.replace(" ", "\0").encode())
        (process / "environ").write_bytes(environ.replace(" ", "\0").encode())
        (process / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
        (process / "fd" / str(self.inode)).symlink_to(f"socket:[{self.inode}]")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "proc")


def looked(machine: Machine, *, in_container: bool = False) -> list[Finding]:
    return check_listeners(in_container=in_container, proc=machine.folder)


@pytest.mark.parametrize(
    ("address", "shown"),
    [(ANYWHERE, "0.0.0.0"), (ONE_ADDRESS, "192.0.2.2"), (ANYWHERE_6, "::")],
)
@pytest.mark.parametrize(
    "command",
    ["python /venv/bin/dagster-webserver -h x", "python -m dagster dev", "mlflow server --port 5000", "vllm serve m"],
)
def test_a_server_beyond_loopback_is_broken_until_it_is_on_loopback(
    machine: Machine, tmp_path: Path, address: str, shown: str, command: str
):
    machine.run(7, command, address, 3000)
    (found,) = looked(machine)
    assert (found.level, f"listens on {shown} port 3000" in found.found) == ("broken", True)
    assert "--host 127.0.0.1" in found.fix
    fixed = Machine(tmp_path / "fixed")
    fixed.run(7, command, LOOPBACK, 3000)
    assert [one.level for one in looked(fixed)] == ["ok"]


def test_loopback_is_loopback_however_it_is_written(machine: Machine):
    for pid, address in enumerate((LOOPBACK, LOOPBACK_6, MAPPED, "0200007F"), start=2):
        machine.run(pid, "mlflow server", address, 5000 + pid)
    assert [one.is_loopback for one in listeners(machine.folder)] == [True] * 4
    assert [one.level for one in looked(machine)] == ["ok"]


def test_ray_without_a_token_is_broken_and_with_one_a_warning(machine: Machine):
    machine.run(7, "/x/ray/core/src/ray/gcs/gcs_server --log_dir=x", ANYWHERE_6, 6379)
    (found,) = looked(machine)
    assert (found.level, "RAY_AUTH_MODE=token" in found.fix) == ("broken", True)
    machine.run(
        7, "/x/ray/core/src/ray/gcs/gcs_server --log_dir=x", ANYWHERE_6, 6380, environ="A=1 RAY_AUTH_MODE=token"
    )
    machine.run(8, "ray::IDLE", ANYWHERE_6, 7000, parent=7)
    (found,) = looked(machine)
    assert (found.level, found.found) == ("warning", "beyond loopback: ray on 6379, 6380, 7000")


def test_in_a_container_what_is_published_counts(machine: Machine):
    machine.run(7, "mlflow server", ANYWHERE, 5000)
    (found,) = looked(machine, in_container=True)
    assert (found.level, "127.0.0.1 only" in found.fix) == ("warning", True)


def test_others_programs_and_connections_are_none_of_ours(machine: Machine):
    machine.run(7, "nginx -g x", ANYWHERE, 80)
    machine.run(8, "mlflow server", ANYWHERE, 5001, state="01")
    assert list(listeners(machine.folder)) == []


def test_a_real_listener_of_this_machine_is_seen():
    """On loopback; the program is ours by its command line."""
    code = "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "mlflow"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        mine = [one for one in listeners() if one.port == port]
        assert mine == [Listener(program="mlflow", pid=process.pid, address="127.0.0.1", port=port)]
    finally:
        process.communicate("")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert os.getpid() not in {one.pid for one in listeners() if one.port == listener.getsockname()[1]}
