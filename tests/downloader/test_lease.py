"""One download of a name at a time, even if a process dies or is suspended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from downloader.errors import LeaseLostError
from downloader.volume.lease import Lease, held
from downloader.workers import Stop
from modelstore import Marker
from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files
from tests.downloader.volume import file_names, leftovers, write_files
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
UNET = "unet/diffusion_pytorch_model.safetensors"
SECONDS = 0.3


def ignore(holder: str) -> None:
    """A callback for leases without waiters."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".sd.lease"


def test_one_holds_it_and_the_next_one_waits(folder: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with held(folder, SECONDS, Stop(), lambda _: order.append("waits")) as lease:
            order.append("holds")
            assert lease.has_waited

    with held(folder, SECONDS, Stop(), ignore) as first:
        waiter = threading.Thread(target=wait)
        waiter.start()
        # Longer than the lease: the waiter keeps waiting, because the holder is alive.
        time.sleep(4 * SECONDS)
        first.check()
        order.append("ends")
    waiter.join()

    assert order[0] == "waits"
    assert order.index("ends") < order.index("holds")
    assert list(folder.parent.iterdir()) == []


def test_a_dead_holder_is_replaced_by_one_of_many_waiters(folder: Path) -> None:
    write_files(folder, {"0123456789abcdef": b"00000000000000000007 gone\n"})
    held_at_once: list[int] = []
    inside, lock = [0], threading.Lock()

    def work() -> None:
        with held(folder, SECONDS, Stop(), ignore) as lease:
            with lock:
                inside[0] += 1
                held_at_once.append(inside[0])
            time.sleep(0.02)
            lease.check()
            with lock:
                inside[0] -= 1

    waiters = [threading.Thread(target=work) for _ in range(8)]
    started = time.monotonic()
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        waiter.join()

    assert held_at_once == [1] * 8
    assert time.monotonic() - started >= SECONDS
    assert list(folder.parent.iterdir()) == []


def test_a_dead_holder_without_a_record_is_replaced(folder: Path) -> None:
    # A holder killed before it wrote anything, or an empty folder.
    write_files(folder, {"0123456789abcdef": b""})
    with held(folder, SECONDS, Stop(), ignore):
        pass
    folder.mkdir()
    with held(folder, SECONDS, Stop(), ignore) as lease:
        assert not lease.has_waited


def test_a_replaced_holder_notices(folder: Path) -> None:
    stop = Stop()
    with held(folder, SECONDS, stop, ignore) as lease:
        (folder / lease.owner).rename(folder / "another")
        with pytest.raises(LeaseLostError, match="another process took over"):
            lease.check()
        wait_until(lambda: stop.is_tripped)
        with pytest.raises(LeaseLostError):
            stop.check()
    # The lease of another process is not released.
    assert (folder / "another").exists()


def test_a_wrong_clock_changes_nothing(folder: Path) -> None:
    with held(folder, SECONDS, Stop(), ignore) as lease:
        os.utime(folder / lease.owner, (0, 0))
        waiter = Lease(folder, SECONDS, (stop := Stop()))
        threading.Timer(3 * SECONDS, lambda: stop.trip(TimeoutError())).start()
        with pytest.raises(TimeoutError):
            waiter.acquire(ignore)


def test_two_processes_race_fifty_times(tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", pipeline_files())
    done = subprocess.run(
        [sys.executable, "-m", "tests.downloader.racers", "50", source.as_uri(), tmp_path / "v"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    # Both succeed, one of them published, and nothing is left over.
    assert set(done.stdout.splitlines()) == {"[0, 0] 1 1 []"}
    assert len(done.stdout.splitlines()) == 50


def test_a_second_job_waits_and_finds_the_model_published(hub: Hub, job: Job, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.pace = (256, 0.1)
    first = job.start()
    wait_until(lambda: hub.sent[UNET] > 0)
    hub.requests.clear()

    second = job.run()

    assert first.communicate(timeout=30) and first.returncode == 0
    assert second.returncode == 0
    assert "sd: waiting for the download on" in second.stderr
    assert "already published" in second.stdout
    assert hub.fetched_weights.count(UNET) == 0


def test_a_suspended_job_is_replaced_and_publishes_nothing_when_it_resumes(
    hub: Hub, job: Job, target: Path
) -> None:
    files = pipeline_files()
    hub.repository(REPOSITORY).commit(files)
    hub.faults.once[UNET] = [Fault("stall", after=1000)]
    suspended = job.start(DOWNLOADER_STALL_SECONDS="60")
    wait_until(hub.faults.stalled.is_set)
    suspended.send_signal(signal.SIGSTOP)

    assert job.run().returncode == 0
    published = Marker.read(target / "sd")
    suspended.send_signal(signal.SIGCONT)
    _, stderr = suspended.communicate(timeout=30)

    assert suspended.returncode == 1, stderr
    assert "another process took over" in stderr.splitlines()[-1]
    assert Marker.read(target / "sd") == published
    assert file_names(target / "sd") >= set(files)
    assert all((target / "sd" / path).read_bytes() == files[path] for path in files)


def test_the_lock_of_a_killed_job_is_taken_over(hub: Hub, job: Job, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.once[UNET] = [Fault("stall", after=1000)]
    with job.start() as process:
        wait_until(hub.faults.stalled.is_set)
        process.kill()
    assert list(target.glob(".staging/.sd.lease/*"))

    assert job.run().returncode == 0
    assert leftovers(target) == set()
