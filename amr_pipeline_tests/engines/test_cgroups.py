import os
import subprocess
import sys
from pathlib import Path

import pytest

from amr_pipeline.engines import cgroups
from amr_pipeline.engines.cgroups import Cgroups, detect
from amr_pipeline_tests.engines.boxes import wait_for

HERE = detect()
real_groups = pytest.mark.skipif(HERE is None, reason="this process may not make control groups")


@real_groups
def test_a_group_bounds_kills_and_goes():
    assert HERE is not None
    group = HERE.group(64 * 2**20)
    assert all(folder.is_dir() for folder in group.folders)
    entrances = group.open_entrances()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import os, sys, time\nfor fd in sys.argv[1:]: os.write(int(fd), b'0')\ntime.sleep(300)", *map(str, entrances)],
        pass_fds=entrances,
    )  # fmt: skip
    for entrance in entrances:
        os.close(entrance)
    assert wait_for(lambda: group.processes() == {sleeper.pid}, seconds=60)
    assert group.memory_kills() == 0
    group.remove()
    assert sleeper.wait(60) == -9
    assert not any(folder.exists() for folder in group.folders)


@real_groups
def test_more_memory_than_the_group_has_is_counted():
    assert HERE is not None
    group = HERE.group(48 * 2**20)
    entrances = group.open_entrances()
    eater = subprocess.run(
        [sys.executable, "-c", "import os, sys\nfor fd in sys.argv[1:]: os.write(int(fd), b'0')\nbytearray(200 * 2**20)[::4096]", *map(str, entrances)],
        pass_fds=entrances, check=False,
    )  # fmt: skip
    for entrance in entrances:
        os.close(entrance)
    assert eater.returncode == -9
    assert group.memory_kills() >= 1
    group.remove()


def test_empty_groups_of_the_dead_are_swept(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"{cgroups._prefix()}{dead.pid}-0", f"{cgroups._prefix()}{os.getpid()}-0", "of-somebody-else"]
    for name in names:
        (tmp_path / name).mkdir()
    Cgroups(2, tmp_path, tmp_path).sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def unified(root: Path, *, switched_on: str) -> None:
    """A folder that looks like a cgroup v2 mount."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "cgroup.controllers").write_text("cpu memory pids")
    (root / "cgroup.subtree_control").write_text(switched_on)


def test_version_two_is_found_in_the_own_group_or_above(tmp_path: Path):
    unified(tmp_path, switched_on="memory pids")
    own = tmp_path / "pod" / "judge"
    unified(own.parent, switched_on="memory pids")
    unified(own, switched_on="")
    mounts = f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
    found = list(cgroups._candidates(mounts, "0::/pod/judge\n"))
    # Writing to a plain file leaves what was written: `+memory +pids` is not what a kernel would show.
    assert found == [Cgroups(2, own.parent, own.parent)]


def test_version_two_without_controllers_is_none(tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("hugetlb")
    assert list(cgroups._candidates(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n", "0::/\n")) == []


def test_version_one_needs_both_controllers(tmp_path: Path):
    lines = "".join(f"cgroup {tmp_path}/{name} cgroup rw,{name} 0 0\n" for name in ("memory", "pids"))
    for name in ("memory/own", "pids"):
        (tmp_path / name).mkdir(parents=True)
    own = "4:memory:/own\n8:pids:/\n"
    first = next(iter(cgroups._candidates(lines, own)))
    assert first == Cgroups(1, tmp_path / "memory" / "own", tmp_path / "pids")
    assert list(cgroups._candidates(lines.splitlines()[0], own)) == []


def test_limits_are_written_in_each_versions_files(tmp_path: Path):
    group = Cgroups(2, tmp_path, tmp_path).group(1000)
    assert {path.name: path.read_text() for path in group.memory.iterdir()} == {
        "memory.max": "1000", "memory.swap.max": "0", "pids.max": str(cgroups.PROCESSES),
    }  # fmt: skip


def test_nowhere_to_make_groups_is_none(tmp_path: Path):
    assert detect(mounts="", own_groups="0::/\n") is None
    assert (
        detect(mounts=f"cgroup {tmp_path}/gone cgroup rw,memory,pids 0 0\n", own_groups="1:memory:/\n2:pids:/\n")
        is None
    )
