"""A server that cannot be asked is found by one harmless question, and no key is shown or sent elsewhere."""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from amr_pipeline.engines.http_answers import HttpKey
from amr_pipeline.engines.http_check import check_http_engine
from amr_pipeline.report.findings import Finding

KEY = HttpKey("sk-canary-0123456789")
MODELS = json.dumps({"object": "list", "data": [{"id": "r1-7b"}, {"id": "other"}]}).encode()


@dataclass
class Server:
    """What it answers, and what it was asked."""

    status: int = 200
    body: bytes = MODELS
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on loopback whose address ends with /v1."""
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append((self.command, self.path, self.headers["Authorization"]))
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        def log_message(self, *args: object) -> None:
            """Nothing to say."""

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"http://127.0.0.1:{listener.server_port}/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield told
    listener.shutdown()
    thread.join()
    listener.server_close()


def looked(address: str, key: HttpKey | None = KEY, model: str | None = "r1-7b") -> Finding:
    return check_http_engine("far", address, key, model, "AMR_HTTP_KEY_FAR")


def test_one_question_that_costs_nothing_is_asked_with_the_key(server: Server):
    assert looked(server.address).level == "ok"
    assert server.asked == [("GET", "/v1/models", f"Bearer {KEY.text}")]
    assert looked(server.address, key=None).level == "ok"
    assert server.asked[1][2] is None


def test_a_refused_key_is_broken_until_it_is_taken(server: Server):
    server.status = 401
    found = looked(server.address)
    assert (found.level, "refuses the key (401)" in found.found) == ("broken", True)
    assert found.fix == "set AMR_HTTP_KEY_FAR to a valid key"
    assert "wants a key" in looked(server.address, key=None).found
    assert "canary" not in str(found)
    server.status = 200
    assert looked(server.address).level == "ok"


def test_an_address_where_nothing_answers_is_broken(free_port: int):
    found = looked(f"http://127.0.0.1:{free_port}/v1")
    assert (found.level, f"no answer from 127.0.0.1:{free_port}" in found.found) == ("broken", True)
    assert "AMR_HTTP_ENGINES=far=" in found.fix


def test_a_model_that_is_not_served_is_broken_and_serving_it_by_that_name_is_the_fix(server: Server):
    found = looked(server.address, model="r1-32b")
    assert (found.level, "it has r1-7b, other" in found.found) == ("broken", True)
    assert "--served-model-name r1-32b" in found.fix
    server.body = MODELS.replace(b"other", b"r1-32b")
    assert looked(server.address, model="r1-32b").level == "ok"


def test_a_redirect_is_not_followed(server: Server):
    server.status, server.headers = 307, {"Location": server.address + "/elsewhere"}
    assert looked(server.address).level == "broken"
    assert len(server.asked) == 1


def test_a_wrong_path_is_named_as_such(server: Server):
    server.status = 404
    found = looked(server.address)
    assert (found.level, "/v1" in found.wanted) == ("warning", True)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"data": 3}', b'{"data": [3, {"id": null}]}', b"[" * 100_000]
)
def test_whatever_a_server_says_there_is_a_finding(server: Server, body: bytes):
    server.body = body
    assert looked(server.address, model=None).level == "ok"
    assert looked(server.address).level in ("ok", "broken")
