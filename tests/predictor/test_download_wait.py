"""A predictor that starts before its download is complete: it waits, then serves."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from demo.run import publish
from tests.serving import MODEL_NAME, PREDICT, SHORT, Server


@pytest.mark.parametrize("folder", [MODEL_NAME, ""])
def test_a_model_that_is_published_later_is_served_without_a_restart(
    tmp_path: Path, folder: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    settings = {"max_download_wait_seconds": 600, "preload": "" if folder else MODEL_NAME}
    with Server.started(volume / folder, tmp_path / "log", **settings) as server:
        server.wait_for("/")
        server.wait_for_log("waiting for the download")
        alive = httpx.get(server.url + "/v2/health/live").status_code
        ready = [
            httpx.get(server.url + path).status_code
            for path in ("/v2/health/ready", f"/v2/models/{MODEL_NAME}/ready")
        ]
        early = httpx.post(server.url + PREDICT, json=SHORT)
        readers_before = server.children()
        listed = httpx.get(server.url + "/openai/v1/models").json()
        too_early = httpx.post(server.url + "/v1/images/generations", json={"prompt": "a"})
        publish(MODEL_NAME, volume)
        server.wait_for("/v2/health/ready")
        readers_when_ready = server.children()
        late = httpx.post(server.url + PREDICT, json=SHORT, timeout=60)
        readers_after_a_request = server.children()
        names = httpx.get(server.url + "/v1/models").json()["models"]
        counted = httpx.get(server.url + "/metrics").text
        log = server.log.read_text()

    assert alive == 200
    # They would take memory from the download.
    assert readers_before == []
    # Starting them would take the CPU from the first requests.
    assert len(readers_when_ready) == 2
    assert readers_after_a_request == readers_when_ready
    assert ready == [503, 503]
    assert early.status_code == 503
    assert "waits for its download" in early.json()["error"]
    assert listed == {"object": "list", "data": []}
    assert too_early.status_code == 503
    assert "waits for its download" in too_early.json()["error"]["message"]
    assert int(early.headers["retry-after"]) > 0
    assert late.status_code == 200
    assert names == [MODEL_NAME]
    assert f'diffusion_requests_total{{code="200",model_name="{MODEL_NAME}"}} 1.0' in counted
    assert log.count("waiting for the download") == 1


def test_a_download_that_takes_too_long_ends_the_process(tmp_path: Path) -> None:
    with Server.started(
        tmp_path / MODEL_NAME, tmp_path / "log", max_download_wait_seconds=1
    ) as server:
        assert server.process.wait(timeout=60) == 1
        last_line = server.log.read_text().splitlines()[-1]

    assert last_line.startswith("predictor: the model folder 'stable-diffusion' does not exist")
    assert "let the downloader finish" in last_line


def test_sigterm_ends_the_wait(tmp_path: Path) -> None:
    with Server.started(
        tmp_path / MODEL_NAME, tmp_path / "log", max_download_wait_seconds=600
    ) as server:
        server.wait_for("/")
        server.terminate()
        assert server.process.wait(timeout=60) == 0


def test_contradicting_settings_end_the_process_after_the_wait(tmp_path: Path) -> None:
    folder = tmp_path / "volume" / MODEL_NAME
    settings = {"max_download_wait_seconds": 600, "preload": MODEL_NAME}
    with Server.started(folder, tmp_path / "log", **settings) as server:
        server.wait_for_log("waiting for the download")
        publish(MODEL_NAME, folder.parent)
        assert server.process.wait(timeout=60) == 1
        assert "preload=" in server.log.read_text().splitlines()[-1]
