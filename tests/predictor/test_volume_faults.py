"""A volume that disappears or whose files break while its models are served."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.run import publish
from predictor.edge import repository
from predictor.edge.repository import PublishedModels, RepositoryExtension
from predictor.errors import ModelUnavailableError
from predictor.residency import Residency
from predictor.settings import Settings
from tests.predictor.test_health import with_a_truncated_file
from tests.predictor.test_many_models import metric, predict, states
from tests.predictor.test_residency import FakeLoader
from tests.serving import Server

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
