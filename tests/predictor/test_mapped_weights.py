"""Files that shrink while their model is served: no weight may stay mapped from them."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
from diffusers import DiffusionPipeline

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.loading.pipeline import load_pipeline
from predictor.settings import Settings
from tests.predictor.random_controlnets import build_controlnet
from tests.predictor.volumes import publish_folder
from tests.serving import PREDICT, Server


def test_a_server_survives_files_that_are_truncated_under_it(
    demo_model: Path, tmp_path: Path
) -> None:
    # float32 like the weights in memory: other types are converted, which copies them.
    demo: DiffusionPipeline = load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers
    demo.save_pretrained(tmp_path / "source")
    build_controlnet(demo, 1).save_pretrained(tmp_path / "source" / "controlnets" / "canny")
    (tmp_path / "volume").mkdir()
    model = publish_folder(tmp_path / "source", "full", tmp_path / "volume")
    with Server.started(model, tmp_path / "log") as server:
        server.wait_until_ready()
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        files = list(model.resolve().rglob("*.safetensors"))
        for file in files:
            os.truncate(file, 0)
        answer = httpx.post(server.url + PREDICT, json={"prompt": "a red star"}, timeout=60)

    assert len(files) >= 3
    assert [line for line in maps.splitlines() if line.endswith(".safetensors")] == []
    assert answer.status_code == 200
