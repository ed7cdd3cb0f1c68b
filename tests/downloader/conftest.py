"""A hub on this machine, a volume, and the Job that downloads from one to the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

from downloader.sources import retry
from tests.downloader.hub_server import Hub, running_hub
from tests.downloader.job import REPOSITORY, Job

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.startswith(("DOWNLOADER_", "HF_", "AWS_")):
            monkeypatch.delenv(variable)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub_of_this_process(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ``download`` in this process use the hub, with short pauses."""
    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    template = hub.url + template.removeprefix(huggingface_hub.constants.ENDPOINT)
    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def job(hub: Hub, target: Path, tmp_path: Path) -> Iterator[Job]:
    # Only the environment of the container: no proxy, token or home of this machine.
    (tmp_path / "termination-log").touch()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "DOWNLOADER_SOURCE": f"hf://{REPOSITORY}",
        "DOWNLOADER_NAME": "sd",
        "DOWNLOADER_TARGET": str(target),
        "DOWNLOADER_TERMINATION_LOG": str(tmp_path / "termination-log"),
        "DOWNLOADER_MAX_RETRIES": "2",
        "DOWNLOADER_LEASE_SECONDS": "1",
    }
    job = Job(target, environment)
    yield job
    job.close()
