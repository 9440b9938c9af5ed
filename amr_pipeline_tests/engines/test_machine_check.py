"""Too little room, a sandbox that does not hold, and a missing compiler are found; each fix is tried."""

from pathlib import Path

import pytest

from amr_pipeline.engines import code_sandbox, compiled_programs
from amr_pipeline.engines.isolation import Means
from amr_pipeline.engines.machine_check import GIBIBYTE, Room, check_room, check_sandbox, room_at
from amr_pipeline.report.findings import Finding
from amr_pipeline.studies.study import Isolation

PLENTY = Room(memory=64 * GIBIBYTE, disk=100 * GIBIBYTE)
SMALL = [2**20] * 4


def room(memory: float, engines: int, weights: list[int] = SMALL) -> Finding:
    there = Room(memory=int(memory * GIBIBYTE), disk=PLENTY.disk)
    return check_room(Path("home"), there, max_engines=engines, weights=weights)[1]


def test_this_machine_has_some_room(tmp_path: Path):
    found = room_at(tmp_path / "not" / "made" / "yet")
    assert found.memory > 0
    assert found.disk > 0


@pytest.mark.parametrize(("free", "level"), [(0.5, "broken"), (2, "warning"), (50, "ok")])
def test_a_full_disk_is_found(free: float, level: str):
    there = Room(memory=PLENTY.memory, disk=int(free * GIBIBYTE))
    found = check_room(Path("home"), there, max_engines=1, weights=SMALL)[0]
    assert (found.check, found.level) == ("disk", level)
    assert level == "ok" or "AMR_STORAGE" in found.fix


def test_too_many_engines_for_the_memory_are_found_and_the_named_number_fits():
    found = room(7, 4)
    assert (found.level, found.fix) == ("warning", "AMR_MAX_ENGINES=3")
    assert room(7, 3).level == "ok"
    assert room(1, 2).level == "broken"
    assert room(1, 2, []).level == "ok", "no model is loaded here"
    assert room(9, 4).level == "ok", "as many as there are models, at most"
    assert room(20, 2, [2**20, 30 * GIBIBYTE]).level == "broken", "weights count, the largest first"


def test_engines_of_runs_elsewhere_are_compared_with_the_memory_of_runs(tmp_path: Path):
    def found(gibibytes: int) -> Finding:
        return check_room(tmp_path, room_at(tmp_path, gibibytes * GIBIBYTE), max_engines=3, weights=SMALL)[1]

    assert (found(32).level, found(32).found) == ("ok", "32.0 GiB in a run for 3 models at a time")
    assert (found(5).level, found(5).fix) == ("warning", "AMR_MAX_ENGINES=2")
    assert found(1).fix.startswith("give runs more memory")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch):
    """What was found out about this machine is forgotten before and after."""
    for kept in (code_sandbox.established, compiled_programs.compiler_version):
        kept.cache_clear()
    yield
    monkeypatch.undo()
    for kept in (code_sandbox.established, compiled_programs.compiler_version):
        kept.cache_clear()


def by_check(weakest: Isolation | None = Isolation.LANDLOCK_SECCOMP) -> dict[str, Finding]:
    code_sandbox.established.cache_clear()
    compiled_programs.compiler_version.cache_clear()
    return {one.check: one for one in check_sandbox(weakest)}


def test_a_missing_bubblewrap_is_found_until_it_is_installed(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = by_check()["sandbox"]
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        found = by_check()["sandbox"]
        assert found.level in ("warning", "broken")
        assert "apt-get install bubblewrap" in found.fix
        strict = by_check(Isolation.BUBBLEWRAP_RLIMITS)["sandbox"]
        assert (strict.level, "weakest_isolation" in strict.wanted or "bubblewrap" in strict.wanted) == ("broken", True)
    assert by_check()["sandbox"].level == before.level


def test_a_sandbox_that_lets_programs_out_is_broken(fresh: None, monkeypatch: pytest.MonkeyPatch):
    leaky = Means(Isolation.BUBBLEWRAP_SECCOMP, None)
    monkeypatch.setattr(code_sandbox, "candidates", lambda: iter([leaky]))
    monkeypatch.setattr(code_sandbox, "breach_of", lambda means: 'a program ["network"]')
    found = by_check()["sandbox"]
    assert (found.level, 'a program ["network"]' in found.found) == ("broken", True)
    assert by_check(None)["sandbox"].level == "warning", "a study that judges no programs"
    monkeypatch.setattr(code_sandbox, "breach_of", lambda means: None)
    assert by_check()["sandbox"].level == "ok"


def test_a_missing_compiler_is_found_where_programs_are_judged(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(code_sandbox, "candidates", lambda: iter([Means(Isolation.BUBBLEWRAP_SECCOMP, None)]))
    monkeypatch.setattr(code_sandbox, "breach_of", lambda means: None)
    monkeypatch.setattr(compiled_programs, "COMPILER", str(tmp_path / "g++"))
    found = by_check()["compiler"]
    assert (found.level, found.fix) == ("warning", "apt-get install g++")
    assert by_check(None)["compiler"].level == "ok"
    installed = tmp_path / "g++"
    installed.write_text("#!/bin/sh\necho 12.2.0\n")
    installed.chmod(0o755)
    assert (by_check()["compiler"].level, "12.2.0" in by_check()["compiler"].found) == ("ok", True)
