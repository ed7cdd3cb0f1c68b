"""Shared fixtures: the demo model on a volume, and a real server that serves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.run import publish
from tests.quick import is_quick
from tests.serving import MODEL_NAME, Server

# As in the downloader, for tests that import huggingface_hub first.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick``, for ``make test-quick``."""
    parser.addoption(
        "--quick", action="store_true", help="run only quick files; see tests/quick.py"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--quick``, leave out slow files."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if config.getoption("quick") and is_test and not is_quick(collection_path) else None


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's folder on a volume, published by the real downloader."""
    return publish(MODEL_NAME, tmp_path_factory.mktemp("volume"))


@pytest.fixture(scope="session")
def server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A predictor process that serves the demo model; tests must not change its state."""
    log = tmp_path_factory.mktemp("server") / "log"
    with Server.started(demo_model, log, enable_grpc=True, a1111_api=True) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """An HTTP client for the shared server."""
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened
