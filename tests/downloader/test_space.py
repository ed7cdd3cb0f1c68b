"""A volume that fills up or cannot be used, and the memory of a run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files, safetensors
from tests.downloader.volume import write_files

UNET = "unet/diffusion_pytorch_model.safetensors"
VOLUME_BYTES = 4 * 1024 * 1024


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    volume = tmp_path / "small"
    volume.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={VOLUME_BYTES}", "tmpfs", str(volume)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("a small volume needs the right to mount")
    yield volume
    subprocess.run(["umount", str(volume)], check=True)


def test_a_too_small_volume_is_reported_before_anything_is_fetched(
    hub: Hub, job: Job, small_volume: Path
) -> None:
    files = pipeline_files() | {UNET: safetensors(1, VOLUME_BYTES)}
    hub.repository(REPOSITORY).commit(files)

    result = job.run("--target", str(small_volume))

    assert result.returncode == 5
    size = sum(map(len, files.values()))
    assert f"the target needs {size:,} bytes more and has " in result.stderr
    assert hub.fetched_weights == []
    assert not (small_volume / "sd").exists()


def test_a_disk_that_fills_up_is_reported_and_the_next_run_continues(
    hub: Hub, job: Job, small_volume: Path
) -> None:
    files = pipeline_files() | {UNET: safetensors(1, 3_000_000)}
    hub.repository(REPOSITORY).commit(files)
    hub.faults.pace = (64 * 1024, 0.02)
    process = job.start("--target", str(small_volume))
    while hub.sent[UNET] < 200_000:
        assert process.poll() is None
    # Another pod's file.
    with (small_volume / "other").open("wb") as other:
        free = shutil.disk_usage(small_volume).free
        other.write(bytes(free - 500_000))

    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 5, stderr
    assert stderr.splitlines()[-1].endswith("No space left on device")
    (small_volume / "other").unlink()
    hub.faults.clear()
    hub.sent.clear()
    assert job.run("--target", str(small_volume)).returncode == 0
    assert hub.sent[UNET] < 2_800_000
    assert (small_volume / "sd" / UNET).read_bytes() == files[UNET]


def test_existing_and_linkable_files_need_no_space(hub: Hub, job: Job, small_volume: Path) -> None:
    files = pipeline_files() | {UNET: safetensors(1, 3_000_000)}
    repository = hub.repository(REPOSITORY)
    repository.commit(files)
    assert job.run("--target", str(small_volume)).returncode == 0
    repository.commit(files | {"vae/config.json": b"[]"})

    assert job.run("--target", str(small_volume)).returncode == 0

    repository.commit(files | {UNET: safetensors(2, 3_000_000)})
    full = job.run("--target", str(small_volume))
    assert full.returncode == 5
    assert re.search(r"unserved revisions of 'sd' hold 2,\d+ bytes", full.stderr)


@pytest.mark.parametrize("target", ["gone", "file"])
def test_a_missing_volume_is_reported(job: Job, tmp_path: Path, target: str) -> None:
    write_files(tmp_path, {"file": b""})
    result = job.run("--target", str(tmp_path / target))
    assert result.returncode == 1
    assert str(tmp_path / target) in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_a_read_only_volume_is_reported(hub: Hub, job: Job, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    target.chmod(0o555)
    for folder in target.parents:
        if folder.owner() == "root" and str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    command = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"]
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    done = subprocess.run(
        [*command, sys.executable, "-m", "downloader"],
        env=job.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named" in done.stderr or "can't open" in done.stderr:
        pytest.skip("the other user cannot run this Python")
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith(".staging: Permission denied")


def test_memory_does_not_grow_with_the_size_of_files(hub: Hub, job: Job) -> None:
    files = pipeline_files() | {
        f"{folder}/{name}": safetensors(seed, 60_000_000)
        for seed, (folder, name) in enumerate(
            [
                ("unet", "diffusion_pytorch_model.safetensors"),
                ("vae", "diffusion_pytorch_model.safetensors"),
                ("text_encoder", "model.safetensors"),
                ("safety_checker", "model.safetensors"),
            ]
        )
    }
    hub.repository(REPOSITORY).commit(files)
    # Not by wait4, which includes this process's memory from before the exec.
    script = (
        "from downloader.__main__ import main; code = main();"
        "print(code, *[line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=job.environment,
        capture_output=True,
        text=True,
        check=True,
    )

    code, kilobytes = map(int, done.stdout.splitlines()[-1].split())
    assert code == 0
    assert kilobytes * 1024 <= 150_000_000
