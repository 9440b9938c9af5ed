"""A distiller behind an OpenAI-compatible address: a `vllm serve` of one's own, or a hosted API.

Requests are pulled as places come free and answers are handed on as they finish, so memory holds what is in flight.
Exchanges go on in a thread of their own while the caller commits.

What is tried again: lost connections, deadlines, 408, 409, 425, 429 and 5xx, with exponential waits of full jitter and
after whatever pause the server asks for. A busy server (429, 503) that answers others meanwhile is not counted. What is
not: any other 4xx is this prompt's own error, and 401 to 405 end the run. Errors are stored for good, so none is taken
for the prompt's before the server has answered something: a harmless question is asked where it has not, again after
eight errors in a row, and after eight failures of one prompt. Where that question fails as often, the run ends; where
it is answered, a prompt that goes on failing is an error (`_suspected`). A spent budget is no error: nothing more is
asked, and the stream ends with what came.

Belongs here: asking, waiting, giving up. Does not belong here: one request (`http_exchange`), what an answer means
(`http_answers`), pace and what is reserved (`http_limits`), addresses and keys (`assets.deployment`).
"""

import asyncio
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from amr_pipeline.engines.http_answers import (
    Answered,
    Ended,
    Failed,
    HttpKey,
    Reading,
    Refused,
    cost_of,
)
from amr_pipeline.engines.http_exchange import Exchange, payload_of, session
from amr_pipeline.engines.http_limits import Draw, HttpEngineError, Pace
from amr_pipeline.responses.budget import Budget, BudgetSpent
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.study import Distiller

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 8
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
"""A wait is drawn between 0 and a bound that doubles with every failure in a row."""

MOST_ROUNDS = 3 * MOST_ATTEMPTS
"""Times that a suspected prompt is asked by itself before nobody can tell."""

LONGEST_PAUSE_SECONDS = 3_600.0
"""A server that wants to be left alone for longer ends the run."""

TRUSTED_ERRORS = 8
"""Errors in a row that are taken for the prompts' own before a harmless question is asked."""

BUDGET_LOOK_SECONDS = 0.2
SECONDS_BETWEEN_WARNINGS = 60.0

HARMLESS = (("user", "Hello"),)


class HttpEngine:
    """One address, for as long as the process lives: its pace outlasts a run.

    Args:
        name: the distiller it serves, for messages.
        address: up to and including `/v1`, without user, password or query.
        in_flight: requests under way at a time.
        pace: how often it may be asked.
    """

    def __init__(self, *, name: str, address: str, in_flight: int, pace: Pace) -> None:
        self.name, self.in_flight, self.pace = name, in_flight, pace
        self.url = f"{address.rstrip('/')}/chat/completions"
        self.host = urlsplit(address).netloc

    def responses(
        self, row: Distiller, key: HttpKey | None, requests: Iterable[GenerationRequest], budget: Budget | None = None
    ) -> Iterator[GeneratedResponse]:
        """Responses of one distiller, each as it finishes, as far as the run's budget reaches (None: all of them).

        Requests are pulled as places come free; one that is pulled and not answered stays owed.

        Raises:
            HttpEngineError: the server cannot be reached or refuses everything; what is not yielded yet stays owed.
        """
        return _Run(self, row, key, Draw(budget or Budget(), row)).answers(requests)


class _Stopped(Exception):
    """The run ended before this request was answered."""


@dataclass
class _Question:
    """What is asked, how often, why that failed last, and the tokens that lost answers may have cost."""

    payload: bytes
    is_harmless: bool = False
    attempts: int = 0
    last_failure: str | None = None
    lost: tuple[int, int] = (0, 0)


class _Run:
    """One caller's stream of requests to an address.

    `answers`, `_stream` and `_live` are the caller's thread; all others are the loop's.
    """

    def __init__(self, engine: HttpEngine, row: Distiller, key: HttpKey | None, draw: Draw) -> None:
        self._engine, self._row, self._key, self._draws = engine, row, key, draw
        self._finished: queue.SimpleQueue[GeneratedResponse | BaseException | None] = queue.SimpleQueue()
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._tasks: set[asyncio.Task[GeneratedResponse | None]] = set()
        self._error: HttpEngineError | None = None
        self._is_over = False
        self._answers = self._tokens = self._trust = 0
        self._failures, self._warned_at = 0, time.monotonic()
        self._draw = secrets.SystemRandom().uniform

    def answers(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedResponse]:
        """Every answer, once; then the error that ended the run, if one did."""
        thread = threading.Thread(target=self._live, name=f"http {self._engine.name}", daemon=True)
        thread.start()
        try:
            loop = self._loop.result()
            yield from self._stream(loop, iter(requests))
        finally:
            if not self._loop.exception():
                self._loop.result().call_soon_threadsafe(self._leaving.set)
            thread.join()
        if self._error is not None:
            raise self._error

    def _stream(
        self, loop: asyncio.AbstractEventLoop, source: Iterator[GenerationRequest]
    ) -> Iterator[GeneratedResponse]:
        in_flight, finished, is_drained = 0, None, False
        while True:
            while in_flight < self._engine.in_flight and not is_drained and not self._is_over:
                request = next(source, None)
                if request is None:
                    is_drained = True
                else:
                    loop.call_soon_threadsafe(self._begin, request)
                    in_flight += 1
            if finished is not None:
                yield finished
            if not in_flight:
                return
            outcome = self._finished.get()
            in_flight -= 1
            if isinstance(outcome, BaseException):
                raise outcome
            finished = outcome

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 (handed to the caller, who raises it)
            if not self._loop.done():
                self._loop.set_exception(error)
            self._finished.put(error)

    # ------------------------------------------------------------------------------------------------------- the loop

    async def _serve(self) -> None:
        self._gate, self._probing, self._suspecting = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._stopping, self._leaving = asyncio.Event(), asyncio.Event()
        async with session(self._key, self._engine.in_flight + 1) as http:
            self._exchange = Exchange(http, self._engine.url, self._row.sampling.max_tokens, self._key)
            self._loop.set_result(asyncio.get_running_loop())
            await self._leaving.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, request: GenerationRequest) -> None:
        task = asyncio.ensure_future(self._outcome(request))
        self._tasks.add(task)
        task.add_done_callback(self._hand_over)

    def _hand_over(self, task: "asyncio.Task[GeneratedResponse | None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._finished.put(task.exception() or task.result())

    async def _outcome(self, request: GenerationRequest) -> GeneratedResponse | None:
        """The response to one request, or None where the run ended before."""
        question = self._question(request.messages, request.seed)
        try:
            reading = await self._until_told(question)
        except (HttpEngineError, BudgetSpent) as why:
            self._stop(why)
            return None
        except _Stopped:
            return None
        return GeneratedResponse(
            response_id=request.response_id,
            text=reading.text,
            finish_reason=reading.finish_reason,
            prompt_tokens=(reading.usage.prompt_tokens if reading.usage else None) or 0,
            response_tokens=reading.num_tokens,
            engine=f"http {reading.model or self._engine.host}",
            lost_prompt_tokens=question.lost[0],
            lost_response_tokens=question.lost[1],
            attempts=question.attempts,
            last_failure=question.last_failure,
        )

    async def _until_told(self, question: _Question) -> Answered | Refused:
        """What the server makes of a request in the end, sure that an error is the prompt's own.

        Raises:
            HttpEngineError: it makes nothing of any.
        """
        reading = await self._until_read(question)
        if isinstance(reading, Failed) and not reading.is_of_the_prompt:
            # The server may have been away for everybody. Where it is back, nobody is to blame yet.
            seen = self._answers
            await self._ask_harmless(_in_a_row(reading), unless=lambda: self._answers > seen)
            reading = await self._until_read(question)
        if isinstance(reading, Failed):
            return await self._suspected(question, reading)
        if isinstance(reading, Refused):
            await self._ask_harmless(reading.reason, unless=lambda: self._trust > 0)
        return reading

    async def _suspected(self, question: _Question, failed: Failed) -> Answered | Refused:
        """What becomes of a prompt that failed eight times: an error, once nothing but the prompt explains it.

        Failures while others are answered are the prompt's, where a harmless question is answered at once. Others may
        be the server's, or come of another prompt that breaks it for all. So suspects are asked one at a time, each
        between two harmless questions; what is busy for them in eight such rounds is so for them alone.

        Raises:
            HttpEngineError: the server fails at harmless questions too.
        """
        if failed.is_of_the_prompt and await self._ask_harmless(_in_a_row(failed)):
            return _set_aside(failed)
        async with self._suspecting:
            rounds = 0
            for number in range(MOST_ROUNDS):
                is_well = await self._ask_harmless(_in_a_row(failed))
                is_well = is_well or await self._ask_harmless(_in_a_row(failed))
                reading = await self._until_read(question, most=1)
                if not isinstance(reading, Failed):
                    return reading
                await self._ask_harmless(reading.reason)
                failed, rounds = reading, rounds + (is_well and not reading.is_unsent)
                if rounds >= (MOST_ATTEMPTS if failed.is_busy else 1):
                    return _set_aside(failed)
                await self._sleep(self._draw(0, _bound(number)))
        raise self._gone(
            f"it fails too often at harmless questions to tell whether a prompt is to blame: {failed.reason}"
        )

    async def _ask_harmless(self, reason: str, unless: Callable[[], bool] = lambda: False) -> bool:
        """Make sure that the server answers something, unless that is known when its turn comes.

        Returns:
            Whether it did so at once, as far as it was asked.

        Raises:
            HttpEngineError: the server fails at a harmless question too.
        """
        async with self._probing:
            harmless = replace(self._question(HARMLESS, 0), is_harmless=True)
            if not unless():
                reading = await self._until_read(harmless)
                if not isinstance(reading, Answered):
                    raise self._gone(
                        f"a harmless question ends as badly ({reading.reason}) as a prompt did ({reason}); wanted a "
                        "server that answers, and takes the row's model and sampling"
                    )
            self._trust -= 1
            return harmless.attempts <= 1

    async def _until_read(self, question: _Question, most: int = MOST_ATTEMPTS) -> Answered | Refused | Failed:
        """Ask until there is an answer; the last failure when as many came in a row as are borne.

        It is of the prompt when all of them were: each either says so itself, or came while others were answered.
        """
        failures, seen, is_of_the_prompt = 0, self._answers, True
        while True:
            reading = await self._attempt(question)
            if isinstance(reading, Ended):
                raise self._gone(f"{reading.reason}; AMR_HTTP_ENGINES and AMR_HTTP_KEY_<NAME> say whom to ask")
            if not isinstance(reading, Failed):
                return reading
            self._warn(reading)
            question.last_failure = reading.reason
            are_others_answered, seen = self._answers > seen, self._answers
            failures = 1 if reading.is_busy and are_others_answered else failures + 1
            is_met_alone = are_others_answered and not reading.is_busy and not reading.is_unsent
            is_of_the_prompt = is_of_the_prompt and (reading.is_of_the_prompt or is_met_alone)
            if reading.pause_seconds is not None:
                if reading.pause_seconds > LONGEST_PAUSE_SECONDS:
                    raise self._gone(f"it asks to be left alone for {reading.pause_seconds:,.0f} s ({reading.reason})")
                self._engine.pace.pause(reading.pause_seconds)
            if failures >= most:
                return replace(reading, is_of_the_prompt=is_of_the_prompt)
            await self._sleep(self._draw(0, _bound(failures - 1)))
            if not question.is_harmless:
                async with self._probing:  # what failed may be what breaks the server for the harmless question
                    pass

    async def _attempt(self, question: _Question) -> Reading:
        """Ask once, when pace and budget allow it; what it cost is counted whatever comes."""
        most = self._draws.most(question.payload)
        likely = most[0] / 4 + (self._tokens / self._answers if self._answers else float(most[1]))
        await self._turn(most, likely)
        question.attempts += 1
        used: tuple[int, int] | None = None
        try:
            reading = await self._exchange.reading_of(question.payload)
            used = cost_of(reading)
        finally:
            self._draws.settle(question.payload, most, used)
            self._engine.pace.correct(0 if used is None else sum(used) - likely)
        if isinstance(reading, Answered):
            self._answers, self._trust = self._answers + 1, TRUSTED_ERRORS
            self._tokens += reading.num_tokens
        elif used is None:
            question.lost = (question.lost[0] + most[0], question.lost[1] + most[1])
        return reading

    async def _turn(self, most: tuple[int, int], likely: float) -> None:
        """Wait, one behind the other, until a request may go out.

        Raises:
            BudgetSpent: it may not any more.
        """
        pace, wait = self._engine.pace, 0.0
        async with self._gate:
            while True:
                await self._sleep(wait)
                wait = pace.seconds_to_wait()
                if not wait and self._draws.reserve(most):
                    return pace.take(likely)
                wait = wait or BUDGET_LOOK_SECONDS

    def _question(self, messages: tuple[tuple[str, str], ...], seed: int) -> _Question:
        return _Question(payload_of(self._row, messages, seed))

    # -------------------------------------------------------------------------------------------------------- the end

    def _gone(self, reason: str) -> HttpEngineError:
        return HttpEngineError(f"the engine of {self._engine.name!r} at {self._engine.host}: {reason}")

    def _stop(self, why: HttpEngineError | BudgetSpent) -> None:
        """Ask nothing more; what the server is writing is taken in."""
        if isinstance(why, HttpEngineError):
            self._error = self._error or why
        if not self._is_over:
            self._is_over = True
            self._stopping.set()
            log.warning("%s; asking nothing more, and taking in what %d requests get", why, len(self._tasks) - 1)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than the run lasts.

        Raises:
            _Stopped: it ended.
        """
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise _Stopped

    def _warn(self, failed: Failed) -> None:
        self._failures += 1
        now = time.monotonic()
        if self._failures == 1 or now - self._warned_at >= SECONDS_BETWEEN_WARNINGS:
            self._warned_at = now
            log.warning("%s: failure %d: %s", self._engine.name, self._failures, failed.reason)


def _bound(number: int) -> float:
    """Seconds that the wait after so many failures is drawn below."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**number)


def _in_a_row(failed: Failed) -> str:
    return f"{MOST_ATTEMPTS} attempts in a row failed, the last one with: {failed.reason}"


def _set_aside(failed: Failed) -> Refused:
    return Refused(reason=f"{MOST_ATTEMPTS} attempts failed, while others are answered: {failed.reason}")
