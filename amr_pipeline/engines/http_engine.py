"""A distiller behind an OpenAI-compatible address: a `vllm serve` of one's own, or a hosted API.

Requests are pulled as places come free and answers are handed on as they finish, so memory holds what is in flight.
Exchanges go on in a thread of their own while the caller commits.

What is tried again: lost connections, deadlines, 408, 409, 425, 429 and 5xx, with exponential waits of full jitter and
after whatever pause the server asks for; eight times in a row, then the run ends. A busy server (429, 503) that
answers others meanwhile is not counted. What is not: any other 4xx is this prompt's own error, and 401 to 405 end the
run. Errors are stored for good, so none is taken for the prompt's before the server has answered something: a harmless
question is asked where it has not, again after eight errors in a row, and after eight failures of one prompt (HTTP 500
or an unreadable answer).

Belongs here: asking, waiting, giving up. Does not belong here: what an answer means (`http_answers`), pace and budget
(`http_limits`), addresses and keys (`assets.resources`).
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
from dataclasses import replace
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
    hidden,
    read_answer,
    unreadable_size,
)
from amr_pipeline.engines.http_limits import HttpBudget, HttpEngineError, Pace
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
        pace: how often it may be asked; budget: what all engines of this process may spend.
    """

    def __init__(self, *, name: str, address: str, in_flight: int, pace: Pace, budget: HttpBudget) -> None:
        self.name, self.in_flight, self.pace, self.budget = name, in_flight, pace, budget
        self.url = f"{address.rstrip('/')}/chat/completions"
        self.host = urlsplit(address).netloc

    def responses(
        self, row: Distiller, key: HttpKey | None, requests: Iterable[GenerationRequest]
    ) -> Iterator[GeneratedResponse]:
        """Responses of one distiller, each as it finishes (`responses.generation.Generate`).

        Raises:
            HttpEngineError: the server cannot be reached, refuses everything, or the budget is spent; what is not
                yielded yet stays owed.
        """
        return _Run(self, row, key).answers(requests)


class _Stopped(Exception):
    """The run ended before this request was answered."""


class _Run:
    """One caller's stream of requests to an address.

    Methods without `async` but `_begin` and `_hand_over` are the caller's thread; all others are the loop's.
    """

    def __init__(self, engine: HttpEngine, row: Distiller, key: HttpKey | None) -> None:
        self._engine, self._row, self._key, self._hide = engine, row, key, hidden(key)
        self._most_bytes = ANSWER_BYTES + BYTES_PER_TOKEN * row.sampling.max_tokens
        self._finished: queue.SimpleQueue[GeneratedResponse | BaseException | None] = queue.SimpleQueue()
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._tasks: set[asyncio.Task[GeneratedResponse | None]] = set()
        self._error: HttpEngineError | None = None
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
            while in_flight < self._engine.in_flight and not is_drained and self._error is None:
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
        try:
            reading = await self._until_told(request.messages, request.seed)
        except HttpEngineError as error:
            self._stop(error)
            return None
        except _Stopped:
            return None
        if isinstance(reading, Refused):
            return self._response(request, reading, text=reading.reason, finish_reason="error", model="")
        return self._response(
            request, reading, text=reading.text, finish_reason=reading.finish_reason, model=reading.model
        )

    def _response(
        self, request: GenerationRequest, reading: Answered | Refused, *, text: str, finish_reason: str, model: str
    ) -> GeneratedResponse:
        usage, counted = reading.usage, len(text.split()) if finish_reason != "error" else 0
        tokens = usage.response_tokens if usage else None
        return GeneratedResponse(
            response_id=request.response_id,
            text=text,
            finish_reason=finish_reason,
            prompt_tokens=(usage.prompt_tokens if usage else None) or 0,
            response_tokens=counted if tokens is None else tokens,
            engine=f"http {model or self._engine.host}",
        )

    async def _until_told(self, messages: tuple[tuple[str, str], ...], seed: int) -> Answered | Refused:
        """What the server makes of a request in the end, sure that an error is the prompt's own.

        Raises:
            HttpEngineError: it makes nothing of any.
        """
        body = self._body(messages, seed)
        reading = await self._until_read(body)
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
                reading = await self._until_read(self._body(HARMLESS, 0))
                if not isinstance(reading, Answered):
                    raise self._gone(
                        f"a harmless question ends as badly ({reading.reason}) as a prompt did ({reason}); wanted a "
                        "server that takes the row's model and sampling"
                    )
            self._trust -= 1

    async def _until_read(self, body: dict[str, object]) -> Answered | Refused | Failed:
        """Ask until there is an answer; the last failure when as many came in a row as are borne."""
        failures, seen, is_of_the_prompt = 0, self._answers, True
        while True:
            reading = await self._attempt(body)
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

    async def _attempt(self, body: dict[str, object]) -> Reading:
        """Ask once, when pace and budget allow it; what it cost is counted whatever comes."""
        payload = json.dumps(body, ensure_ascii=False).encode()
        most = len(payload) + self._row.sampling.max_tokens  # a token of the prompt has at least one byte
        likely = len(payload) / 4 + (
            self._tokens / self._answers if self._answers else float(self._row.sampling.max_tokens)
        )
        await self._turn(most, likely)
        used: int | None = None
        try:
            reading = await self._exchange(payload)
            used = _cost(reading)
        finally:
            self._engine.budget.settle(most, most if used is None else used)
            self._engine.pace.correct(0 if used is None else used - likely)
        if isinstance(reading, Answered):
            self._answers, self._trust = self._answers + 1, TRUSTED_ERRORS
            self._tokens += reading.usage.response_tokens or len(reading.text.split())
        return reading

    async def _turn(self, most: int, likely: float) -> None:
        """Wait, one behind the other, until a request may go out.

        Raises:
            BudgetSpentError: it may not any more.
        """
        pace, budget, wait = self._engine.pace, self._engine.budget, 0.0
        async with self._gate:
            while True:
                await self._sleep(wait)
                wait = pace.seconds_to_wait()
                if not wait and budget.reserve(most):
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

    def _body(self, messages: tuple[tuple[str, str], ...], seed: int) -> dict[str, object]:
        sampling = self._row.sampling
        body: dict[str, object] = {
            "model": self._row.model,
            "messages": [{"role": well_formed(role), "content": well_formed(text)} for role, text in messages],
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        return body | ({"top_k": sampling.top_k} if sampling.top_k else {})

    # -------------------------------------------------------------------------------------------------------- the end

    def _gone(self, reason: str) -> HttpEngineError:
        return HttpEngineError(f"the engine of {self._engine.name!r} at {self._engine.host}: {reason}")

    def _stop(self, error: HttpEngineError) -> None:
        """Ask nothing more; what the server is writing is taken in."""
        if self._error is None:
            self._error = error
            self._stopping.set()
            log.error("%s; asking nothing more, and taking in what %d requests get", error, len(self._tasks) - 1)

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


def _cost(reading: Reading) -> int | None:
    """Tokens that an exchange cost; None: unknown, perhaps the most that it may."""
    if isinstance(reading, Answered):
        return reading.usage.total
    if isinstance(reading, Refused):
        return 0 if reading.usage is None else reading.usage.total
    return None if isinstance(reading, Failed) and reading.is_lost else 0
