import threading

import pytest

from amr_pipeline.engines.compiled_programs import Build, BuildCache


def test_a_source_is_compiled_once():
    cache, made = BuildCache(), []

    def compile_in_box(source: str):
        return lambda: made.append(source) or Build(f"built {source}")

    assert cache.build("a", compile_in_box("a")).artefact == "built a"
    assert cache.build("b", compile_in_box("b")).artefact == "built b"
    assert cache.build("a", compile_in_box("a")).artefact == "built a"
    assert made == ["a", "b"]


def test_a_source_that_does_not_compile_is_remembered_and_a_failed_box_is_not():
    cache = BuildCache()
    assert cache.build("broken", lambda: Build(None)).artefact is None
    assert cache.build("broken", lambda: pytest.fail("compiled again")).artefact is None

    def no_box() -> Build:
        raise OSError("no box")

    with pytest.raises(OSError, match="no box"):
        cache.build("unlucky", no_box)
    assert cache.build("unlucky", lambda: Build("later")).artefact == "later"


def test_old_builds_make_room_and_the_newest_stays():
    cache = BuildCache(most_bytes=25)
    for name in "abc":
        cache.build(name, lambda: Build("x" * 10))
    assert cache.build("c", lambda: pytest.fail("c was dropped")).artefact
    assert cache.build("a", lambda: Build("again")).artefact == "again"
    assert cache.build("huge", lambda: Build("x" * 100)).artefact
    assert cache.build("huge", lambda: pytest.fail("the newest was dropped")).artefact


def test_threads_that_ask_together_wait_for_one_compiler():
    cache, started, go, made = BuildCache(), threading.Event(), threading.Event(), []

    def slow() -> Build:
        started.set()
        assert go.wait(60)
        made.append(1)
        return Build("one")

    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(cache.build("s", slow).artefact)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    go.set()
    for thread in threads:
        thread.join()
    assert found == ["one"] * 4
    assert made == [1]
