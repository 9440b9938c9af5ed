"""What breaks in the middle of a shard makes verdicts undecided, moves no pass rate, and is settled by the next attempt."""

import json
import resource
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from amr_pipeline import tables
from amr_pipeline.assets import verdicts
from amr_pipeline.assets.lineage import Lineage, verifier_fingerprints
from amr_pipeline.categories import Category
from amr_pipeline.difficulty import JOINT, difficulty
from amr_pipeline.engines import answer_checkers, code_sandbox
from amr_pipeline.studies.study import (
    CategoryRule,
    CodeVerifier,
    JudgeModel,
    MathVerifier,
    ScienceVerifier,
    Scorer,
    SelectionRecipe,
    Study,
)
from amr_pipeline.verdicts.verifier import TRANSIENT_CAUSES, AnswerPair, JudgeReply, JudgeRequest
from amr_pipeline_tests.assets.judged import Stored, store_answers
from amr_pipeline_tests.studies.small import SOURCE, WEAK, small_study

KEY, SHARD = "weak|00", "00"
NUM_QUERIES, BATCH = 6, 8
CATEGORIES = (Category.CODE, Category.MATH, Category.SCIENCE)
"""In the order in which a partition judges them."""

LONGEST_WAIT = 300.0

JUDGE = JudgeModel(scorer=Scorer(model="m", revision="r", max_model_len=9), prompt="deepdistill_science")
RIGHT = "The one that is right"


def mixed_study() -> Study:
    return small_study(
        num_shards=1,
        sources=(SOURCE,),
        benchmarks=(),
        distillers=(WEAK,),
        verifiers=(CodeVerifier(cpu_seconds=2.0), MathVerifier(deadline_seconds=20.0), ScienceVerifier(judge=JUDGE)),
        selection_recipes=(
            SelectionRecipe(
                name="stage1",
                distillers=("weak",),
                rules=(CategoryRule(category=Category.MATH, lowest_score=0.99, cv_threshold=0.05),),
                seed=7,
            ),
        ),
        training_recipes=(),
    )


def passes(query_id: str) -> bool:
    """Every pass over a query ends alike: even queries pass, odd ones fail."""
    return int(query_id, 16) % 2 == 0


def answer(category: str, row: int) -> str:
    query = row // WEAK.num_passes % NUM_QUERIES
    is_right = query % 2 == 0
    if category == Category.CODE:
        return f"\n```python\ndef f(x):\n    return x {'+' if is_right else '-'} {query + 1}\n```\n"
    if category == Category.MATH:  # a sum: nothing but symbolic algebra in a checker decides it
        return f"\\boxed{{{sum(range(1, query + 4)) + (not is_right)}}}"
    return RIGHT if is_right else "Another"


class Mixed(Stored):
    """One shard of code, mathematics and science, whose outcomes are known beforehand."""

    def write_shard(self, place: int, shard: str, num_queries: int) -> None:
        rows = [
            {
                "query_id": f"{10 * group + index:032x}",
                "shard": shard,
                "category": str(category),
                "messages": [{"role": "user", "content": f"{category} {index}"}],
                "reference": {
                    Category.MATH: f"\\sum_{{k=1}}^{{{index + 3}}} k",
                    Category.SCIENCE: f"What is right, number {index}",
                }.get(category),
                "test_cases": json.dumps(
                    {"call_type": "assert", "fn_name": "f", "assert_case": [f"assert f(2) == {3 + index}"]}
                )
                if category is Category.CODE
                else None,
                "constraints": None,
                "source": "numbers",
                "source_row": str(index),
                "licence": "MIT",
            }
            for group, category in enumerate(CATEGORIES)
            for index in range(num_queries)
        ]
        queries = pl.DataFrame(rows, schema=tables.QUERIES.schema)
        store_answers(self.store, self.study, shard, queries, answer)

    @property
    def wanted(self) -> dict[str, str]:
        """The outcome of every response."""
        rows = self.store.read("responses", KEY).select("response_id", "query_id")
        return {response: "passed" if passes(query) else "failed" for response, query in rows.iter_rows()}

    def judged(self, category: Category) -> int:
        """Verdicts of a category that are committed so far."""
        if self.store.latest_any("verdicts", KEY) is None:
            return 0
        return self.store.read_any("verdicts", KEY).filter(pl.col("category") == category).height

    def asked(self, pair: AnswerPair) -> bool:
        """Whether a comparison is of a response of the shard, and not of a canary."""
        return pair.reference in self.store.read("queries", SHARD)["reference"]

    def owed(self) -> list[str]:
        return Lineage(self.study, self.store).owed("verdicts")


class Judge:
    """A judge that knows what is right, and talks nonsense from a certain request on."""

    def __init__(self) -> None:
        self.asked, self.sane_until = 0, 10**9

    def __call__(self, requests: Iterable[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            self.asked += 1
            knows = "5" if RIGHT in request.messages[0][1] else "0"
            nonsense = ("seven", "", "5.5", "0 or 5", "I would rather talk about cheese", "-1")[self.asked % 6]
            said = knows if self.asked <= self.sane_until else nonsense
            yield JudgeReply(request_id=request.request_id, text=said, cause=None)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge()
    monkeypatch.setattr(verdicts, "judge_of", lambda platform, row: made)
    return made


@pytest.fixture
def stored(tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mixed]:
    """The shard, with checkers and a sandbox of its own: nothing is remembered from other tests, or broken for them."""
    if code_sandbox.missing_parts():
        pytest.skip(f"no sandbox on this machine: {code_sandbox.missing_parts()}")
    checkers: list[answer_checkers.AnswerCheckers] = []
    sandboxes: list[code_sandbox.CodeSandbox] = []
    monkeypatch.setattr(verdicts, "VERDICTS_PER_BATCH", BATCH)
    monkeypatch.setattr(answer_checkers, "_shared", checkers)
    monkeypatch.setattr(code_sandbox, "_shared", sandboxes)
    yield Mixed(tmp_path, mixed_study(), NUM_QUERIES)
    for pool in (*checkers, *sandboxes):
        pool.close()


@contextmanager
def from_then_on(
    owner: object, step: str, reached: Callable[..., bool], act: Callable[[], object]
) -> Iterator[threading.Event]:
    """Act again and again from the first step on whose arguments say that the moment is reached; the event says it was.

    That step waits until the first act is done, and so do those beside it: on a busy machine everything might be
    decided before another thread has its turn.
    """
    usual, met, begun, ended = getattr(owner, step), threading.Event(), threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            if met.is_set():
                act()
                begun.set()

    def gated(*arguments: Any) -> object:
        if not begun.is_set() and reached(*arguments):
            met.set()
            assert begun.wait(LONGEST_WAIT)
        return usual(*arguments)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(owner, step, gated)
            yield begun
    finally:
        ended.set()
        thread.join()


def kill(marker: str) -> None:
    """SIGKILL to every process below this one whose command line holds a text."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(marker in word for word in process.cmdline()):
                process.kill()


def require_only_undecided(stored: Mixed, category: Category) -> None:
    """Some verdicts of one category are owed for a reason, and everything else is what it would have been."""
    rows, wanted = stored.store.read("verdicts", KEY), stored.wanted
    assert set(rows["response_id"]) == set(wanted)
    undecided = rows.filter(pl.col("verdict") == "undecided")
    assert set(undecided["category"]) == {category}
    assert 0 < undecided.height < NUM_QUERIES * WEAK.num_passes, "some, from the middle of the shard on"
    assert set(undecided["cause"]) <= {str(cause) for cause in TRANSIENT_CAUSES}
    decided = rows.filter(pl.col("verdict") != "undecided")
    assert dict(decided.select("response_id", "verdict").iter_rows()) == {
        name: wanted[name] for name in decided["response_id"]
    }
    assert stored.owed() == [KEY]
    fingerprints = list(verifier_fingerprints(stored.study).values())
    graded = difficulty(rows.lazy(), fingerprints=fingerprints, num_shards=1).filter(distiller=JOINT).collect()
    assert graded["num_undecided"].sum() == undecided.height
    for query, rate in graded.select("query_id", "pass_rate").iter_rows():
        assert rate in (None, float(passes(query)))


def require_settled(stored: Mixed) -> None:
    """One more attempt decides everything, rightly."""
    stored.judge(KEY)
    rows = stored.store.read("verdicts", KEY)
    assert dict(rows.select("response_id", "verdict").iter_rows()) == stored.wanted
    assert stored.owed() == []


def test_undisturbed_every_verdict_is_the_one_known_beforehand(stored: Mixed):
    require_settled(stored)
    stages = stored.store.read("verdicts", KEY)["verifier"].unique().sort().to_list()
    assert stages == ["code_tests/sandbox", "math_answers/math_verify", "science_similarity/judge"]


def test_a_sandbox_launcher_that_is_killed_again_and_again(stored: Mixed, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as disturbed:
        disturbed.setattr(code_sandbox, "ATTEMPTS", 1)  # on a busy machine no program loses three launchers in a row
        with from_then_on(
            code_sandbox,
            "run_in_box",
            lambda run, nursery: run.run_id in stored.wanted and stored.judged(Category.CODE) >= BATCH,
            lambda: kill("What makes boxes"),
        ) as begun:
            stored.judge(KEY)
    assert begun.is_set()
    require_only_undecided(stored, Category.CODE)
    require_settled(stored)


def test_answer_checkers_that_are_killed_again_and_again(stored: Mixed, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as disturbed:
        disturbed.setattr(answer_checkers, "ATTEMPTS", 1)  # a second worker may well do its work between two kills
        with from_then_on(
            answer_checkers.Checker,
            "compare",
            lambda checker, pair: stored.asked(pair) and stored.judged(Category.MATH) >= BATCH,
            lambda: kill("answer_checker_worker"),
        ) as begun:
            stored.judge(KEY)
    assert begun.is_set()
    require_only_undecided(stored, Category.MATH)
    require_settled(stored)


def test_a_judge_that_talks_nonsense(stored: Mixed, judge: Judge):
    judge.sane_until = BATCH
    stored.judge(KEY)
    require_only_undecided(stored, Category.SCIENCE)
    judge.sane_until = 10**9
    require_settled(stored)


def test_a_disk_that_is_full(stored: Mixed):
    """Past a limit on the size of files, the kernel refuses a write in its middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with from_then_on(
        answer_checkers.Checker,
        "compare",
        lambda checker, pair: stored.asked(pair) and stored.judged(Category.MATH) >= BATCH,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard)),
    ) as begun:
        try:
            with pytest.raises(OSError, match="File too large"):
                stored.judge(KEY)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert begun.is_set()
    assert stored.store.latest("verdicts", KEY) is None, "readers see a whole partition or none"
    kept = stored.store.read_any("verdicts", KEY)
    wanted = stored.wanted
    assert dict(kept.select("response_id", "verdict").iter_rows()) == {
        name: wanted[name] for name in kept["response_id"]
    }
    assert kept.height >= NUM_QUERIES * WEAK.num_passes + BATCH, "what was committed before is not judged again"
    assert stored.owed() == [KEY]
    require_settled(stored)
