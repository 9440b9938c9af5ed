"""One chat request to a server and what came back, whatever the network does.

Belongs here: what is sent, connections, how long one is waited for, how much of an answer is read. Does not belong
here: asking again (`http_engine`), what an answer means (`http_answers`).
"""

import json

import aiohttp

from amr_pipeline.engines.engine_work import well_formed
from amr_pipeline.engines.http_answers import Ended, Failed, HttpKey, Reading, hidden, read_answer, unreadable_size
from amr_pipeline.studies.study import Distiller

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 3_600.0
"""A long response takes its time, and nothing comes before it is finished."""

IDLE_CONNECTION_SECONDS = 4.0
"""Kept open shorter than servers keep theirs (uvicorn: five seconds), so that no request meets a closing one."""

ANSWER_BYTES, BYTES_PER_TOKEN = 2**20, 256
"""Longest answer that is read: so much, and so much more for every token asked for."""


def session(key: HttpKey | None, connections: int) -> aiohttp.ClientSession:
    """Connections to one server, so many at most, for the event loop that runs; certificates are verified."""
    return aiohttp.ClientSession(
        headers=_headers(key),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=IDLE_CONNECTION_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # a few bytes could become gigabytes
    )


def payload_of(row: Distiller, messages: tuple[tuple[str, str], ...], seed: int) -> bytes:
    """A chat request as a distiller's row says it; `messages` are (role, content)."""
    sampling = row.sampling
    body: dict[str, object] = {
        "model": row.model,
        "messages": [{"role": well_formed(role), "content": well_formed(text)} for role, text in messages],
        "seed": seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    body |= {"top_k": sampling.top_k} if sampling.top_k else {}
    return json.dumps(body, ensure_ascii=False).encode()


class Exchange:
    """What posts requests to one address.

    Args:
        http: its connections.
        url: where chat requests go.
        most_tokens: of a response, which bounds how much of an answer is read.
        key: what is hidden in texts.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, most_tokens: int, key: HttpKey | None) -> None:
        self._http, self._url, self._hide = http, url, hidden(key)
        self._most_bytes = ANSWER_BYTES + BYTES_PER_TOKEN * most_tokens

    async def reading_of(self, payload: bytes) -> Reading:
        """One request and what came back: the boundary where whatever the network does becomes a `Reading`."""
        try:
            async with self._http.post(self._url, data=payload, allow_redirects=False) as answer:
                read = bytearray()
                async for piece in answer.content.iter_any():
                    read += piece
                    if len(read) > self._most_bytes:
                        return unreadable_size(self._most_bytes)
                return read_answer(answer.status, answer.headers, bytes(read), self._hide)
        except aiohttp.ClientConnectorCertificateError:
            return Ended(reason="its certificate cannot be verified")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failed(reason=f"no connection ({type(error).__name__})", is_unsent=True)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Its text may hold headers, and with them the key.
            return Failed(reason=f"the connection ended without an answer ({type(error).__name__})", is_lost=True)


def _headers(key: HttpKey | None) -> dict[str, str]:
    """What every request says of itself; compressed answers are not read."""
    said = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    return said | ({"Authorization": f"Bearer {key.text}"} if key else {})
