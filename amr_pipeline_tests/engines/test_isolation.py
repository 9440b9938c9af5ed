import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from amr_pipeline.engines import isolation
from amr_pipeline.engines.code_sandbox import CodeSandbox, breach_of
from amr_pipeline.engines.isolation import BoxFailureError, Means, Nursery, bubblewrap, candidates
from amr_pipeline.studies.study import Isolation
from amr_pipeline_tests.engines.boxes import run, ways


def test_candidates_come_strongest_first():
    order = [means.isolation for means in candidates()]
    assert order == sorted(order, key=list(Isolation).index, reverse=True)


def test_without_bubblewrap_landlock_stands_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert [means.isolation for means in candidates()] == [Isolation.LANDLOCK_SECCOMP]
    monkeypatch.setattr(isolation, "architecture", lambda: None)
    assert list(candidates()) == []


@pytest.fixture
def unlimited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not count user namespaces, as far as anybody asks."""
    monkeypatch.setattr(isolation, "_LIMIT_OF_USER_NAMESPACES", tmp_path / "max_user_namespaces")


USER_NAMESPACES = """
import ctypes, os, platform, signal, struct
def f():
    kernel, said = ctypes.CDLL(None, use_errno=True).syscall, []
    clone, unshare = {"x86_64": (56, 272), "aarch64": (220, 97)}[platform.machine()]
    user, nothing = 0x10000000, [ctypes.c_long(0)] * 4
    whole = struct.pack("8Q", user, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    asked = [(unshare, ctypes.c_long(user)), (clone, ctypes.c_long(user | signal.SIGCHLD), *nothing)]
    asked.append((435, whole, ctypes.c_size_t(len(whole))))
    for number, *arguments in asked:
        result = kernel(ctypes.c_long(number), *arguments)
        if result == 0 and number != unshare:
            os._exit(0)
        said.append(ctypes.get_errno() if result < 0 else 0)
    return said
"""
"""Errors of the three ways into a user namespace, 0 where one led into it."""


@pytest.mark.skipif(not any(one.has_seccomp and one.has_namespaces for one in ways().values()), reason="no bubblewrap")
def test_where_the_kernel_counts_no_user_namespaces_seccomp_denies_them_and_verdicts_say_so(unlimited: None):
    found = [means for means in candidates() if means.has_namespaces]
    assert found
    assert all(means.has_seccomp for means in found), "nothing but a filter would deny them"
    for means in found:
        assert breach_of(means) is None
        with closing(CodeSandbox(slots=1, means=means)) as boxes:
            result = run(USER_NAMESPACES, "[]", by=boxes)
        assert result.answers == (json.dumps([errno.EPERM, errno.EPERM, errno.ENOSYS]),)
        assert result.strength == f"{means.isolation}, user namespaces denied by seccomp alone"
        nursery = Nursery(means)
        try:
            assert "--disable-userns" not in psutil.Process(nursery._process.pid).cmdline()
        finally:
            nursery.close()


@pytest.mark.skipif(not any(one.has_namespaces for one in ways().values()), reason="no bubblewrap")
def test_without_the_kernels_limit_and_without_a_filter_the_self_test_finds_every_way_into_a_user_namespace():
    unfiltered = Means(Isolation.BUBBLEWRAP_RLIMITS, None, limits_user_namespaces=False)
    breach = breach_of(unfiltered) or ""
    assert breach.count("forks into namespaces") == 2
    assert "makes namespaces" in breach


def test_a_kernel_that_counts_user_namespaces_is_made_to_and_verdicts_say_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "max_user_namespaces").write_text("100")
    monkeypatch.setattr(isolation, "_LIMIT_OF_USER_NAMESPACES", tmp_path / "max_user_namespaces")
    for means in candidates():
        assert means.limits_user_namespaces
        assert str(means) == means.isolation


def test_folders_of_the_dead_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"amr-box-{dead.pid}-x", f"amr-box-{os.getpid()}-x", "amr-boxes"):
        (tmp_path / name).mkdir()
    isolation.sweep_folders()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"amr-box-{os.getpid()}-x", "amr-boxes"]


def test_the_outer_box_shows_the_system_and_nothing_else():
    line = bubblewrap(7)
    shown = [line[at + 1] for at, word in enumerate(line) if word in {"--ro-bind", "--bind"}]
    assert shown == ["/usr"]
    assert {
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--as-pid-1",
        "--clearenv",
        "--die-with-parent",
    } <= set(line)
    assert set(line) - set(bubblewrap(7, limits_user_namespaces=False)) == {"--disable-userns"}
    assert line[-2:] == ["--seccomp", "7"]
    assert [line[at + 1] for at, word in enumerate(line) if word == "--cap-add"] == ["CAP_SYS_ADMIN"]


def test_a_nursery_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        isolation, "bubblewrap", lambda descriptor, **_: ["sh", "-c", "echo no rights >&2; exit 1", "sh"]
    )
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BoxFailureError, match="no rights"):
        Nursery(Means(Isolation.BUBBLEWRAP_RLIMITS, None))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_launcher_that_is_killed_while_it_starts_is_noticed_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    waits = ["sleep", str(10_000 + os.getpid())]
    killed = ["sh", "-c", f"{' '.join(waits)} & kill -KILL $$", "sh"]  # its child holds the control socket open
    monkeypatch.setattr(isolation, "bubblewrap", lambda descriptor, **_: killed)
    monkeypatch.setattr(isolation, "START_SECONDS", 3600.0)
    with pytest.raises(BoxFailureError, match="the nursery ended"):
        Nursery(Means(Isolation.BUBBLEWRAP_RLIMITS, None))
    deadline = time.monotonic() + 60
    while any(process.info["cmdline"] == waits for process in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline, "its child outlived it"
        time.sleep(0.05)


def test_what_left_the_group_of_a_killed_launcher_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    waits = ["sleep", str(20_000 + os.getpid())]  # it holds the pipe of complaints open
    killed = ["sh", "-c", f"echo so much >&2; setsid {' '.join(waits)} & sleep 0.5; kill -KILL $$", "sh"]
    monkeypatch.setattr(isolation, "bubblewrap", lambda descriptor, **_: killed)
    with pytest.raises(BoxFailureError, match="so much"):
        Nursery(Means(Isolation.BUBBLEWRAP_RLIMITS, None))
    left = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == waits]
    assert left, "nothing outlived it"
    for process in left:
        process.kill()


@pytest.mark.skipif(not ways(), reason="no way to make boxes works on this machine")
@pytest.mark.parametrize("name", list(ways()))
def test_what_a_launcher_starts_stays_in_its_group(name: str):
    nursery = Nursery(ways()[name])
    try:
        launcher = psutil.Process(nursery._process.pid)
        family = [launcher, *launcher.children(recursive=True)]
        assert {os.getpgid(one.pid) for one in family} == {launcher.pid}
    finally:
        nursery.close()


@pytest.mark.skipif(not ways(), reason="no way to make boxes works on this machine")
@pytest.mark.parametrize("name", list(ways()))
def test_a_nursery_has_no_environment_no_rights_and_a_user_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AMR_CANARY", "hunter2")
    nurseries = [Nursery(ways()[name]) for _ in range(2)]
    try:
        users = set()
        for nursery in nurseries:
            tree = [psutil.Process(nursery._process.pid)]
            tree += tree[0].children(recursive=True)
            assert not any("AMR_CANARY" in process.environ() for process in tree)
            users.update(process.uids().real for process in tree)
        if os.getuid() == 0:
            assert 0 not in users
            assert len(users) == 2
    finally:
        for nursery in nurseries:
            nursery.close()
    assert not psutil.pid_exists(nurseries[0]._process.pid)


@pytest.mark.skipif(not ways(), reason="no way to make boxes works on this machine")
def test_a_nursery_and_its_boxes_end_with_the_control_socket():
    nursery = Nursery(next(iter(ways().values())))
    tree = psutil.Process(nursery._process.pid).children(recursive=True)
    nursery.close()
    deadline = time.monotonic() + 60
    while any(process.is_running() for process in tree) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(process.is_running() for process in tree)


@pytest.mark.skipif(not ways(), reason="no way to make boxes works on this machine")
@pytest.mark.parametrize("name", list(ways()))
def test_a_program_has_the_standard_library_and_its_own_folder(name: str):
    source = "import typing, decimal, json, tempfile, os\ndef f(x):\n with tempfile.NamedTemporaryFile('w+') as file:\n  file.write(x); file.seek(0)\n  return [file.read(), os.environ.get('AMR_CANARY'), os.path.exists('/home')]"
    expected = '["ab", null, false]' if ways()[name].has_namespaces else None
    answer = run(source, '["ab"]', isolation=name).answers[0]
    assert answer == expected if expected else (answer or "").startswith('["ab", null')
