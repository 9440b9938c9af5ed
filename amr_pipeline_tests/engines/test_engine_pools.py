from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from amr_pipeline.engines import engine_pools
from amr_pipeline.engines.engine_pools import EnginePools, PoolSize
from amr_pipeline.engines.engine_replicas import Pool
from amr_pipeline.engines.model_folders import folder_digest, model_address
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest, ScoringRequest
from amr_pipeline.studies.micro import REVISIONS, STUDY, WEIGHTS
from amr_pipeline.studies.study import Distiller, Scorer
from amr_pipeline.verdicts.verifier import JudgeRequest

pytestmark = [pytest.mark.engines, pytest.mark.timeout(2400)]

STRONG = STUDY.distiller("strong")


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[EnginePools]:
    opened = EnginePools(ray_address=None, cache=tmp_path_factory.mktemp("cache"), max_engines=1)
    yield opened
    opened.close()


def requests(count: int) -> Iterator[GenerationRequest]:
    for index in range(count):
        yield GenerationRequest(
            response_id=f"r{index}", messages=(("user", f"What is {index % 50 + 10}+{index % 30}?"),), seed=index
        )


def by_id(answers: Iterator[GeneratedResponse]) -> dict[str, str]:
    found = [(answer.response_id, answer.text) for answer in answers]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_seeds_decide_texts_whatever_the_batch(pools: EnginePools):
    many = by_id(pools.generate(STRONG, requests(200)))
    few = by_id(pools.generate(STRONG, reversed(list(requests(10)))))
    assert len(many) == 200
    assert {name: many[name] for name in few} == few


def test_reading_and_judging_share_the_engine(pools: EnginePools):
    strong = Scorer(
        model=STRONG.model, revision=STRONG.revision, max_model_len=STRONG.max_model_len, gpus_per_replica=0
    )
    (score,) = pools.score_perplexity(
        strong, [ScoringRequest(response_id="s", messages=(("user", "What is 1+1?"),), text="<think>")]
    )
    assert score.perplexity is not None
    (reply,) = pools.ask_judge(
        strong, [JudgeRequest(request_id="j", messages=(("user", "?"),), pattern="[0-5]", max_tokens=2)]
    )
    assert reply.text is not None
    assert reply.text in "012345"
    assert len(pools._pools) == 1


def test_prompts_that_do_not_fit_are_answered_with_the_reason(pools: EnginePools):
    (refused,) = pools.generate(
        STRONG, [GenerationRequest(response_id="long", messages=(("user", "x" * 1000),), seed=1)]
    )
    assert refused.finish_reason == "error"
    assert "tokens" in refused.text


def test_swapped_weights_write_what_a_fresh_engine_would(pools: EnginePools):
    base = Scorer(model=WEIGHTS + "base", revision=REVISIONS["base"], max_model_len=256, gpus_per_replica=0)
    weak = Path(model_address(WEIGHTS + "weak", None)[0])
    swapped = by_id(pools.generate_with_weights(base, weak, STRONG.sampling, requests(60)))
    fresh = by_id(pools.generate(STUDY.distiller("weak"), requests(60)))
    assert swapped == fresh
    assert folder_digest(weak) == REVISIONS["weak"]


def test_a_killed_engine_is_replaced_and_every_request_answered_once(pools: EnginePools):
    answers = pools.generate(STUDY.distiller("weak"), requests(600))
    got = [next(answers)]
    engines = [
        process
        for process in psutil.process_iter(["name"])
        if "VllmEngine" in (process.info["name"] or "")
        and psutil.Process().pid in {parent.pid for parent in process.parents()}
    ]
    assert engines
    engines[-1].kill()
    got += list(answers)
    assert {answer.response_id for answer in got} == {f"r{index}" for index in range(600)}
    assert len(got) == 600
    assert all(answer.finish_reason != "error" for answer in got)


def test_kinds_of_gpu_are_of_a_distiller_by_name_and_of_all_other_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_pools, "ensure_ray", lambda address: None)
    monkeypatch.setattr(engine_pools.ray, "cluster_resources", lambda: {"GPU": 8.0})
    kinds = {"": ("L4",), STRONG.name: ("H100", "H200")}
    pools = EnginePools(ray_address=None, cache=tmp_path, max_engines=1, gpu_kinds=kinds)
    named = replace(STRONG, gpus_per_replica=1)
    judge = Scorer(model=STRONG.model, revision=STRONG.revision, max_model_len=STRONG.max_model_len)
    rows = (named, replace(named, name="other"), judge, replace(named, gpus_per_replica=0))
    for _ in range(2):  # the second time it is known, and still told apart by name
        assert [pools._known_settings(row).gpu_kinds for row in rows] == [("H100", "H200"), ("L4",), ("L4",), ()]


def test_gpus_held_are_those_of_all_engines_and_none_while_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    has = {"GPU": 8.0}
    monkeypatch.setattr(engine_pools, "ensure_ray", lambda address: None)
    monkeypatch.setattr(engine_pools.ray, "cluster_resources", lambda: has)
    monkeypatch.setattr(Pool, "_start", lambda pool, replica: None)
    monkeypatch.setattr(Pool, "_wait_for", lambda pool, replica: None)

    def held(row: Distiller) -> float:
        pools = EnginePools(ray_address=None, cache=tmp_path, max_engines=1, size=PoolSize(fewest=3, most=3))
        assert pools.gpus_held(row) == 0.0
        with pools._pool(row):
            return pools.gpus_held(row)

    sharded = replace(STRONG, gpus_per_replica=4, tensor_parallel_size=2, pipeline_parallel_size=2)
    assert [held(row) for row in (replace(STRONG, gpus_per_replica=0.5), sharded, STRONG)] == [1.5, 12.0, 0.0]
    has.clear()
    assert held(sharded) == 0.0
