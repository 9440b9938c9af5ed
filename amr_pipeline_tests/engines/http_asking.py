"""A distiller row, its requests, and an engine that asks a server of `faulty_server`: what tests of it begin with."""

from collections import Counter
from collections.abc import Iterator

import pytest

from amr_pipeline.engines import http_engine
from amr_pipeline.engines.http_answers import HttpKey
from amr_pipeline.engines.http_engine import HttpEngine
from amr_pipeline.engines.http_limits import HttpEngineError, Pace
from amr_pipeline.responses.budget import Budget
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.study import Distiller, Sampling
from amr_pipeline_tests.engines.faulty_server import Server

CANARY = "sk-canary-0123456789"
ROW = Distiller(
    name="far", model="org/model", revision="r", num_passes=1, max_model_len=4_096, engine="http",
    sampling=Sampling(temperature=0.6, top_p=0.95, max_tokens=50),
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of milliseconds."""
    monkeypatch.setattr(http_engine, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(http_engine, "LONGEST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(http_engine, "BUDGET_LOOK_SECONDS", 0.005)


def requests(number: int, start: int = 0) -> Iterator[GenerationRequest]:
    for index in range(start, start + number):
        yield GenerationRequest(response_id=f"id{index}", messages=(("user", f"question {index}"),), seed=index)


def engine(server: Server | str, *, in_flight: int = 8, pace: Pace | None = None) -> HttpEngine:
    return HttpEngine(
        name="far",
        address=server if isinstance(server, str) else server.address,
        in_flight=in_flight,
        pace=pace or Pace(None, None),
    )


def ask(
    server: Server, number: int = 20, *, row: Distiller = ROW, budget: Budget | None = None, **settings: object
) -> list[GeneratedResponse]:
    return list(engine(server, **settings).responses(row, HttpKey(CANARY), requests(number), budget))  # type: ignore[arg-type]


def until_error(
    server: Server, number: int = 20, **settings: object
) -> tuple[list[GeneratedResponse], HttpEngineError]:
    """What came before the run ended, and what ended it."""
    found = []
    try:
        for answer in engine(server, **settings).responses(ROW, HttpKey(CANARY), requests(number)):  # type: ignore[arg-type]
            found.append(answer)  # noqa: PERF402 (what came before an error counts)
    except HttpEngineError as error:
        return found, error
    raise AssertionError("nothing ended the run")


def assert_each_once(found: list[GeneratedResponse], number: int = 20) -> None:
    assert Counter(one.response_id for one in found) == Counter(f"id{index}" for index in range(number))
    wrong = [one for one in found if one.finish_reason == "stop" and one.text != f"QUESTION {one.response_id[2:]}"]
    assert wrong == [], "an answer is paired with another request"
