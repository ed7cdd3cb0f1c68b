"""The script of ``helm test``, run as in its pod against a stand-in for the predictor."""

from __future__ import annotations

import http.server
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from .rendering import case


class Predictor(http.server.ThreadingHTTPServer):
    """Answers each POST with the next of ``answers``, then keeps repeating the last."""

    def __init__(self, answers: list[tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.authorization: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/models/any:predict"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Predictor

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        self.server.authorization = self.headers["Authorization"]
        answers = self.server.answers
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def png(size: tuple[int, int] = (3, 2)) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 50).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def predictor() -> Iterator[Predictor]:
    with Predictor([(200, png())]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run_test(
    *urls: str, seconds: str = "30", prompt: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command of the rendered pod with other URLs."""
    (pod,) = case("default").hooks
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["python", "-c"]
    script, default, _, _ = container["args"]
    command = [sys.executable, "-c", script, prompt or default, seconds, *urls]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_it_requests_every_model_at_its_address_in_the_cluster() -> None:
    (pod,) = case("many-models").hooks
    _, _, seconds, *urls = pod["spec"]["containers"][0]["args"]
    services = case("many-models").predictors
    assert [url.split("/")[2] for url in urls] == [
        f"{name}-predictor.pictures.svc" for name in services
    ]
    assert urls[0].endswith("/v1/models/small.v1_5:predict")
    assert int(seconds) < pod["spec"]["activeDeadlineSeconds"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_a_picture_that_decodes_is_a_success(predictor: Predictor) -> None:
    done = run_test(predictor.url, predictor.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a PNG of 3 x 2") == 2
    path, body = predictor.asked[0]
    assert path == "/v1/models/any:predict"
    assert body == {"prompt": "a red circle on a blue background"}


def test_it_waits_while_the_model_is_not_ready(predictor: Predictor) -> None:
    predictor.answers[:0] = [(503, b"loading"), (404, b"no route yet")]
    done = run_test(predictor.url)
    assert done.returncode == 0, done.stderr
    assert "503" in done.stdout
    assert "404" in done.stdout


def test_a_response_that_does_not_decode_is_a_failure(predictor: Predictor) -> None:
    predictor.answers = [(200, b"no picture")]
    done = run_test(predictor.url, seconds="1")
    assert done.returncode == 1
    assert "no picture in time" in done.stderr
    assert "cannot identify image" in done.stderr


def test_a_truncated_picture_is_a_failure(predictor: Predictor) -> None:
    whole = png((64, 64))
    predictor.answers = [(200, whole[: len(whole) // 2])]
    done = run_test(predictor.url, seconds="1")
    assert done.returncode == 1
    assert "no picture in time" in done.stderr


def test_a_rejected_prompt_fails_without_a_retry(predictor: Predictor) -> None:
    predictor.answers = [(400, b'{"error": "prompt: is empty"}')]
    done = run_test(predictor.url)
    assert done.returncode == 1
    assert "prompt: is empty" in done.stderr
    assert len(predictor.asked) == 1


def test_it_sends_the_key_of_its_secret(predictor: Predictor) -> None:
    assert run_test(predictor.url).returncode == 0
    assert predictor.authorization is None
    # A key that was pasted into a Secret often ends with a newline.
    assert run_test(predictor.url, API_KEY="sk-1234\n").returncode == 0
    assert predictor.authorization == "Bearer sk-1234"


@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_key_fails_without_a_retry(predictor: Predictor, status: int) -> None:
    predictor.answers = [(status, b'{"error": "a key is required"}')]
    done = run_test(predictor.url)
    assert done.returncode == 1
    assert "a key is required" in done.stderr
    assert len(predictor.asked) == 1


def test_a_closed_port_is_a_failure_after_the_timeout() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        closed = server.server_port
    done = run_test(f"http://127.0.0.1:{closed}/", seconds="1")
    assert done.returncode == 1
    assert "refused" in done.stderr
