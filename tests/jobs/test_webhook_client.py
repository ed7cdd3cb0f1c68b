"""One request of a webhook: which address it reaches, and what TLS proves."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from jobs.webhook_client import WebhookClient, WebhookFailedError
from jobs.webhook_target import read_networks
from tests.jobs.receiver import Receiver

HEADERS = {"webhook-id": "msg_1"}
BODY = b'{"type": "job.completed"}'
LOOPBACK = "127.0.0.1/32"


class Names:
    """The names of the tests; each look-up takes the next answer, the last one again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[list[str]]) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        name = host if isinstance(host, str) else host.decode()
        if not name.endswith(".test"):
            return self._real(host, port, *arguments, **options)
        self.asked.append(name)
        answers = self._answers[name.removesuffix(".test")]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [_info(address) for address in answer]


def _info(address: str) -> Any:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (family, socket.SOCK_STREAM, 6, "", (address, 0))


def send(url: str, networks: str = LOOPBACK, *, seconds: float = 30) -> int:
    async def run() -> int:
        client = WebhookClient(read_networks(networks), seconds)
        try:
            return await client.send(url, HEADERS, BODY)
        finally:
            await client.close()

    return asyncio.run(run())


def test_the_checked_address_gets_the_request_with_the_name_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(monkeypatch, hooks=[["127.0.0.1"], ["127.0.0.2"]])
    with Receiver() as receiver:
        status = send(receiver.url("/ok?order=17", "hooks.test"))

    assert status == 204
    assert names.asked == ["hooks.test"], "a second look-up could give another address"
    [message] = receiver.messages
    assert message.headers["host"] == f"hooks.test:{receiver.port}"
    assert (message.path, message.body, message.id) == ("/ok?order=17", BODY, "msg_1")


def test_an_address_that_is_refused_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, mixed=[["::1", "10.0.0.1", "169.254.169.254", "127.0.0.1"]])
    with Receiver() as receiver:
        assert send(receiver.url("/ok", "mixed.test"), seconds=5) == 204


def test_an_address_that_does_not_answer_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, twice=[["127.0.0.2", "127.0.0.1"]])
    with Receiver() as receiver:
        assert send(receiver.url("/ok", "twice.test"), "127.0.0.0/8") == 204


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "169.254.169.254", "10.1.2.3"],
)
def test_a_name_of_a_private_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, private=[[address]])
    with Receiver() as receiver, pytest.raises(WebhookFailedError, match="is not public"):
        send(receiver.url("/ok", "private.test"), networks="")

    assert receiver.messages == []


def test_a_receiver_that_never_answers_has_a_time_limit() -> None:
    with Receiver() as receiver, pytest.raises(WebhookFailedError, match=r"within 0\.2 seconds"):
        send(receiver.url("/hangs"), seconds=0.2)


@pytest.mark.parametrize(
    "sent",
    [b"", b"\x00\xff nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"x" * 1_000_000],
)
def test_a_response_that_is_not_http_fails(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                try:
                    connection.sendall(sent)
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(WebhookFailedError):
            send(f"http://127.0.0.1:{server.getsockname()[1]}/")


def test_a_cookie_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def run(port: int) -> None:
        client = WebhookClient(read_networks(LOOPBACK), 30)
        for _ in range(2):
            await client.send(f"http://127.0.0.1:{port}/", HEADERS, BODY)
        await client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    seen.append(connection.recv(65_536).decode().lower())
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nset-cookie: a=b\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        asyncio.run(run(server.getsockname()[1]))
        thread.join(30)

    assert len(seen) == 2
    assert "cookie" not in seen[1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_proves_the_name_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "1"]
    command += ["-subj", "/CN=hooks.test", "-addext", "subjectAltName=DNS:hooks.test"]
    subprocess.run(command, check=True, capture_output=True)
    Names(monkeypatch, hooks=[["127.0.0.1"]], others=[["127.0.0.1"]])
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    greeted: list[str | None] = []
    served.sni_callback = lambda _socket, name, _context: greeted.append(name)
    with Receiver() as receiver:
        receiver.use_tls(served)
        url = receiver.url("/ok", "hooks.test").replace("http:", "https:")
        with pytest.raises(WebhookFailedError):
            send(url)
        # As the chart sets it with a bundle of certificate authorities.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        status = send(url)
        with pytest.raises(WebhookFailedError):
            send(url.replace("hooks.", "others."))

    assert status == 204
    assert greeted[0] == "hooks.test"
    assert len(receiver.messages) == 1
