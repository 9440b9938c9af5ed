from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from amr_pipeline.engines.admission import Admission


def run(lengths: list[int], cache: int, limit_of: Callable[[], int], admission: Admission | None) -> tuple[int, int]:
    """An engine of `cache` tokens that writes answers of these lengths: its steps, and tokens written in vain.

    As vLLM does: what has no room for one more token makes the youngest begin again.
    """
    waiting, running, steps, lost = list(lengths), list[tuple[int, int]](), 0, 0
    while waiting or running:
        while waiting and len(running) < limit_of() and sum(done for done, _ in running) + 1 <= cache:
            running.append((1, waiting.pop(0)))
        thrown = 0
        while running and sum(done + 1 for done, _ in running) > cache and len(running) > 1:
            done, length = running.pop()
            waiting.insert(0, length)
            lost, thrown = lost + done, thrown + 1
        running = [(done + 1, length) for done, length in running]
        steps += 1
        finished = sum(done >= length for done, length in running)
        running = [(done, length) for done, length in running if done < length]
        use = min(1.0, sum(done for done, _ in running) / cache)
        if admission is not None:
            admission.see(running=len(running), waiting=thrown, kv_use=1.0 if thrown else use)
            if finished:
                admission.finished(finished, use)
    return steps, lost


def test_little_is_begun_twice_where_a_fixed_number_begins_much_twice():
    lengths = [80 + 7 * (index % 13) for index in range(600)]
    admission = Admission(256)
    learned_steps, learned_lost = run(lengths, 4_000, lambda: admission.limit, admission)
    fixed_steps, fixed_lost = run(lengths, 4_000, lambda: 256, None)
    assert learned_lost < fixed_lost / 5
    assert learned_steps < 1.05 * fixed_steps


def test_a_large_cache_lets_everything_in_at_once():
    admission = Admission(256)
    run([50] * 600, 1_000_000, lambda: admission.limit, admission)
    assert admission.limit == 256


def test_the_limit_rises_again_when_answers_become_short():
    admission = Admission(256)
    admission.see(running=40, waiting=3, kv_use=0.97)
    assert admission.limit == 40
    for _ in range(400):
        admission.finished(1, 0.3)
    assert admission.limit > 150


def test_waiting_for_a_step_is_no_pressure():
    admission = Admission(64)
    admission.see(running=3, waiting=61, kv_use=0.2)
    assert admission.limit == 64


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(0, 1), st.integers(0, 50)), max_size=60),
    st.integers(1, 300),
)
def test_the_limit_never_leaves_its_bounds(seen: list[tuple[int, int, float, int]], most: int):
    admission = Admission(most)
    for running, waiting, use, finished in seen:
        before = admission.limit
        admission.see(running=running, waiting=waiting, kv_use=use)
        assert admission.limit <= before
        admission.finished(finished, use)
        assert 1 <= admission.limit <= most
