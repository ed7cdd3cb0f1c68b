"""SIGTERM at any moment: the run ends within five seconds, and the next run continues."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files
from tests.downloader.volume import partial_sizes
from tests.waiting import wait_until

UNET = "unet/diffusion_pytorch_model.safetensors"


def ended_by(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, float]:
    """Exit code, stderr, and seconds from the signal to the end."""
    started = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    return process.returncode, stderr, time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_stalled_download_and_the_next_one_continues(
    hub: Hub, job: Job, target: Path, number: signal.Signals
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.once[UNET] = [Fault("stall", after=1000)]
    process = job.start(DOWNLOADER_STALL_SECONDS="60")
    wait_until(lambda: 1000 in partial_sizes(target))

    code, stderr, seconds = ended_by(process, number)

    assert code == 9, stderr
    assert seconds < 5
    last = stderr.splitlines()[-1]
    assert last.startswith(f"error: interrupted by {number.name}; the next run"), stderr
    assert "Traceback" not in stderr
    assert job.termination_log.read_text().startswith("interrupted by")
    assert not list(target.glob(".staging/.sd.lease*"))

    hub.requests.clear()
    assert job.run().returncode == 0
    requested = [one.headers.get("Range") for one in hub.requests if f"/{UNET}" in one.path]
    assert set(requested) == {"bytes=1000-"}


def test_a_signal_ends_a_wait_for_the_hub(hub: Hub, job: Job) -> None:
    hub.faults.once["revision"] = [Fault("status", status=429, headers=(("Retry-After", "300"),))]
    process = job.start()
    wait_until(lambda: bool(hub.requests))
    time.sleep(0.2)

    code, stderr, seconds = ended_by(process, signal.SIGTERM)

    assert (code, seconds < 5) == (9, True)
    # Jitter adds up to a second.
    assert re.search(r"retrying in 30[0-9]\.\d s", stderr)


def test_an_early_signal_leaves_nothing(hub: Hub, job: Job, target: Path) -> None:
    process = job.start(HF_ENDPOINT="http://127.0.0.1:9", DOWNLOADER_MAX_RETRIES="50")
    assert process.stderr is not None
    process.stderr.readline()

    assert ended_by(process, signal.SIGTERM)[0] == 9
    assert list(target.iterdir()) == []
