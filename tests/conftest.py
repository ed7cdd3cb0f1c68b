"""What several folders of tests share: the demo model on a volume, and a real server over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.run import publish
from tests.serving import MODEL_NAME, Server

# As the downloader has it, for the tests that import huggingface_hub before it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's folder on a volume, put there by the downloader itself."""
    return publish(MODEL_NAME, tmp_path_factory.mktemp("volume"))


@pytest.fixture(scope="session")
def server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A predictor process that serves the demo model; tests must leave it as it was."""
    log = tmp_path_factory.mktemp("server") / "log"
    with Server.started(demo_model, log) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """An HTTP client of the shared server."""
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened
