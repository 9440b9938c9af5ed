"""A distiller behind a server, through the assets: kept in the ledger, paid for once, and its key in nothing stored."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from amr_pipeline.assets.responses import pool_of
from amr_pipeline.engines import http_engine
from amr_pipeline.engines.http_limits import HttpEngineError
from amr_pipeline.queries.identity import query_id
from amr_pipeline.responses.cost import noted_cost
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.engines.faulty_server import Asked, Reply, Server, chat, echo, error, serving

CANARY = "sk-canary-0123456789"
KEY = "one|00"
BEFORE = ("raw_queries", "near_duplicates", "queries")
QUESTIONS = [f"Who is number {number}?" for number in range(12)]


@pytest.fixture
def far(world: ImportedWorld, monkeypatch: pytest.MonkeyPatch) -> ImportedWorld:
    """The world with distiller `one` behind a server: twelve questions, two passes."""
    monkeypatch.setenv("AMR_HTTP_KEY_ONE", CANARY)
    monkeypatch.setattr(http_engine, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(http_engine, "LONGEST_WAIT_SECONDS", 0.02)
    world.change('DISTILLERS = ("one", "two")', 'DISTILLERS = ("one",)')
    world.change("max_model_len=1", "max_model_len=100")
    world.change('engine="imported"', 'engine="http"')
    world.change("max_tokens=1)", "max_tokens=20)")
    world.change(
        'reads=JsonLines(path=f"{HERE}/{name}.jsonl"), responses_at=ResponseColumns(response="r", question="q"),', ""
    )
    world.ask(*QUESTIONS)
    world.materialize(assets=BEFORE)
    return world


def generate(world: ImportedWorld, server: Server, **variables: str) -> None:
    world.materialize({"AMR_HTTP_ENGINES": f"one={server.address}", **variables}, assets=("responses",))


def stored(world: ImportedWorld) -> pl.DataFrame:
    return world.store.read_any("responses", KEY)


def test_responses_of_a_server_are_graded_like_all_others(far: ImportedWorld):
    with serving() as server:
        far.materialize({"AMR_HTTP_ENGINES": f"one={server.address}"})
        assert far.materialize({"AMR_HTTP_ENGINES": f"one={server.address}"}) == {}
    assert len(server.asked) == 24
    rows = stored(far)
    assert rows["engine"].unique().to_list() == ["http served-model"]
    assert rows["seed"].n_unique() == 24, "sent, and kept"
    assert sorted(asked.body["seed"] for asked in server.asked) == sorted(rows["seed"])
    assert far.store.read("verdicts", KEY)["verdict"].to_list() == ["passed"] * 24
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {CANARY}"}


@pytest.mark.parametrize(
    "budget",
    [
        {"AMR_BUDGET_TOKENS": "220"},
        {"AMR_BUDGET_MONEY": "0.00022", "AMR_PRICE_PER_MILLION_TOKENS": "one=1/1"},
    ],
    ids=["tokens", "money"],
)
def test_a_spent_budget_ends_the_run_without_an_error_and_the_next_run_asks_only_what_is_owed(
    far: ImportedWorld, budget: dict[str, str]
):
    with serving() as server:
        variables = {"AMR_HTTP_ENGINES": f"one={server.address}", **budget}
        walked = far.materialize(variables, assets=("responses", "frequent_ngrams"))
        assert walked == {"responses": 1}, "what follows would judge and train on a part"
        came = len(server.asked)
        assert 0 < came < 24
        assert far.store.read("responses", KEY).height == came, "what was paid for is kept, and readers find it"
        commit = far.store.latest("responses", KEY)
        assert commit is not None
        assert commit.owed == 24 - came
        generate(far, server)
    assert len(server.asked) == 24
    assert stored(far)["response_id"].n_unique() == 24


def test_under_a_budget_a_server_is_asked_a_random_sample_and_else_longest_first(far: ImportedWorld):
    words = {question: 7 * place % 13 + 1 for place, question in enumerate(QUESTIONS)}

    def script(asked: Asked) -> Reply:
        return chat("word", usage={"prompt_tokens": 3, "completion_tokens": words[asked.question]})

    def questions_asked(**variables: str) -> list[str]:
        with serving(script) as server:
            generate(far, server, AMR_HTTP_IN_FLIGHT="1", **variables)
        return [asked.question for asked in server.asked]

    def identity(question: str) -> str:
        return query_id([{"role": "user", "content": question}])

    questions_asked()
    far.change("gpus_per_replica=0", "gpus_per_replica=0, regeneration=1")
    assert questions_asked(AMR_BUDGET_TOKENS="1000000") == sorted(2 * QUESTIONS, key=identity)
    far.change("regeneration=1", "regeneration=2")
    assert questions_asked() == sorted(2 * QUESTIONS, key=lambda question: -words[question])


def test_money_without_the_price_of_a_servers_tokens_asks_nothing(far: ImportedWorld):
    wanted = r"AMR_BUDGET_MONEY .* AMR_PRICE_PER_MILLION_TOKENS=one=PROMPTS/RESPONSES"
    with serving() as server, pytest.raises(ValueError, match=wanted):
        generate(far, server, AMR_BUDGET_MONEY="1", AMR_PRICE_PER_GPU_HOUR="1")
    assert server.asked == []


def test_what_was_lost_is_on_the_record(far: ImportedWorld):
    with serving(lambda asked: Reply(hang_up=True) if asked.number == 0 else echo(asked)) as server:
        generate(far, server)
    commit = far.store.latest("responses", KEY)
    assert commit is not None
    cost = noted_cost(commit.notes, far.study.distiller("one").distiller_fingerprint)
    assert (cost.responses, cost.lost_response_tokens) == (24, 20)
    assert 0 < cost.lost_prompt_tokens < 300


def test_a_server_that_breaks_down_costs_what_it_had_not_answered(far: ImportedWorld):
    with serving(lambda asked: echo(asked) if asked.number < 9 else error(503)) as server:
        with pytest.raises(HttpEngineError, match="9 responses came, 15 stay owed"):
            generate(far, server, AMR_HTTP_IN_FLIGHT="3")
        server.script = echo
        generate(far, server)
    assert stored(far)["response_id"].n_unique() == stored(far).height == 24
    assert stored(far)["finish_reason"].unique().to_list() == ["stop"]


def test_hostile_answers_are_kept_as_what_they_are_and_cost_no_other_answer(far: ImportedWorld):
    hostile = [
        chat("a\ud800\0b", reasoning_content="\udfff"),
        chat("x", usage={"prompt_tokens": 2**40, "completion_tokens": -1}),
        chat("", finish_reason="length"),
        chat("half", finish_reason="content_filter"),
        error(400, "\ud800\0"),
        Reply(body=b"[" * 100_000),
    ]

    def script(asked: Asked) -> Reply:
        number = QUESTIONS.index(asked.question) if asked.question in QUESTIONS else 99
        return hostile[number] if number < len(hostile) else echo(asked)

    with serving(script) as server:
        generate(far, server)
    rows = stored(far)
    assert rows.height == 24
    assert Counter(rows["finish_reason"]) == {"stop": 16, "length": 2, "error": 6}
    assert "<think>?</think>a?\0b" in rows["text"].to_list()


def test_without_an_address_nothing_is_asked_and_the_message_says_what_to_set(far: ImportedWorld):
    with pytest.raises(
        ValueError, match=r"'one' is asked over HTTP .* set AMR_HTTP_ENGINES=one=ADDRESS .*AMR_HTTP_KEY_ONE"
    ):
        far.materialize(assets=("responses",))


def test_the_key_is_in_nothing_that_a_run_leaves(
    far: ImportedWorld, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    with serving(lambda asked: chat(CANARY) if asked.number < 5 else error(401, CANARY)) as server:
        variables = {"AMR_HTTP_ENGINES": f"one={server.address}"}
        with far.session(variables) as session:
            assert session.instance is not None
            with pytest.raises(HttpEngineError) as caught:
                session.materialize_owed(say=lambda _: None, assets=("responses",))
            events = [record.to_json() for run in session.instance.get_run_records() for record in session.instance.all_logs(run.dagster_run.run_id)]  # fmt: skip
            told = [*events, repr(session), repr(session.platform), str(caught.value), caplog.text, *capfd.readouterr()]
    assert events
    assert [text[:200] for text in told if CANARY in text] == []
    assert stored(far).height == 5
    left = [path for path in Path(far.folder).rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert left == []
    assert not stored(far)["text"].str.contains(CANARY, literal=True).any()


def test_runs_wait_for_the_scarcest_thing_they_need(world: ImportedWorld):
    assert pool_of(world.study) == "tables"
    world.change('engine="imported"', 'engine="http" if name == "one" else "imported"')
    world.change("max_model_len=1", "max_model_len=2")
    assert pool_of(world.study) == "http"
    world.change('else "imported"', 'else "vllm"')
    assert pool_of(world.study) == "engines"
