"""A proxy in front of an S3 server that refuses, delays, swallows or loses what it is told to.

Belongs here: the faults. Does not belong here: the store behind it (`servers`), what a writer should make of them.
"""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from amr_pipeline_tests.listening import hang_up, listening

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens to one request.

    Attributes:
        status, code: it is refused with this instead of being passed on.
        seconds: it is held so long first.
        reply_is_lost: it is passed on and carried out, and whoever sent it never hears of that.
    """

    status: int | None = None
    code: str = "SlowDown"
    seconds: float = 0.0
    reply_is_lost: bool = False


Script = Callable[[str, str], Trouble | None]
"""Method and path of a request to its trouble; None: it has none."""


def well(method: str, path: str) -> None:
    """Everything passes."""


class FaultyStore:
    """The proxy's address, what it does, and how often it did it."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.script = urlsplit(upstream), well  # type: tuple[...], Script
        self.troubles: Counter[str] = Counter()
        self.url = ""
        self._lock = threading.Lock()

    @contextmanager
    def doing(self, script: Script) -> Iterator[None]:
        """Follow a script until the block ends."""
        self.script = script
        try:
            yield
        finally:
            self.script = well

    def trouble(self, method: str, path: str) -> Trouble:
        found = self.script(method, path) or Trouble()
        with self._lock:
            if found != Trouble():
                self.troubles[method] += 1
        return found


def sometimes(trouble: Trouble, *, one_in: int, methods: tuple[str, ...] = ("GET", "PUT", "HEAD")) -> Script:
    """The same trouble for every so-manyth request of some methods; its repetition passes."""
    counter, lock = Counter[str](), threading.Lock()

    def script(method: str, path: str) -> Trouble | None:
        with lock:
            counter[method] += 1
            return trouble if method in methods and counter[method] % one_in == 0 else None

    return script


@contextmanager
def faulty_store(upstream: str) -> Iterator[FaultyStore]:
    """The proxy, until the block ends."""
    proxy = FaultyStore(upstream)

    class Handler(_Handler):
        store = proxy

    with listening(Handler) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FaultyStore

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        trouble = self.store.trouble(self.command, self.path)
        time.sleep(trouble.seconds)
        if trouble.status is not None:
            text = f"<Error><Code>{trouble.code}</Code><Message>as the test wants</Message></Error>"
            self._reply(trouble.status, [("Content-Type", "application/xml")], text.encode())
            return
        status, headers, content = self._ask(body)
        if trouble.reply_is_lost:
            hang_up(self)
            return
        self._reply(status, headers, content)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Every method is passed on alike."""
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The store's own answer. Headers go through as they came, since the signature covers some of them."""
        upstream = http.client.HTTPConnection(self.store.upstream.netloc, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing to say."""
