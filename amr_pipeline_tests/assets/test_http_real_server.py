"""A distiller behind a real vLLM server on this machine, from its answers to its death in the middle of a run.

Belongs here: what only a real server can show. Does not belong here: faults a server can be told to have
(`engines.test_http_engine_faults`).
"""

import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from amr_pipeline.assets.resources import Platform
from amr_pipeline.engines import http_engine
from amr_pipeline.engines.http_answers import HttpKey
from amr_pipeline.engines.http_engine import HttpEngine
from amr_pipeline.engines.http_limits import HttpEngineError, Pace
from amr_pipeline.responses.budget import Budget
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.study import Distiller, Sampling
from amr_pipeline_tests.assets.imported_world import ImportedWorld
from amr_pipeline_tests.assets.test_http_distiller import CANARY, KEY, far, stored
from amr_pipeline_tests.conftest import REPOSITORY
from amr_pipeline_tests.servers import free_ports

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM is installed here"),
]

SECONDS_TO_START = 1_000.0
"""About 40 on two idle cores; five times as many on busy ones."""

WEIGHTS = REPOSITORY / "amr_pipeline" / "studies" / "micro_weights" / "strong"
SERVED, CONTEXT = "one", 256
ROW = Distiller(
    name="far", model=SERVED, revision="r", num_passes=1, max_model_len=CONTEXT, engine="http",
    sampling=Sampling(temperature=0.7, top_p=0.95, max_tokens=64),
)  # fmt: skip


class VllmServer:
    """vLLM's own server with the micro world's strongest distiller, on a port that stays its own."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.folder, self.log = folder, folder / "server.log"
        self.address = f"http://127.0.0.1:{self.port}/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; the key is in its environment and in no command line."""
        # `vllm serve` asks for the version of a package named vllm, which the CPU build is not; this is what it runs.
        command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
        command += [
            "--model",
            str(WEIGHTS),
            "--served-model-name",
            SERVED,
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        # As `engines.vllm_engine` starts its own on CPU, and for the same reasons.
        command += [
            "--max-model-len",
            str(CONTEXT),
            "--max-num-seqs",
            "16",
            "--max-num-batched-tokens",
            str(16 * CONTEXT),
        ]
        command += [
            "--block-size",
            "32",
            "--enforce-eager",
            "--dtype",
            "float32",
            "--distributed-executor-backend",
            "uni",
        ]
        command += ["--generation-config", "vllm", "--disable-log-stats"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + SECONDS_TO_START
        while not self._answers():
            is_alive = self.process.poll() is None and time.monotonic() < deadline
            assert is_alive, self.log.read_text()[-3_000:]
            time.sleep(0.5)

    def kill(self) -> None:
        """End it and the engine process below it at once, as a lost machine would."""
        if self.process is not None:
            below = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            psutil.wait_procs(below, timeout=60)
            self.process = None

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AMR_", "RAY_"))}
        return inherited | {
            "VLLM_API_KEY": CANARY,
            "VLLM_CACHE_ROOT": str(self.folder / "cache"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "TORCH_COMPILE_DISABLE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONWARNINGS": "ignore",
        }

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    served = VllmServer(tmp_path_factory.mktemp("vllm"))
    try:
        served.start()
        yield served
    finally:
        served.kill()


def asked(*questions: str, seed: int = 0) -> list[GenerationRequest]:
    return [
        GenerationRequest(response_id=f"{number}: {question[:20]}", messages=(("user", question),), seed=seed + number)
        for number, question in enumerate(questions)
    ]


def ask(
    server: VllmServer,
    requests: Iterable[GenerationRequest],
    *,
    row: Distiller = ROW,
    in_flight: int = 8,
    key: str = CANARY,
    budget: Budget | None = None,
) -> dict[str, GeneratedResponse]:
    engine = HttpEngine(name="far", address=server.address, in_flight=in_flight, pace=Pace(None, None))
    return {one.response_id: one for one in engine.responses(row, HttpKey(key), requests, budget)}


SUMS = [f"What is {left}+{right}?" for left in range(2, 7) for right in range(1, 7)]


def test_answers_come_and_are_what_the_model_knows(server: VllmServer):
    greedy = replace(ROW, sampling=replace(ROW.sampling, temperature=0.0))
    found = ask(server, asked(*SUMS), row=greedy)
    assert len(found) == len(SUMS)
    right = sum(
        f"\\boxed{{{left + right}}}" in found[request.response_id].text
        for request, (left, right) in zip(asked(*SUMS), ((a, b) for a in range(2, 7) for b in range(1, 7)), strict=True)
    )
    assert right > len(SUMS) / 2, "a question is answered, and not another one"
    for one in found.values():
        assert (one.engine, one.finish_reason in ("stop", "length")) == (f"http {SERVED}", True)
        assert one.prompt_tokens > 0
        assert 0 < one.response_tokens <= 64
        assert (one.lost_prompt_tokens, one.lost_response_tokens) == (0, 0)
    assert any("<think>" in one.text for one in found.values())


def test_seeds_repeat_texts_whatever_else_is_in_flight(server: VllmServer):
    requests = asked(*SUMS, seed=100)
    together, one_by_one = ask(server, requests, in_flight=16), ask(server, reversed(requests), in_flight=2)
    assert {name: one.text for name, one in together.items()} == {name: one.text for name, one in one_by_one.items()}
    hot = replace(ROW, sampling=replace(ROW.sampling, temperature=2.0, top_p=1.0))
    found = ask(server, asked(*["Who is it, and why?"] * 20), row=hot)
    assert len({one.text for one in found.values()}) > 1, "other seeds, other texts"


def test_a_prompt_that_is_too_long_is_its_own_error(server: VllmServer):
    longer, fits_alone = "What is 2+3? " * 200, "What is 2+3? " * 60
    found = ask(server, asked("What is 2+3?", longer, "What is 4+1?", fits_alone))
    reasons = [one.finish_reason for one in sorted(found.values(), key=lambda one: one.response_id)]
    assert reasons == ["stop", "error", "stop", "error"], "also where the prompt fits and max_tokens do not"
    for one in found.values():
        if one.finish_reason == "error":
            assert "maximum context length is 256" in one.text
            assert one.response_tokens == 0


def test_a_budget_holds_at_a_real_server(server: VllmServer):
    budget = Budget(tokens=2_000)
    found = ask(server, asked(*SUMS * 10), in_flight=16, budget=budget)
    spent = sum(one.prompt_tokens + one.response_tokens for one in found.values())
    assert budget.spent.tokens == spent <= 2_000
    assert budget.has_refused
    assert spent > 1_500, "what answers leave is used"


def test_the_key_is_asked_for_and_shown_nowhere(server: VllmServer, caplog: pytest.LogCaptureFixture):
    wrong = "sk-wrong-9876543210"
    caplog.set_level(logging.DEBUG, logger="amr_pipeline")
    with pytest.raises(HttpEngineError, match=r"it does not take the key \(HTTP 401: Unauthorized\)") as caught:
        ask(server, asked("What is 2+3?"), key=wrong)
    assert ask(server, asked("What is 2+3?"))
    told = f"{caught.value} {caplog.text} {server.log.read_text()}"
    assert wrong not in told
    assert CANARY not in told
    request = urllib.request.Request(f"{server.address}/chat/completions", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    refused.value.close()
    assert refused.value.code == 401, "without a key it answers nobody"


def test_a_server_that_dies_costs_what_it_had_not_answered_and_the_next_run_goes_on(
    server: VllmServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    world: ImportedWorld = request.getfixturevalue(far.__name__)
    monkeypatch.setattr(http_engine, "FIRST_WAIT_SECONDS", 0.02)
    ask_server = Platform.ask_server

    def until_dead(
        self: Platform, row: Distiller, requests: Iterable[GenerationRequest], budget: Budget
    ) -> Iterator[GeneratedResponse]:
        def pulled() -> Iterator[GenerationRequest]:
            for number, request in enumerate(requests):
                if number == 12:
                    server.kill()
                yield request

        return ask_server(self, row, pulled(), budget)

    variables = {"AMR_HTTP_ENGINES": f"one={server.address}", "AMR_HTTP_IN_FLIGHT": "4"}
    with monkeypatch.context() as dying:
        dying.setattr(Platform, "ask_server", until_dead)
        with pytest.raises(HttpEngineError, match=r"attempts in a row failed.*responses came, \d+ stay owed") as caught:
            world.materialize(variables, assets=("responses",))
    before = stored(world)
    assert 8 < before.height <= 12, "twelve were asked, and at most three of them were on their way"
    assert f"{before.height} responses came, {24 - before.height} stay owed" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert world.owed("responses") == [KEY]
    server.start()
    world.materialize(variables, assets=("responses",))
    after = stored(world)
    assert after["response_id"].n_unique() == after.height == 24
    assert after.join(before, on=["response_id", "text", "response_tokens"], how="semi").height == before.height
    assert set(after["engine"]) == {f"http {SERVED}"}
    assert world.owed("responses") == []
