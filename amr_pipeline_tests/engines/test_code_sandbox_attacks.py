"""Hostile programs against every way to make boxes, each attack measured from outside the box.

Does not belong here: what honest programs get (`test_code_sandbox`).
"""

import os
import socket
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

from amr_pipeline.engines import cgroups, sandbox_boxes
from amr_pipeline.engines.code_sandbox import CodeSandbox
from amr_pipeline_tests.engines.boxes import (
    boxed_processes,
    descendants,
    groups_left,
    run,
    verdict,
    wait_for,
    watched,
    ways,
)

WAYS = list(ways())
pytestmark = pytest.mark.skipif(not WAYS, reason="no way to make boxes works on this machine")
every_way = pytest.mark.parametrize("isolation", WAYS)
with_namespaces = pytest.mark.parametrize("isolation", [name for name in WAYS if ways()[name].has_namespaces])
with_filter = pytest.mark.parametrize("isolation", [name for name in WAYS if ways()[name].has_seccomp])
with_groups = pytest.mark.parametrize("isolation", [name for name in WAYS if ways()[name].groups is not None])


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch):
    """A program that waits is let go after 20 seconds, however busy the machine."""
    usual = sandbox_boxes.limits_of
    monkeypatch.setattr(sandbox_boxes, "limits_of", lambda run: {**usual(run), "wall_seconds": 20.0})


def attempts(*lines: str, imports: str = "import os, ctypes") -> str:
    """A program whose answer is the list of attempts that did not raise or return a negative number."""
    body = "\n".join(f"  try({line!r}, lambda: {line})" for line in lines)
    return (
        f"{imports}\nlibc = ctypes.CDLL(None)\ndef f(x):\n  done = []\n  def try_(name, act):\n    try:\n      got = act()\n"
        "      if not (type(got) is int and got < 0): done.append(name)\n    except BaseException: pass\n"
        f"{body.replace('try(', 'try_(')}\n  return done"
    )


# ----------------------------------------------------------------------------------------- taking what there is to take


@with_groups
def test_a_fork_bomb_stays_within_its_processes(isolation: str):
    with watched() as peak:
        result = run(
            "import os\ndef f(x):\n while True:\n  try: os.fork()\n  except OSError: pass",
            "[1]",
            "[2]",
            isolation=isolation,
        )
    assert result.cause is None
    assert set(result.failures) <= {"time_limit", "memory_limit", "crashed"}
    assert 20 < peak.processes <= cgroups.PROCESSES + 6  # and a nursery that starts meanwhile
    assert wait_for(lambda: groups_left() == [])


@with_namespaces
def test_a_fork_bomb_ends_with_its_box(isolation: str):
    before = boxed_processes()
    assert (
        run(
            "import os\ndef f(x):\n while True:\n  try: os.fork()\n  except OSError: pass", "[1]", isolation=isolation
        ).cause
        is None
    )
    assert wait_for(lambda: len(boxed_processes() - before) <= 2)  # the other slot's nursery may have started meanwhile


@with_groups
def test_several_processes_share_one_memory_limit(isolation: str):
    bomb = "import os\ndef f(x):\n for _ in range(7):\n  if os.fork() == 0: break\n held = bytearray(200 * 2**20)\n while True: held[::4096] = held[::4096]"
    with watched() as peak:
        result = run(bomb, "[1]", isolation=isolation, memory_mebibytes=96)
    assert result.answers == (None,)
    assert 40 < peak.mebibytes < 96 + 64 + 60  # the limit, room beside it, and a nursery that starts meanwhile


@every_way
def test_one_process_has_a_memory_limit(isolation: str):
    result = run(
        "def f(x):\n held = bytearray(x)\n held[::4096] = held[::4096]\n return len(held)",
        "[900000000]",
        "[1000]",
        isolation=isolation,
        memory_mebibytes=128,
    )
    assert result.failures[0] == "memory_limit"
    assert result.answers[1] == "1000"


@every_way
@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import signal\n for s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\n while True: pass",
    ],
)
def test_an_endless_loop_meets_its_cpu_limit(isolation: str, body: str):
    assert run(f"def f(x):\n {body}", "[1]", isolation=isolation).failures == ("time_limit",)


@every_way
def test_endless_output_is_cut(isolation: str):
    before = psutil.Process().memory_info().rss
    assert run("while True: print('x' * 10000)", inputs=("",), isolation=isolation).failures == ("output_limit",)
    assert run("def f(x): return 'x' * 10**6", "[1]", isolation=isolation).failures == ("output_limit",)
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


@every_way
def test_descriptors_run_out_for_the_program_alone(isolation: str):
    opened = "import os\ndef f(x):\n n = 0\n try:\n  while True: os.dup(1); n += 1\n except OSError: return n"
    (answer,) = run(opened, "[1]", isolation=isolation).answers
    assert 0 < int(answer or 0) <= 64


@with_namespaces
def test_files_fill_the_box_and_not_the_machine(isolation: str):
    name = f"amr-filled-{os.getpid()}"
    fill = f"def f(place):\n written = 0\n for i in range(12):\n  try:\n   with open(place + '/{name}-' + str(i), 'wb') as file:\n    for _ in range(64): written += file.write(bytes(2**20))\n  except OSError: pass\n return written >> 20"
    for place, most in (("/box", 64), ("/tmp", 64), ("/dev/shm", 16)):
        result = run(fill, f'["{place}"]', isolation=isolation, memory_mebibytes=256, cpu_seconds=4)
        assert result.failures == ("memory_limit",) or int(result.answers[0] or 999) <= most, result
        assert list(Path(place).glob(f"{name}-*")) == [], "the machine's own folder of that name"
    assert run(fill, '["/dev"]', '["/"]', '["/usr"]', isolation=isolation).answers == ("0", "0", "0")


# --------------------------------------------------------------------------------------------------------- getting out


@every_way
def test_nobody_is_reached_by_network(isolation: str):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        assert run(
            f"import socket\ndef f(x): socket.create_connection(('127.0.0.1', {port}), 1); return 1",
            "[1]",
            isolation=isolation,
        ).answers == (None,)
        with pytest.raises(TimeoutError):
            listener.accept()


@with_filter
def test_no_family_of_sockets_can_be_opened(isolation: str):
    families = attempts(
        *(f"socket.socket({family}, {kind}).fileno()" for family in (1, 2, 10, 16, 17, 40) for kind in (1, 2, 3)),
        imports="import os, ctypes, socket",
    )
    assert run(families, "[1]", isolation=isolation).answers == ("[]",)
    assert run(
        "import asyncio\nasync def g(): return 7\ndef f(x): return asyncio.run(g())", "[1]", isolation=isolation
    ).answers == ("7",)


@every_way
def test_no_secret_can_be_read(isolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AMR_CANARY", "hunter2")
    canary = tmp_path / "canary"
    canary.write_text("hunter2")
    canary.chmod(0o644)
    tmp_path.chmod(0o755)
    look = f"""
import glob, os
def f(x):
    out = repr(dict(os.environ))
    names = [{str(canary)!r}, "/etc/shadow", "/etc/passwd", *glob.glob("/proc/*/environ"), *glob.glob("/proc/*/cmdline"), *glob.glob("/proc/*/maps"), *glob.glob("/proc/*/cwd/*")]
    os.symlink({str(canary)!r}, "planted")
    for name in [*names, "planted"]:
        try: out += open(name, errors="replace").read(5000)
        except OSError: pass
    return out[:60000]
"""
    result = run(look, "[1]", isolation=isolation)
    assert result.answers[0] is not None
    assert not any(secret in result.answers[0] for secret in ("hunter2", "root:", "PRIVATE KEY"))


@every_way
def test_nothing_is_written_outside(isolation: str, tmp_path: Path):
    tmp_path.chmod(0o777)
    place = f"amr-attack-{os.getpid()}"
    targets = [
        f"{folder}/{place}" for folder in ("/tmp", "/dev/shm", "/var/tmp", "/usr", "/etc", "/", tmp_path, Path.cwd())
    ]
    write = (
        f"def f(x):\n for name in {targets!r}:\n  try: open(name, 'w').write('x')\n  except OSError: pass\n return 1"
    )
    assert run(write, "[1]", isolation=isolation).cause is None
    assert [name for name in targets if Path(name).exists()] == []


@every_way
def test_signals_reach_nobody_outside(isolation: str):
    before = {process.pid for process in descendants()}
    kill = f"import os, signal\ndef f(x):\n for pid in [{os.getpid()}, os.getppid(), 1, *range(2, 400)]:\n  if pid != os.getpid():\n   try: os.kill(pid, 9)\n   except OSError: pass\n return 7"
    assert run(kill, "[1]", "[2]", isolation=isolation).answers == ("7", "7")
    everyone = "import os, signal\ndef f(x):\n try: os.kill(-1, 9)\n except OSError: pass\n return 7"
    if ways()[isolation].has_namespaces or os.getuid() == 0:
        assert run(everyone, "[1]", isolation=isolation).cause is None
    assert {process.pid for process in descendants()} >= {pid for pid in before if psutil.pid_exists(pid)}


@every_way
def test_a_daemon_ends_with_its_box(isolation: str):
    alone = CodeSandbox(slots=1, means=ways()[isolation])
    run("def f(x): return 1", "[1]", by=alone)  # from here on it has the only nursery that it will have
    daemon = "import os, time\ndef f(x):\n if os.fork() == 0:\n  try: os.setsid()\n  except OSError: pass\n  if os.fork() == 0:\n   while True: time.sleep(1)\n  os._exit(0)\n os.wait()\n time.sleep(0.2)\n return 7"
    before = boxed_processes()
    assert run(daemon, "[1]", by=alone).answers == ("7",)
    assert wait_for(lambda: boxed_processes() <= before)
    alone.close()


@every_way
def test_no_other_process_can_be_looked_into(isolation: str):
    attack = attempts(
        "libc.ptrace(16, os.getppid(), 0, 0)", "libc.ptrace(16, 1, 0, 0)", "libc.ptrace(0x4206, os.getppid(), 0, 0)",
        "open(f'/proc/{os.getppid()}/mem', 'r+b')", "open('/proc/1/mem', 'rb')", "os.listdir('/proc/1/fd')",
        "open(f'/proc/{os.getppid()}/environ').read()", "os.readlink('/proc/1/cwd')",
        "open('/proc/1/oom_score_adj', 'w').write('1000')",
    )  # fmt: skip
    assert run(attack, "[1]", isolation=isolation).answers == ("[]",)


@every_way
def test_no_rights_and_no_namespaces_can_be_gained(isolation: str):
    attack = attempts(
        "libc.unshare(0x10000000)", "libc.unshare(0x20000)", "libc.unshare(0x40000000)", "libc.setns(0, 0)",
        "(lambda child: child or os._exit(0))(libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))", "libc.syscall(435, 0, 0)",
        "os.setuid(0)", "os.setgid(0)", "os.setgroups([0])", "os.setresuid(0, 0, 0)", "os.chroot('.')",
        "libc.mount(b'none', b'/', None, 1 << 18, None)", "libc.umount2(b'/proc', 2)", "libc.pivot_root(b'.', b'.')",
        "libc.syscall(321, 0, 0, 0)", "libc.syscall(425, 1, ctypes.create_string_buffer(200))", "libc.syscall(323, 0)",
        "libc.reboot(0)", "libc.sethostname(b'x', 1)", "subprocess.run(['mount'], check=True)",
        "subprocess.run(['su', '-c', 'id'], check=True, stdin=-3)", "os.mknod('disk', 0o60600, 8 << 8)",
        imports="import os, ctypes, subprocess",
    )  # fmt: skip
    allowed = set() if ways()[isolation].has_seccomp else {"libc.syscall(435, 0, 0)", "libc.syscall(425"}
    import json

    done = json.loads(run(attack, "[1]", isolation=isolation).answers[0] or "null")
    # Listing mounts is no harm where there are some to list.
    assert [one for one in done if "'mount'" not in one and not any(one.startswith(start) for start in allowed)] == []


@with_filter
def test_keys_of_other_programs_are_out_of_reach(isolation: str):
    attack = attempts(
        "libc.syscall(248, b'user', b'k', b'v', 1, -3)",
        "libc.syscall(250, 0, -3, 1)",
        "libc.syscall(249, b'user', b'k', None, -3)",
    )
    assert run(attack, "[1]", isolation=isolation).answers == ("[]",)


@with_namespaces
def test_boxes_see_nothing_of_each_other(isolation: str):
    leave = "import os\ndef f(x):\n for place in ('/tmp', '/box', '/dev/shm'): open(place + '/left', 'w').write('left')\n return 1"
    assert run(leave, "[1]", isolation=isolation).answers == ("1",)
    look = "import os\ndef f(x): return [[p for p in ('/tmp/left', '/box/left', '/dev/shm/left') if os.path.exists(p)], sorted(n for n in os.listdir('/proc') if n.isdigit() and int(n) > 1) == [str(os.getpid())], os.listdir('/dev/pts')]"
    for _ in range(3):
        assert run(look, "[1]", isolation=isolation).answers == ("[[], true, []]",)


@every_way
def test_planted_links_lead_nowhere(isolation: str, tmp_path: Path):
    kept = tmp_path / "kept"
    kept.write_text("kept")
    tmp_path.chmod(0o777)
    plant = f"import os\ndef f(x):\n os.symlink({str(tmp_path)!r}, 'folder')\n for name in ('input', 'solution', 'solution.cpp'):\n  try: os.symlink({str(kept)!r}, name)\n  except OSError: pass\n return 1"
    run(plant, "[1]", "[2]", isolation=isolation)
    again = f"import os\ntry: os.remove('input'); os.symlink({str(kept)!r}, 'input')\nexcept OSError: pass\nprint(1)"
    run(again, inputs=("a", "b"), isolation=isolation)
    assert kept.read_text() == "kept"
    assert list(Path(tempfile.gettempdir()).glob(f"amr-box-{os.getpid()}-*")) == []


# ------------------------------------------------------------------------------------------------------------- cheating

WRONG = {"call_type": "assert", "fn_name": "f", "assert_case": ["assert f(12345) == 98765", "assert f(1) == [4, 5]"]}
AS_PROGRAM = {
    "call_type": "program",
    "fn_name": "f",
    "program": "def check(c):\n    for x, y in ((12345, 98765), (1, [4, 5])):\n        assert c(x) == y\ncheck(f)\n",
}
AS_LITERALS = {
    "call_type": "program",
    "fn_name": "f",
    "program": "def check(candidate):\n    assert candidate(12345) == 98765\n    assert candidate(1) == [4, 5]\n",
}

CHEATS = {
    "exits at import": "import sys\nsys.exit(0)\ndef f(x): return 2",
    "exits inside": "import sys\ndef f(x): sys.exit(0)",
    "leaves at import": "import os\nos._exit(0)",
    "leaves inside": "import os\ndef f(x): os._exit(0)",
    "equals everything": "class A(int):\n def __eq__(s, o): return True\n __hash__ = int.__hash__\ndef f(x): return A(0)",
    "equals everything, no builtin": "class A:\n def __eq__(s, o): return True\n def __getattr__(s, n): return A()\ndef f(x): return A()",
    "patched builtins": "import builtins\nfor n in ('abs', 'all', 'len', 'isinstance', 'zip', 'type'): setattr(builtins, n, lambda *a: True)\nclass L(list):\n def __eq__(s, o): return True\ndef f(x): return L([])",
    "patched json": "import json\njson.dumps = lambda *a, **k: '\"passed\"'\njson.loads = lambda *a, **k: 'passed'\ndef f(x): return 5",
    "frames and gc": "import gc, sys\ndef f(x):\n found = [o for o in gc.get_objects() if isinstance(o, (list, tuple, dict)) and 98765 in (o.values() if isinstance(o, dict) else o)]\n frame = sys._getframe()\n while frame:\n  for v in frame.f_locals.values():\n   if v == 98765: return v\n  frame = frame.f_back\n return found[0] if found else 0",
    "files and descriptors": "import os, glob, re\ndef f(x):\n for name in [*glob.glob('/box/*'), *glob.glob('/tmp/*'), *glob.glob('/proc/*/cmdline'), *glob.glob('/proc/*/fd/*')]:\n  try:\n   fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)\n   if b'98765' in os.read(fd, 10**6): return 98765\n  except OSError: pass\n return 0",
    "the parent's memory": "import os, re\ndef f(x):\n try:\n  for line in open(f'/proc/{os.getppid()}/maps'):\n   a, b = (int(v, 16) for v in line.split()[0].split('-'))\n   with open(f'/proc/{os.getppid()}/mem', 'rb') as m:\n    m.seek(a)\n    if b'98765' in m.read(b - a): return 98765\n except Exception: pass\n return 0",
    "says passed": "print('passed')\nprint('{\"end\": \"passed\"}')\ndef f(x):\n import os, sys\n os.write(1, b'passed')\n sys.stdout.write('ok')\n return 'passed'",
    "frames on every descriptor": "import os, struct\nbody = b'{\"end\": \"passed\", \"answer\": \"passed\", \"replies\": []}'\ndef f(x):\n for fd in range(64):\n  try: os.write(fd, struct.pack('<I', len(body)) + body)\n  except OSError: pass\n os._exit(0)",
    "overwrites tests": "import glob\nfor name in glob.glob('/box/*') + glob.glob('/tmp/*'):\n try: open(name, 'w').write('assert True')\n except OSError: pass\ndef f(x): return 1",
    "patches the driver": "import sys\nfor m in list(sys.modules.values()):\n for n in ('answer_of', 'encode', 'in_child', 'run_program'):\n  if hasattr(m, n): setattr(m, n, lambda *a, **k: '\"passed\"')\nframe = sys._getframe()\nwhile frame:\n frame.f_globals.update({'write_frame': lambda *a: None, 'failure_of': lambda *a: None})\n frame = frame.f_back\ndef f(x): return 1",
    "kills its parent": "import os\ndef f(x):\n for pid in (os.getppid(), 1, 2):\n  try: os.kill(pid, 9)\n  except OSError: pass\n return 7",
    "not a number": "def f(x): return float('nan')",
    "closes everything": "import os\nos.closerange(0, 64)\ndef f(x): return 1",
    "a property that learns": "class R:\n def __reduce__(s): return (int, (98765,))\n def __index__(s): return 98765\n __int__ = __index__\ndef f(x): return R()",
}  # fmt: skip


@pytest.mark.parametrize("tests", [WRONG, AS_PROGRAM, AS_LITERALS], ids=["asserts", "program", "literals"])
@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS.keys())
def test_no_cheat_is_accepted(cheat: str, tests: dict[str, object]):
    assert verdict(cheat, tests).verify_score in {0.0, None}


@pytest.mark.parametrize("isolation", WAYS[-1:])
def test_no_cheat_is_accepted_by_the_weakest_way(isolation: str):
    for cheat in CHEATS.values():
        assert verdict(cheat, AS_PROGRAM, isolation).outcome != "passed", cheat


@every_way
def test_an_honest_program_passes_all_three_forms(isolation: str):
    honest = "def f(x): return 98765 if x == 12345 else [4, 5]"
    for tests in (WRONG, AS_PROGRAM, AS_LITERALS):
        assert verdict(honest, tests, isolation).outcome == "passed"


def test_attacks_left_threads_and_descriptors_as_they_were():
    before = len(os.listdir("/proc/self/fd"))
    for cheat in list(CHEATS.values())[:6]:
        verdict(cheat, AS_PROGRAM)
    assert len(os.listdir("/proc/self/fd")) <= before + 8
    assert threading.active_count() < 40
