"""No output and no file of any run contains the token, however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import pipeline_files
from tests.waiting import wait_until

TOKEN = "hf_ThisIsTheSecretToken"
UNET = "unet/diffusion_pytorch_model.safetensors"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def gate(hub: Hub) -> None:
    hub.repositories[REPOSITORY].is_gated = True


def refuse(hub: Hub) -> None:
    hub.repositories[REPOSITORY].is_private = True
    hub.token = "another"


def vanish(hub: Hub) -> None:
    hub.repositories.clear()


def fail(hub: Hub) -> None:
    hub.faults.status = 500


def overload(hub: Hub) -> None:
    hub.faults.always[UNET] = Fault("status", status=429, headers=(("Retry-After", "0"),))


def break_off(hub: Hub) -> None:
    hub.faults.always[UNET] = Fault("reset", after=0)


def stall(hub: Hub) -> None:
    hub.faults.always[UNET] = Fault("stall", after=10)


def corrupt(hub: Hub) -> None:
    hub.faults.corrupt.add(UNET)


def no_pipeline(hub: Hub) -> None:
    hub.repositories[REPOSITORY].commit({"README.md": b""})


def nothing(hub: Hub) -> None:
    pass


FAILURES = [
    (nothing, 0, ()),
    (gate, 3, ()),
    (refuse, 4, ()),
    (vanish, 4, ()),
    (fail, 7, ()),
    (overload, 7, ()),
    (break_off, 7, ()),
    (stall, 7, ()),
    (corrupt, 6, ()),
    (no_pipeline, 8, ()),
    (nothing, 2, ("--token", TOKEN)),
    (nothing, 2, (f"--token={TOKEN}",)),
    (nothing, 2, ("--source", f"https://user:{TOKEN}@host/x.safetensors")),
    (nothing, 2, ("--source", f"https://host/x.ckpt?token={TOKEN}")),
    (nothing, 1, ("--target", "/proc")),
]


def hold_no_token(job: Job, output: str, target: Path) -> None:
    assert TOKEN not in output
    assert TOKEN not in job.termination_log.read_text()
    files = [path for path in target.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    assert not any(TOKEN in path.name for path in target.rglob("*"))
    assert "Signature=secret" not in output


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    ("failure", "code", "flags"), FAILURES, ids=lambda value: getattr(value, "__name__", "")
)
def test_no_failure_shows_the_token(
    hub: Hub,
    job: Job,
    target: Path,
    log_format: str,
    failure: Callable[[Hub], None],
    code: int,
    flags: tuple[str, ...],
) -> None:
    if log_format == "json" and code not in (0, 3, 4, 6):
        pytest.skip("the form of the log matters for four of them")
    hub.token = TOKEN
    hub.repository(REPOSITORY).commit(pipeline_files())
    failure(hub)
    # No token may read the gated repository.
    if failure is gate:
        hub.token = "another"

    result = job.run(
        *("--log_format", log_format, "--stall_seconds", "0.2", "--max_retries", "1", *flags),
        HF_TOKEN=TOKEN,
    )

    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    hold_no_token(job, result.stdout + result.stderr, target)


def test_the_token_of_a_mounted_file_is_used_and_not_shown(
    hub: Hub, job: Job, target: Path, tmp_path: Path
) -> None:
    hub.token = TOKEN
    repository = hub.repository(REPOSITORY)
    repository.commit(pipeline_files())
    repository.is_private = True
    secret = tmp_path / "token"
    assert job.run("--token_file", str(secret)).returncode == 3

    secret.write_text(f"{TOKEN}\n")
    result = job.run("--token_file", str(secret))

    assert result.returncode == 0, result.stderr
    hold_no_token(job, result.stdout + result.stderr, target)
    # The network that delivers large files is another server: it never receives the token.
    large = [request for request in hub.requests if request.path.startswith("/lfs/")]
    assert large
    assert not any("Authorization" in request.headers for request in large)
    others = [request for request in hub.requests if request.path not in {r.path for r in large}]
    assert any(one.headers.get("Authorization") == f"Bearer {TOKEN}" for one in others)


def test_no_token_goes_to_the_server_of_a_single_file(hub: Hub, job: Job) -> None:
    hub.files["x.safetensors"] = b"whatever"
    job.run("--source", f"{hub.url}/moved/x.safetensors", "--sha256", "0" * 64, HF_TOKEN=TOKEN)

    assert len(hub.requests) >= 4
    assert not any("Authorization" in request.headers for request in hub.requests)


@pytest.mark.parametrize("token", ["hf two", "hf\u00e9", "hf\x00"])
def test_a_malformed_token_is_refused_and_not_shown(
    hub: Hub, job: Job, tmp_path: Path, token: str
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    (tmp_path / "token").write_text(token)

    result = job.run("--token_file", str(tmp_path / "token"))

    assert result.returncode == 2
    assert "the hub's token contains spaces or non-ASCII characters" in result.stderr
    assert token not in result.stderr


def test_a_crash_leaves_no_core_file_and_no_argument(
    hub: Hub, job: Job, target: Path, tmp_path: Path
) -> None:
    hub.token = TOKEN
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.always[UNET] = Fault("stall", after=10)
    process = job.start(HF_TOKEN=TOKEN)
    wait_until(hub.faults.stalled.is_set)

    proc = Path("/proc") / str(process.pid)
    assert TOKEN.encode() not in (proc / "cmdline").read_bytes()
    (limit,) = [line for line in (proc / "limits").read_text().splitlines() if "core file" in line]
    assert limit.split()[4:6] == ["0", "0"]
    os.kill(process.pid, signal.SIGABRT)
    stdout, stderr = process.communicate(timeout=30)

    assert process.returncode == -signal.SIGABRT
    hold_no_token(job, stdout + stderr, target)
