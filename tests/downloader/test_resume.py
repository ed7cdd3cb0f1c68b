"""kill -9 at any moment: the next run succeeds, and fetches at most a chunk of a file twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from modelstore import MARKER_NAME
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files, safetensors
from tests.downloader.volume import file_names, leftovers, partial_sizes
from tests.waiting import wait_until

KILLS = 20
CHUNK_BYTES = 64 * 1024
# So large that at the pace below none is complete before the last kill.
WEIGHTS = {
    "safety_checker/model.safetensors": safetensors(5, 14_000_000),
    "text_encoder/model.safetensors": safetensors(6, 13_000_000),
    "unet/diffusion_pytorch_model.safetensors": safetensors(7, 15_000_000),
    "vae/diffusion_pytorch_model.safetensors": safetensors(8, 12_000_000),
}


def weights_requested(hub: Hub) -> list[str | None]:
    """The range of each request for weights; None for a request from the start."""
    return [one.headers.get("Range") for one in hub.requests if "/lfs/" in one.path]


def test_twenty_kills_cost_at_most_a_chunk_of_each_file(hub: Hub, job: Job, target: Path) -> None:
    files = pipeline_files() | WEIGHTS
    hub.repository(REPOSITORY).commit(files)
    moment = random.Random(424242)
    # Slow enough to keep the kernel's buffers empty: almost all sent bytes have arrived.
    hub.faults.pace = (16 * 1024, 0.02)
    for number in range(KILLS):
        before, requested = sum(hub.sent.values()), len(weights_requested(hub))
        with job.start(DOWNLOADER_LEASE_SECONDS="0.2") as process:
            # Some before the first byte, others in the middle of at least two files.
            if number % 5:
                wait_until(lambda before=before: sum(hub.sent.values()) > before + 100)
                wait_until(lambda requested=requested: len(weights_requested(hub)) >= requested + 2)
                time.sleep(moment.uniform(0, 0.15))
            else:
                time.sleep(moment.uniform(0.1, 0.5))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (target / "sd").exists()
    partial = partial_sizes(target)
    assert len(partial) == len(WEIGHTS), "every kill came after the end of the run"

    hub.faults.pace = None
    assert job.run().returncode == 0

    for path, content in files.items():
        assert (target / "sd" / path).read_bytes() == content
    assert file_names(target / "sd") == set(files) | {MARKER_NAME}
    assert leftovers(target) == set()
    for path, content in WEIGHTS.items():
        again = hub.sent[path] - len(content)
        assert again <= KILLS * CHUNK_BYTES, path
    assert sum(start is not None for start in weights_requested(hub)) > KILLS


def test_the_bytes_before_a_kill_are_verified_with_the_rest(
    hub: Hub, job: Job, target: Path
) -> None:
    path = "unet/diffusion_pytorch_model.safetensors"
    files = pipeline_files() | WEIGHTS
    hub.repository(REPOSITORY).commit(files)
    hub.faults.pace = (16 * 1024, 0.02)
    with job.start() as process:
        wait_until(lambda: hub.sent[path] > 200_000)
        process.kill()
    (partial,) = target.glob(f".staging/sd/*/{path}.*.partial")
    with partial.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"\xff")

    hub.faults.pace = None
    assert job.run().returncode == 0

    assert (target / "sd" / path).read_bytes() == files[path]
    unet = [one for one in hub.requests if "/lfs/" in one.path and one.path.endswith(path)]
    # Started, resumed, found wrong, fetched again from the start.
    assert [("Range" in one.headers) for one in unet] == [False, True, False]


def test_a_branch_that_moves_between_runs_mixes_nothing(hub: Hub, job: Job, target: Path) -> None:
    path = "unet/diffusion_pytorch_model.safetensors"
    repository = hub.repository(REPOSITORY)
    repository.commit(pipeline_files() | WEIGHTS)
    hub.faults.pace = (16 * 1024, 0.02)
    with job.start() as process:
        wait_until(lambda: hub.sent[path] > 200_000)
        process.kill()
    moved = pipeline_files() | WEIGHTS | {path: safetensors(9, 6_000_000)}
    repository.commit(moved)

    hub.faults.pace = None
    assert job.run().returncode == 0

    for name, content in moved.items():
        assert (target / "sd" / name).read_bytes() == content
    assert leftovers(target) == set()
