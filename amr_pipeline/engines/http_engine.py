"""A distiller behind an OpenAI-compatible address: a `vllm serve` of one's own, or a hosted API.

Requests are pulled as places come free and answers are handed on as they finish, so memory holds what is in flight.
Exchanges go on in a thread of their own while the caller commits.

What is tried again: lost connections, deadlines, 408, 409, 425, 429 and 5xx, with exponential waits of full jitter and
after whatever pause the server asks for; eight times in a row, then the run ends. A busy server (429, 503) that
answers others meanwhile is not counted. What is not: any other 4xx is this prompt's own error, and 401 to 405 end the
run. Errors are stored for good, so none is taken for the prompt's before the server has answered something: a harmless
question is asked where it has not, again after eight errors in a row, and after eight failures of one prompt (HTTP 500
or an unreadable answer). A spent budget is no error: nothing more is asked, and the stream ends with what came.

Belongs here: asking, waiting, giving up. Does not belong here: what an answer means (`http_answers`), pace and what is
reserved (`http_limits`), addresses and keys (`assets.deployment`).
"""

import asyncio
import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import aiohttp

from amr_pipeline.engines.engine_work import well_formed
from amr_pipeline.engines.http_answers import (
    Answered,
    Ended,
    Failed,
    HttpKey,
    Reading,
    Refused,
    cost_of,
    hidden,
    read_answer,
    unreadable_size,
)
from amr_pipeline.engines.http_limits import Draw, HttpEngineError, Pace
from amr_pipeline.responses.budget import Budget, BudgetSpent
from amr_pipeline.responses.generation import GeneratedResponse, GenerationRequest
from amr_pipeline.studies.study import Distiller

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 8
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
"""A wait is drawn between 0 and a bound that doubles with every failure in a row."""

LONGEST_PAUSE_SECONDS = 3_600.0
"""A server that wants to be left alone for longer ends the run."""

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 3_600.0
"""A long response takes its time, and nothing comes before it is finished."""

IDLE_CONNECTION_SECONDS = 4.0
"""Kept open shorter than servers keep theirs (uvicorn: five seconds), so that no request meets a closing one."""

TRUSTED_ERRORS = 8
"""Errors in a row that are taken for the prompts' own before a harmless question is asked."""

BUDGET_LOOK_SECONDS = 0.2
SECONDS_BETWEEN_WARNINGS = 60.0

ANSWER_BYTES, BYTES_PER_TOKEN = 2**20, 256
"""Longest answer that is read: so much, and so much more for every token asked for."""

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
    """What is asked, and the prompt and response tokens that attempts without an answer may have cost."""

    payload: bytes
    lost: tuple[int, int] = (0, 0)


class _Run:
    """One caller's stream of requests to an address.

    Methods without `async` but `_begin` and `_hand_over` are the caller's thread; all others are the loop's.
    """

    def __init__(self, engine: HttpEngine, row: Distiller, key: HttpKey | None, draw: Draw) -> None:
        self._engine, self._row, self._key, self._hide, self._draws = engine, row, key, hidden(key), draw
        self._most_bytes = ANSWER_BYTES + BYTES_PER_TOKEN * row.sampling.max_tokens
        self._finished: queue.SimpleQueue[GeneratedResponse | BaseException | None] = queue.SimpleQueue()
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._tasks: set[asyncio.Task[GeneratedResponse | None]] = set()
        self._error: HttpEngineError | None = None
        self._is_over = False
        self._answers = self._tokens = self._trust = 0
        self._failures, self._warned_at = 0, time.monotonic()
        self._draw = secrets.SystemRandom().uniform

    # ------------------------------------------------------------------------------------------- the caller's thread

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
        self._gate, self._probing = asyncio.Lock(), asyncio.Lock()
        self._stopping, self._leaving = asyncio.Event(), asyncio.Event()
        async with aiohttp.ClientSession(
            headers=_headers(self._key),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=self._engine.in_flight + 1, keepalive_timeout=IDLE_CONNECTION_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a few bytes could become gigabytes
        ) as self._http:
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
        )

    async def _until_told(self, question: _Question) -> Answered | Refused:
        """What the server makes of a request in the end, sure that an error is the prompt's own.

        Raises:
            HttpEngineError: it makes nothing of any.
        """
        reading = await self._until_read(question)
        if isinstance(reading, Failed):
            if not reading.is_of_the_prompt:
                raise self._gone(f"{MOST_ATTEMPTS} attempts in a row failed, the last one with: {reading.reason}")
            await self._ask_harmless(reading.reason, is_due=True)
            return Refused(reason=f"{MOST_ATTEMPTS} attempts failed, while others are answered: {reading.reason}")
        if isinstance(reading, Refused):
            await self._ask_harmless(reading.reason, is_due=False)
        return reading

    async def _ask_harmless(self, reason: str, *, is_due: bool) -> None:
        """Make sure that an error is the prompt's; without it where an answer came lately, unless it is due.

        Raises:
            HttpEngineError: the server fails at a harmless question too.
        """
        async with self._probing:
            if is_due or self._trust <= 0:
                reading = await self._until_read(self._question(HARMLESS, 0))
                if not isinstance(reading, Answered):
                    raise self._gone(
                        f"a harmless question ends as badly ({reading.reason}) as a prompt did ({reason}); wanted a "
                        "server that takes the row's model and sampling"
                    )
            self._trust -= 1

    async def _until_read(self, question: _Question) -> Answered | Refused | Failed:
        """Ask until there is an answer; the last failure when as many came in a row as are borne."""
        failures, seen, is_of_the_prompt = 0, self._answers, True
        while True:
            reading = await self._attempt(question)
            if isinstance(reading, Ended):
                raise self._gone(f"{reading.reason}; AMR_HTTP_ENGINES and AMR_HTTP_KEY_<NAME> say whom to ask")
            if not isinstance(reading, Failed):
                return reading
            if reading.is_busy and self._answers > seen:
                failures = 0
            failures, seen = failures + 1, self._answers
            is_of_the_prompt = is_of_the_prompt and reading.is_of_the_prompt
            self._warn(reading)
            if failures >= MOST_ATTEMPTS:
                return replace(reading, is_of_the_prompt=is_of_the_prompt)
            if reading.pause_seconds is not None:
                if reading.pause_seconds > LONGEST_PAUSE_SECONDS:
                    raise self._gone(f"it asks to be left alone for {reading.pause_seconds:,.0f} s ({reading.reason})")
                self._engine.pace.pause(reading.pause_seconds)
            bound = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (failures - 1))
            await self._sleep(self._draw(0, bound))

    async def _attempt(self, question: _Question) -> Reading:
        """Ask once, when pace and budget allow it; what it cost is counted whatever comes."""
        most = self._draws.most(question.payload)
        likely = most[0] / 4 + (self._tokens / self._answers if self._answers else float(most[1]))
        await self._turn(most, likely)
        used: tuple[int, int] | None = None
        try:
            reading = await self._exchange(question.payload)
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

    async def _exchange(self, payload: bytes) -> Reading:
        """One request and what came back: the boundary where whatever the network does becomes a `Reading`."""
        try:
            async with self._http.post(self._engine.url, data=payload, allow_redirects=False) as answer:
                read = bytearray()
                async for piece in answer.content.iter_any():
                    read += piece
                    if len(read) > self._most_bytes:
                        return unreadable_size(self._most_bytes)
                return read_answer(answer.status, answer.headers, bytes(read), self._hide)
        except aiohttp.ClientConnectorCertificateError:
            return Ended(reason="its certificate cannot be verified")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failed(reason=f"no connection ({type(error).__name__})")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Its text may hold headers, and with them the key.
            return Failed(reason=f"the connection ended without an answer ({type(error).__name__})", is_lost=True)

    def _question(self, messages: tuple[tuple[str, str], ...], seed: int) -> _Question:
        sampling = self._row.sampling
        body: dict[str, object] = {
            "model": self._row.model,
            "messages": [{"role": well_formed(role), "content": well_formed(text)} for role, text in messages],
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        return _Question(json.dumps(body, ensure_ascii=False).encode())

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


def _headers(key: HttpKey | None) -> dict[str, str]:
    """What every request says of itself; compressed answers are not read."""
    said = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    return said | ({"Authorization": f"Bearer {key.text}"} if key else {})
