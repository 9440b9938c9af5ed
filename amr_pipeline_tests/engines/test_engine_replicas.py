import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from amr_pipeline.engines import engine_replicas
from amr_pipeline.engines.engine_replicas import MOST_STARTS, Pool, PoolSize
from amr_pipeline.engines.engine_stream import EngineKeepsDyingError, EngineStartError, Replica
from amr_pipeline.engines.engine_work import Done, EngineSettings, Exchanged, Load, Work

pytestmark = pytest.mark.engines


class Scripted:
    """An engine that answers with its weights and its process, and dies of what the test says it dies of."""

    def __init__(self, settings: EngineSettings) -> None:
        if settings.model == "does not start":
            raise ValueError("no such architecture")
        if (left := Path(settings.model) / "failing starts").exists() and (number := int(left.read_text())):
            left.write_text(str(number - 1))
            raise ValueError("memory is not given back yet")
        self._weights = self._own = settings.model
        self._held: list[Work] = []

    def name(self) -> str:
        return "scripted 1"

    def reload(self, folder: str) -> None:
        if folder == "wrong shape":
            raise ValueError("96 is not 128")
        self._weights = folder

    def forget(self) -> None:
        self._held.clear()

    def exchange(self, new: list[Work], at_least: int, seconds: float, give_back: int) -> Exchanged:
        self._held += new
        asked = {work.messages[0][1] for work in self._held}
        if "poison" in asked or self._own == "dies of anything":
            os._exit(9)
        if "bug" in asked:
            raise RuntimeError("the engine is in no known state")
        for machine in filter(os.path.isabs, asked):
            if not (died := Path(machine) / "died").exists():
                died.touch()
                os._exit(9)
        most = len(self._held)
        ready, self._held = self._held[:at_least], self._held[at_least:]
        text = f"{self._weights} {os.getpid()} {most}"
        return Exchanged(
            done=[
                Done(work_id=work.work_id, text=text, finish_reason="stop", prompt_tokens=1, response_tokens=1)
                for work in ready
            ],
            load=Load(running=min(8, len(self._held)), waiting=max(0, len(self._held) - 8), limit=64),
        )


def pool(model: str = "own", replicas: int = 1) -> Pool:
    settings = EngineSettings(model=model, revision=None, max_model_len=256, dtype="auto")
    return Pool(settings, {}, Scripted, size=PoolSize(fewest=replicas, most=replicas))


@pytest.fixture
def opened(ray_cluster: None) -> Iterator[Pool]:
    one = pool()
    one.open()
    yield one
    one.close()


def work(count: int, **asked: str) -> list[Work]:
    """`count` harmless pieces; `_7="poison"` makes the seventh one lethal."""
    return [
        Work(work_id=f"w{index}", kind="write", messages=(("user", asked.get(f"_{index}", "?")),))
        for index in range(count)
    ]


def kill(pool: Pool, process: int) -> None:
    """Kill the pool's only engine and wait for its end: Ray returns at once, and a dying engine can still answer."""
    engine_replicas.ray.kill(pool.replicas[0].actor, no_restart=True)
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{process}"):
        assert time.monotonic() < deadline, f"the killed engine {process} is still there"
        time.sleep(0.05)


def test_replicas_share_the_work_and_each_piece_is_answered_once(ray_cluster: None):
    both = pool(replicas=2)
    both.open()
    answers = list(both.run(work(1000)))
    both.close()
    assert sorted(done.work_id for done in answers) == sorted(f"w{index}" for index in range(1000))
    assert len({done.text.split()[1] for done in answers}) == 2


def test_what_kills_engines_is_found_among_many_and_set_aside(opened: Pool):
    answers = {done.work_id: done for done in opened.run(work(300, _20="poison", _21="poison", _290="bug"))}
    assert len(answers) == 300
    assert {name for name, done in answers.items() if done.finish_reason == "error"} == {"w20", "w21", "w290"}
    assert "engines died of it" in answers["w20"].text
    assert f"{answers['w20'].attempts} engines" in answers["w20"].text
    assert answers["w290"].last_failure == "RuntimeError: the engine is in no known state"
    assert all((done.attempts == 1) == (done.last_failure is None) for done in answers.values())


def test_after_one_death_the_next_engine_is_filled_as_before(opened: Pool, tmp_path: Path):
    answers = list(opened.run(work(300, _20=str(tmp_path))))
    assert len(answers) == 300
    assert (tmp_path / "died").exists()
    assert {done.finish_reason for done in answers} == {"stop"}
    assert max(int(done.text.split()[2]) for done in answers) > 100, "most engines die of their machine"
    assert {done.attempts for done in answers} == {1, 2}
    assert all((done.attempts == 2) == (done.last_failure is not None) for done in answers)


def lame_after(tmp_path: Path, failing_starts: int, replicas: int = 1) -> Pool:
    """A pool, its engines ready, of which one will die; so many starts in the place of dead ones fail."""
    one = pool(str(tmp_path), replicas)
    one.open()
    (tmp_path / "failing starts").write_text(str(failing_starts))
    return one


def test_an_engine_that_does_not_start_in_a_dead_ones_place_is_tried_again(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_replicas, "SECONDS_BETWEEN_STARTS", 0.2)
    one = lame_after(tmp_path, failing_starts=MOST_STARTS - 1)
    answers = list(one.run(work(60, _5=str(tmp_path))))
    one.close()
    assert {done.finish_reason for done in answers} == {"stop"}
    assert len(answers) == 60


def test_where_no_engine_starts_any_more_the_work_ends_and_the_pool_is_closed(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_replicas, "SECONDS_BETWEEN_STARTS", 0.0)
    one = lame_after(tmp_path, failing_starts=MOST_STARTS)
    with pytest.raises(EngineStartError, match="memory is not given back"):
        list(one.run(work(60, _5=str(tmp_path))))
    assert one.replicas == []
    one.open()
    assert len(list(one.run(work(60)))) == 60
    one.close()


def test_engines_that_work_go_on_without_one_that_cannot_be_replaced(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_replicas, "SECONDS_BETWEEN_STARTS", 0.0)
    one = lame_after(tmp_path, failing_starts=MOST_STARTS, replicas=2)
    answers = list(one.run(and_more(work(400, _5=str(tmp_path)), until=lambda: len(one.replicas) == 1)))
    assert {f"w{index}" for index in range(400)} <= {done.work_id for done in answers}
    assert len({done.work_id for done in answers}) == len(answers)
    one.open()
    assert len(one.replicas) == 2, "it is tried again when the pool is next used"
    one.close()


def test_one_more_that_does_not_start_ends_nothing_while_another_is_started_again(monkeypatch: pytest.MonkeyPatch):
    def fails(pool: Pool, replica: Replica) -> None:
        raise EngineStartError("no memory")

    monkeypatch.setattr(Pool, "_take_in", fails)
    one = pool()
    restarting, more = Replica(starting="in the place of a dead one"), Replica(starting="one more")
    one.replicas = [restarting, more]
    one.arrive(more)
    assert one.replicas == [restarting]


def and_more(pieces: list[Work], until: Callable[[], bool]) -> Iterator[Work]:
    """These, and others until something is so."""
    yield from pieces
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        yield Work(work_id=f"meanwhile {time.monotonic_ns()}", kind="write", messages=(("user", "?"),))
        time.sleep(0.05)


def test_what_an_engine_started_ends_with_it_however_it_ends(ray_cluster: None):
    class Parent:
        def __init__(self) -> None:
            self.child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
            self.child.start()

        def processes(self) -> tuple[int, int]:
            assert self.child.pid is not None
            return os.getpid(), self.child.pid

    actor: Any = engine_replicas.ray.remote(num_cpus=0)(Parent).remote()
    parent, child = engine_replicas.ray.get(actor.processes.remote())
    os.kill(parent, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "vLLM's engine core would hold its GPU"
        time.sleep(0.1)


def test_the_only_piece_of_work_can_be_what_kills(opened: Pool):
    (done,) = opened.run(work(1, _0="poison"))
    assert done.finish_reason == "error"


def test_engines_that_die_of_anything_put_no_blame_on_work(ray_cluster: None):
    broken = pool("dies of anything")
    broken.open()
    answered = []
    with pytest.raises(EngineKeepsDyingError, match="harmless"):
        answered.extend(broken.run(work(40)))
    broken.close()
    assert answered == []


def test_an_engine_killed_between_two_streams_is_replaced_with_its_weights(opened: Pool):
    opened.use_weights("checkpoint")
    (before,) = opened.run(work(1))
    kill(opened, int(before.text.split()[1]))
    (after,) = opened.run(work(1))
    assert before.text.split()[0] == after.text.split()[0] == "checkpoint"
    assert before.text != after.text
    kill(opened, int(after.text.split()[1]))
    opened.use_weights(None)
    assert next(opened.run(work(1))).text.startswith("own ")


def test_an_abandoned_stream_leaves_nothing_behind(opened: Pool):
    stream = opened.run(work(150))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(list(opened.run(work(150)))) == 150

    def breaks() -> Iterator[Work]:
        yield from work(3)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        list(opened.run(breaks()))
    assert len(list(opened.run(work(5)))) == 5


def test_one_piece_of_work_is_not_asked_twice_at_a_time(opened: Pool):
    with pytest.raises(ValueError, match="again"):
        list(opened.run([*work(2), *work(1)]))


def test_an_engine_that_cannot_start_says_why_and_leaves_nothing(ray_cluster: None):
    broken = pool("does not start")
    with pytest.raises(EngineStartError, match="no such architecture"):
        broken.open()
    assert broken.replicas == []


def test_weights_that_do_not_fit_close_the_engine(opened: Pool):
    with pytest.raises(EngineStartError, match="96 is not 128"):
        opened.use_weights("wrong shape")
    assert opened.replicas == []
    opened.open()
    assert next(opened.run(work(1))).text.startswith("own ")


ENDING = """
import atexit
opened = []
atexit.register(lambda: opened[0].close())  # registered before Ray's own, so that the cluster was left when it runs
import ray  # before this project, as a notebook may
from amr_pipeline.engines.ray_cluster import ensure_ray
from amr_pipeline_tests.engines.test_engine_replicas import pool
ensure_ray()
opened.append(pool())
opened[0].open()
"""


def test_a_process_that_ends_with_engines_open_starts_no_other_cluster_to_end_them():
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDING], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "atexit" not in ended.stderr
    starts = ended.stderr.count("Started a local Ray instance") - ended.stderr.count("Ray did not start")
    assert starts <= 1, ended.stderr
