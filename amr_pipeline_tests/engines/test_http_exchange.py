"""What the network does to one request, and how much of an answer is read."""

import resource
import ssl
import threading

import aiohttp
import pytest

from amr_pipeline.engines.http_answers import HttpKey
from amr_pipeline.engines.http_limits import HttpEngineError
from amr_pipeline_tests.engines.faulty_server import Reply, echo, serving
from amr_pipeline_tests.engines.http_asking import CANARY, ROW, ask, engine, quick, requests, until_error

pytestmark = pytest.mark.usefixtures(quick.__name__)


def test_huge_answers_are_not_read_to_their_end():
    with serving(
        lambda asked: Reply(body=b" " * 300_000_000) if asked.question == "question 0" else echo(asked)
    ) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {one.response_id: one for one in ask(server, 3)}
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert "an answer of more than 1,061,376 bytes" in found["id0"].text
    assert grown < 700_000, "the server's own copies, in KiB"


def test_compressed_answers_are_not_unpacked():
    import gzip

    bomb = Reply(headers={"Content-Encoding": "gzip"}, body=gzip.compress(b" " * 50_000_000))
    with serving(lambda asked: bomb if asked.question == "question 0" else echo(asked)) as server:
        found = {one.response_id: one for one in ask(server, 3)}
    assert found["id0"].text.endswith("an answer that is no JSON object")
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n", b"\0" * 100])  # fmt: skip
def test_what_is_no_http_is_a_lost_connection(raw: bytes):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(65_536)
                    connection.sendall(raw)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(HttpEngineError, match="the connection ended without an answer"):
                list(
                    engine(f"http://127.0.0.1:{listener.getsockname()[1]}/v1").responses(
                        ROW, HttpKey(CANARY), requests(2)
                    )
                )
        finally:
            done.set()
            thread.join()


def test_certificates_are_verified(monkeypatch: pytest.MonkeyPatch):
    seen: list[object] = []
    connector = aiohttp.TCPConnector

    def noted(**given: object) -> aiohttp.TCPConnector:
        made = connector(**given)  # type: ignore[arg-type]
        seen.append(made._ssl)
        return made

    monkeypatch.setattr(aiohttp, "TCPConnector", noted)
    with serving() as server:
        ask(server, 1)
    assert seen == [True]
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED


def test_a_certificate_that_nobody_signed_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    unsigned = ssl.SSLCertVerificationError("self-signed")

    async def connect(*_: object, **__: object) -> object:
        raise aiohttp.ClientConnectorCertificateError(_Key(), unsigned)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", connect)
    with serving() as server:
        _, problem = until_error(server, 3)
    assert "its certificate cannot be verified" in str(problem)
    assert server.asked == []


class _Key:
    """What aiohttp's errors ask of a connection key."""

    host, port, is_ssl, ssl = "h", 1, True, True
