"""Whoever is told of failures: a server that keeps what it was sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from amr_pipeline_tests.listening import listening


@contextmanager
def listener(secret: str, *statuses: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that answers with each status in turn, the last one for ever; its address, and what it was sent."""
    taken: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(statuses[min(len(taken), len(statuses)) - 1])
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}/{secret}?thread=1", taken
