"""A volume that fills up or cannot be used, and the memory of a run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files, safetensors
from tests.downloader.volume import write_files

# A random uid, a read-only root and a full folder for temporary files; only "$1" is writable.
NAMESPACE = ("unshare", "--user", "--mount", "--map-user=12345", "--map-group=12345", "--keep-caps")
HOSTILE = """
mount --bind "$1" "$1" && mount -t tmpfs -o size=4k tmpfs /mnt || exit 99
mount -o bind,remount,ro / || exit 99
cat /dev/zero >/mnt/full 2>/dev/null
cd /mnt && shift && exec "$@"
"""
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


@pytest.fixture
def open_volume() -> Iterator[Path]:
    """A volume that another user can reach: each run of pytest closes its own folders to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        volume = Path(folder) / "models"
        volume.mkdir()
        yield volume


def run_as_nonroot(job: Job, volume: Path, *groups: int) -> subprocess.CompletedProcess[str]:
    """Run the Job as the image's user, with the groups that ``fsGroup`` would add."""
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    named = [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    home = str(volume.parent)
    done = subprocess.run(
        ["setpriv", "--reuid=65532", "--regid=65532", *named, sys.executable, "-m", "downloader"],
        env=job.environment | {"DOWNLOADER_TARGET": str(volume), "HOME": home, "HF_HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named" in done.stderr or "can't open" in done.stderr:
        pytest.skip("the other user cannot run this Python")
    return done


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o755, ".staging"), (0o555, ".staging"), (0o700, ".")],
    ids=["as the kubelet leaves it without fsGroup", "read-only", "private"],
)
def test_a_volume_without_write_permission_is_reported(
    hub: Hub, job: Job, open_volume: Path, mode: int, refused: str
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    open_volume.chmod(mode)

    done = run_as_nonroot(job, open_volume, 65533)

    last = done.stderr.splitlines()[-1]
    assert done.returncode == 10, done.stderr
    assert f"{open_volume / refused}: Permission denied" in last
    assert f"{open_volume} has uid 0, gid 0 and mode {mode:04o}" in last
    assert "this process has uid 65532, gid 65532 and supplementary groups 65533" in last
    assert "fsGroup" in last
    assert "Delete what else mounts the volume" in last


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_a_volume_of_the_fs_group_takes_the_model(hub: Hub, job: Job, open_volume: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    os.chown(open_volume, 0, 65533)
    open_volume.chmod(0o2775)

    done = run_as_nonroot(job, open_volume, 65533)

    assert done.returncode == 0, done.stderr
    assert (open_volume / "sd" / "model_index.json").stat().st_gid == 65533


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_what_another_user_left_on_the_volume_is_named(
    hub: Hub, job: Job, open_volume: Path
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    left = open_volume / ".staging" / "sd"
    left.mkdir(parents=True)
    left.chmod(0o750)
    left.parent.chmod(0o2777)
    open_volume.chmod(0o777)

    done = run_as_nonroot(job, open_volume)

    assert done.returncode == 10, done.stderr
    assert f"{left} has uid 0, gid 0 and mode 0750" in done.stderr
    assert "supplementary groups none" in done.stderr


def test_a_job_needs_no_home_and_no_folder_for_temporary_files(
    hub: Hub, job: Job, tmp_path: Path
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    hub.repository(REPOSITORY).commit(pipeline_files())
    variables = {n: one for n, one in job.environment.items() if n not in ("HOME", "HF_HOME")}
    command = [*NAMESPACE, "sh", "-c", HOSTILE, "sh", str(tmp_path)]

    done = subprocess.run(
        [*command, sys.executable, "-m", "downloader"],
        env=variables | {"TMPDIR": "/mnt"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    if done.returncode == 99 or done.stderr.startswith("unshare:"):
        pytest.skip("this machine does not allow user namespaces")
    assert done.returncode == 0, done.stderr
    assert (job.target / "sd" / "model_index.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"models", "termination-log"}


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
