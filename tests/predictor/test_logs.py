"""The log of a pod: its work, without the probes."""

from __future__ import annotations

from urllib.parse import unquote

import httpx
import pytest

from tests.serving import MODEL_NAME, PREDICT, Server


def test_the_start_logs_the_model_and_the_device(server: Server) -> None:
    log = server.log.read_text()

    found = [log.index(words) for words in ("reading file://", "loaded on cpu", "is ready after")]
    assert found == sorted(found)
    assert "torchvision" not in log
    assert "it/s" not in log


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/v1/models",
        f"/v1/models/{MODEL_NAME}",
        "/v2/health/live",
        "/v2/health/ready",
        f"/v2/models/{MODEL_NAME}/ready",
    ],
)
def test_probes_are_not_logged(client: httpx.Client, server: Server, path: str) -> None:
    before = server.log.read_text()

    assert client.get(path).status_code == 200
    assert client.get("/no-such-path").status_code == 404

    (line,) = server.log.read_text().removeprefix(before).splitlines()
    assert '"GET /no-such-path HTTP/1.1" 404' in line


def test_each_request_is_logged_and_each_picture_with_its_time(
    client: httpx.Client, server: Server
) -> None:
    before = server.log.read_text()

    client.post(PREDICT, json={"prompt": "a red star"})
    client.post(PREDICT, json={"prompt": ""})
    client.get(f"/v2/models/{MODEL_NAME}")

    time, *answered = server.log.read_text().removeprefix(before).splitlines()
    assert "predict_ms: " in time
    assert [unquote(line.rpartition(" - ")[2]) for line in answered] == [
        f'"POST {PREDICT} HTTP/1.1" 200 OK',
        f'"POST {PREDICT} HTTP/1.1" 400 Bad Request',
        f'"GET /v2/models/{MODEL_NAME} HTTP/1.1" 200 OK',
    ]
