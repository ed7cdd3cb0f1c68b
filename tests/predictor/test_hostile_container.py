"""A container with a random uid, no HOME, a read-only root and a full /tmp."""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest

from predictor.loading.cache_folder import ensure_cache_folder
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# OpenShift gives each namespace a range of uids that are not in /etc/passwd.
NAMESPACE = ("unshare", "--user", "--mount", "--map-user=12345", "--map-group=12345", "--keep-caps")
SCRIPT = """
mount -t tmpfs -o size=4k tmpfs /mnt && mount -o bind,remount,ro / || exit 9
cat /dev/zero >/mnt/full 2>/dev/null
exec env -i PATH=/usr/bin:/bin OMP_NUM_THREADS=1 TMPDIR=/mnt "$@"
"""
PREFIX = (*NAMESPACE, "sh", "-c", SCRIPT, "sh")
needs_namespaces = pytest.mark.skipif(
    subprocess.run([*PREFIX, "true"], capture_output=True, check=False).returncode != 0,
    reason="this machine does not allow user namespaces",
)


@needs_namespaces
def test_a_server_without_a_user_a_home_and_a_writable_folder_serves_pictures(
    demo_model: Path, tmp_path: Path
) -> None:
    with Server.started(demo_model, tmp_path / "log", prefix=PREFIX) as server:
        server.wait_for(f"/v2/models/{MODEL_NAME}/ready", seconds=300)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        drawn = httpx.post(server.url + PREDICT, json={"prompt": "a red star"}, timeout=120)
        body = {"prompt": "a blue star", "image": base64.b64encode(drawn.content).decode()}
        redrawn = httpx.post(server.url + PREDICT, json=body, timeout=120)
        server.terminate()
        code = server.process.wait(timeout=60)
        log = server.log.read_text()

    # The namespace maps the uid back to ours.
    assert f"Uid:\t{os.getuid()}" in status
    assert picture_of(drawn).size == picture_of(redrawn).size == (64, 64)
    assert "no folder for torch's compiler cache: [Errno 2] No usable temporary" in log
    assert "Traceback" not in log
    assert code == 0


def test_a_usable_temporary_folder_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    ensure_cache_folder()

    assert VARIABLE not in os.environ


def test_a_cache_folder_that_cannot_be_created_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "torchinductor"))

    ensure_cache_folder()

    assert Path(os.environ[VARIABLE]).is_dir()
    assert "Not a directory" in caplog.text


def test_a_cache_folder_is_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "new" / "torchinductor"))

    ensure_cache_folder()

    assert os.environ[VARIABLE] == str(tmp_path / "new" / "torchinductor")


def test_jumps_of_the_clock_cause_no_timeout(demo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "own, jumps = time.time, itertools.cycle((0, 86_400, -86_400))\n"
        "time.time = lambda: own() + next(jumps)\n"
    )
    settings = {"request_timeout_seconds": 60, "engine_stall_seconds": 60}
    log = tmp_path / "log"
    with Server.started(demo_model, log, python_path=tmp_path, **settings) as server:
        server.wait_for(f"/v2/models/{MODEL_NAME}/ready", seconds=300)
        answers = [
            httpx.post(server.url + PREDICT, json={"prompt": "a red star"}, timeout=120)
            for _ in range(3)
        ]
        live = httpx.get(server.url + "/").status_code
        server.terminate()
        code = server.process.wait(timeout=60)

    assert [answer.status_code for answer in answers] == [200] * 3
    assert (live, code) == (200, 0)
