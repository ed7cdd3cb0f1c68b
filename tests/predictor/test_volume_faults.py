"""A volume that disappears or whose files break while its models are served."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.run import publish
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.edge import repository
from predictor.edge.repository import PublishedModels, RepositoryExtension
from predictor.errors import ModelLoadError, ModelUnavailableError
from predictor.residency import Residency
from predictor.settings import Settings
from tests.predictor.test_health import with_a_truncated_file
from tests.predictor.test_many_models import metric, predict, states
from tests.predictor.test_residency import FakeLoader
from tests.serving import Server

# Python imports a module of this name at its start.
LOST_VOLUME = """
import os

own, code = os.stat, int(os.environ["LOST_VOLUME_CODE"])

def stat(path, *arguments, **options):
    if str(path).startswith(os.environ["LOST_VOLUME"]):
        raise OSError(code, os.strerror(code), str(path))
    return own(path, *arguments, **options)

os.stat = stat
"""
HEALTH = ("/", "/v2/health/live", "/v2/health/ready")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_server_survives_the_loss_of_its_volume_and_of_files(tmp_path: Path) -> None:
    root, away = tmp_path / "volume", tmp_path / "away"
    for name in ("kept", "other", "truncated"):
        publish(name, root)
    (root / "truncated").unlink()
    settings = {"memory_budget_gib": 1, "max_lanes": 2}
    with (
        Server.started(root, tmp_path / "log", **settings) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        server.wait_for("/v2/health/ready")
        before = predict(client, "kept")
        root.rename(away)
        gone = {name: predict(client, name) for name in ("kept", "other", "unknown")}
        health = [client.get(path).status_code for path in HEALTH]
        listed = states(client)
        away.rename(root)
        back = [predict(client, name).status_code for name in ("kept", "other", "unknown")]

        revision = next((root / ".revisions" / "truncated").glob("[!.]*"))
        weights = revision / "unet" / "diffusion_pytorch_model.fp16.safetensors"
        content = weights.read_bytes()
        with_a_truncated_file(revision)
        (root / "truncated").symlink_to(revision.relative_to(root))
        broken = predict(client, "truncated")
        unaffected = predict(client, "kept")
        weights.write_bytes(content)
        # The pause before the next attempt.
        repaired = predict_after(client, "truncated", broken)
        loads = metric(client, "diffusion_model_loads_total")
        log = server.log.read_text()

    assert before.status_code == 200
    assert {name: one.status_code for name, one in gone.items()} == {
        "kept": 200,
        "other": 503,
        "unknown": 503,
    }
    assert "could not be loaded" in gone["other"].json()["error"]
    assert gone["unknown"].json()["error"] == "the volume of models cannot be read; try again later"
    assert int(gone["unknown"].headers["retry-after"]) > 0
    assert health == [200, 200, 200]
    assert listed == {"kept": "READY", "other": "UNAVAILABLE"}
    assert back == [200, 200, 404]
    assert broken.status_code == 503
    assert broken.json()["error"] == "model 'truncated' could not be loaded; the log has the cause"
    assert unaffected.status_code == 200
    assert repaired.status_code == 200
    assert loads.keys() >= {"kept", "other", "truncated"}
    assert "no longer published" not in log


def predict_after(client: httpx.Client, name: str, refused: httpx.Response) -> httpx.Response:
    """Send the request again when ``Retry-After`` says so."""
    time.sleep(int(refused.headers["retry-after"]) + 0.5)
    return predict(client, name)


@pytest.mark.parametrize(("code", "seconds"), [(errno.EIO, 0), (errno.ESTALE, 1)])
def test_a_volume_that_is_gone_at_start_ends_the_process_with_a_sentence(
    demo_model: Path, tmp_path: Path, code: int, seconds: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOST_VOLUME, "utf-8")
    variables = {"LOST_VOLUME": str(demo_model), "LOST_VOLUME_CODE": str(code)}

    with Server.started(
        demo_model,
        tmp_path / "log",
        python_path=tmp_path,
        variables=variables,
        max_download_wait_seconds=seconds,
    ) as server:
        assert server.process.wait(timeout=60) == 1
        log = server.log.read_text()

    reason = f"the volume of models cannot be read: {os.strerror(code)}"
    assert log.splitlines()[-1] == f"predictor: {reason}"
    assert "Traceback" not in log
    assert ("no complete download within" in log) == (seconds > 0)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_volume_that_fails_when_a_load_begins_is_a_sentence(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    own = os.stat

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".safetensors"):
            raise OSError(code, os.strerror(code), str(path))
        return own(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ModelLoadError) as failed:
        Checkpoint.read(demo_model)

    assert (
        str(failed.value) == f"model folder {demo_model.name!r} cannot be read: {os.strerror(code)}"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
async def test_an_unreadable_volume_unpublishes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / ".modelstore.json").write_text(json.dumps({}))
    residency = Residency(FakeLoader(), max_wait_seconds=10, max_waiters=8)
    models = PublishedModels(Settings(model_dir=tmp_path), residency)
    own = repository.published_names

    def fail(_: Any) -> Any:
        raise OSError(code, "the volume is gone")

    monkeypatch.setattr(repository, "published_names", fail)
    with pytest.raises(ModelUnavailableError, match="cannot be read"):
        await models.look_for("c")
    index = await RepositoryExtension(model_registry=models).index()
    known = sorted(models.models)
    monkeypatch.setattr(repository, "published_names", own)
    await models.refresh()

    assert known == sorted(models.models) == ["a", "b"]
    assert [entry["name"] for entry in index] == ["a", "b"]
