"""A chat server on loopback that answers as it is told: well, badly, late, or not at all.

Belongs here: the server and the faults that several tests ask for. Does not belong here: what an engine should make of
them.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from amr_pipeline_tests.listening import hang_up, listening


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as the server saw it; `number` counts from 0."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def question(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What it sends. `hang_up` sends nothing; `cut_off` ends in the middle of the body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    hang_up: bool = False
    cut_off: bool = False


Script = Callable[[Asked], Reply]


def chat(content: object, *, finish_reason: object = "stop", usage: object = None, **message: object) -> Reply:
    """A well-formed answer."""
    document = {
        "model": "served-model",
        "choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2} if usage is None else usage,
    }
    return Reply(body=json.dumps(document).encode())


def echo(asked: Asked) -> Reply:
    """The question in capitals."""
    return chat(asked.question.upper())


def error(status: int, message: str = "no", **headers: str) -> Reply:
    """An error as servers word it; header names have underscores here."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=json.dumps({"error": {"message": message}}).encode())


class Server:
    """What was asked, when, and how many requests were under way together."""

    def __init__(self, script: Script) -> None:
        self.script, self.asked, self.at = script, list[Asked](), list[float]()
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.address = ""

    def reply(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        with self.lock:
            asked = Asked(number=len(self.asked), path=path, headers=headers, body=json.loads(body))
            self.asked.append(asked)
            self.at.append(time.monotonic())
        return self.script(asked)


@contextmanager
def serving(script: Script = echo) -> Iterator[Server]:
    """The server, until the block ends; its address goes up to and including `/v1`."""
    server = Server(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with server.lock:
                server.under_way += 1
                server.most_under_way = max(server.most_under_way, server.under_way)
            try:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send(server.reply(self.path, dict(self.headers), body))
            finally:
                with server.lock:
                    server.under_way -= 1

        def send(self, reply: Reply) -> None:
            time.sleep(reply.seconds)
            if reply.hang_up:
                hang_up(self)
                return
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut_off else reply.body)
            self.close_connection = self.close_connection or reply.cut_off

        def log_message(self, *args: object) -> None:
            """Nothing to say."""

    with listening(Handler) as port:
        server.address = f"http://127.0.0.1:{port}/v1"
        yield server
