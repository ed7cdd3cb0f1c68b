"""ControlNets of a published model: which are found, which are rejected, also over HTTP."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from diffusers import ControlNetModel, DiffusionPipeline
from PIL import Image
from playwright.sync_api import Browser
from safetensors.torch import load_file, save_file

from downloader.download import download_model
from downloader.settings import Fetch
from downloader.sources.access import Access
from downloader.spec import read_models
from modelstore import PartEntry
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.errors import GenerationFailedError
from predictor.loading.controlnets import load_controlnets
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.controlnet import ControlNets
from predictor.settings import Settings
from tests.browser import Visit, browser, needs_chromium
from tests.predictor.checkpoints import unpublished
from tests.predictor.pictures import largest_difference
from tests.predictor.random_controlnets import build_controlnet
from tests.predictor.random_pipelines import build_sd3, build_sdxl
from tests.serving import PREDICT, Server, picture_of

__all__ = ["browser"]

ROOT = Path(__file__).resolve().parent.parent.parent
WEIGHTS = "diffusion_pytorch_model.safetensors"
CPU = torch.device("cpu")
PROMPT = "a red circle on a blue background"
SHORT = {"prompt": PROMPT, "seed": 3, "num_inference_steps": 6}


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> DiffusionPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers


@pytest.fixture(scope="module")
def model(demo: DiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with ControlNets, published by the downloader; one does not fit."""
    sources = tmp_path_factory.mktemp("sources")
    canny = build_controlnet(demo, 1)
    canny.save_pretrained(sources / "canny")
    canny.half().save_pretrained(sources / "canny", variant="fp16")
    build_controlnet(build_sdxl(), 2).save_pretrained(sources / "for-sdxl")
    return publish(ROOT / "demo" / "model", sources, tmp_path_factory.mktemp("volume"))


def publish(source: Path, controlnets: Path, volume: Path) -> Path:
    """Publish the pipeline with everything in the folder ``controlnets``."""
    entry: dict[str, Any] = {"name": "sd", "source": source.as_uri(), "controlnets": []}
    for path in sorted(controlnets.iterdir()):
        entry["controlnets"].append({"name": path.name, "source": path.as_uri()})
    spec = volume / "models.yaml"
    spec.write_text(yaml.safe_dump({"models": [entry]}))
    settings = Fetch(spec=spec, target=volume)
    with Access(settings) as access:
        download_model(read_models(settings)[0], settings, access)
    return volume / "sd"


def test_published_controlnets_load_with_the_model_in_its_dtype(model: Path) -> None:
    assert (model / "controlnets/canny/diffusion_pytorch_model.fp16.safetensors").exists()
    assert not (model / "controlnets/canny" / WEIGHTS).exists()

    loaded = load_pipeline(Checkpoint.read(model), Settings())

    assert loaded.profile.controlnets == ("canny", "for-sdxl")
    network = loaded.controlnets["canny"]._model
    assert network.dtype == loaded.diffusers.unet.dtype == torch.float32
    assert network.device == loaded.diffusers.unet.device
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_one_that_does_not_fit_is_logged_at_startup_and_stops_nothing(
    model: Path, demo: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "predictor"):
        controlnets = load_controlnets(Checkpoint.read(model), demo, CPU)

    sentence = (
        "does not fit the model: its block_out_channels is [32, 64], the model's [32, 64, 96]"
    )
    (record,) = caplog.records
    assert record.getMessage() == f"the ControlNet 'for-sdxl' {sentence}"
    assert controlnets.names == ("canny", "for-sdxl")
    assert controlnets["canny"]
    with pytest.raises(GenerationFailedError) as refused:
        controlnets["for-sdxl"]
    assert str(refused.value) == f"controlnet.name: 'for-sdxl' {sentence}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cross_attention_dim": 768}, "its cross_attention_dim is 768, the model's 64"),
        ({"in_channels": 9}, "its in_channels is 9, the model's 4"),
        ({"conditioning_channels": 1}, "its conditioning_channels is 1, the model's 3"),
        ({"layers_per_block": 2}, "its layers_per_block is 2, the model's 1"),
        (
            {"conditioning_embedding_out_channels": [16, 32, 96, 256]},
            "its pixels per latent is 8, the model's 4",
        ),
        ({"addition_embed_type": "text_time"}, "its addition_embed_type is text_time, the model's"),
        ({"_class_name": "ControlNetUnionModel"}, "is a ControlNetUnionModel, not a ControlNet"),
    ],
    ids=str,
)
def test_the_configuration_alone_shows_what_does_not_fit(
    tmp_path: Path, demo: DiffusionPipeline, changes: dict[str, Any], reason: str
) -> None:
    build_controlnet(demo, 1).save_config(folder := tmp_path / "controlnets" / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))

    assert reason in load_controlnets(unpublished(tmp_path), demo, CPU).unusable["other"]


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("controlnet_mid_block.weight")
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def damage(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(b"\xff" * 64 + content[64:])


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1])


def poison(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["controlnet_mid_block.weight"][0] = float("nan")
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def leave_a_pickle(folder: Path) -> None:
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def lose_the_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (lose_a_tensor, "the weights lack controlnet_mid_block.weight"),
        (damage, "Unable to load weights"),
        (truncate, "Unable to load weights"),
        (poison, "controlnet_mid_block.weight contains NaN or infinity"),
        (leave_a_pickle, f"no file named {WEIGHTS}"),
        (lose_the_configuration, "no file named config.json"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_that_does_not_load_fails_the_requests_that_name_it(
    tmp_path: Path,
    demo: DiffusionPipeline,
    harm: Callable[[Path], None],
    cause: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("broken", "whole"):
        build_controlnet(demo, 1).save_pretrained(tmp_path / "controlnets" / name)
    harm(tmp_path / "controlnets" / "broken")

    with caplog.at_level(logging.ERROR, "predictor"):
        controlnets = load_controlnets(unpublished(tmp_path), demo, CPU)

    assert list(controlnets.usable) == ["whole"]
    assert controlnets.unusable == {"broken": "does not load; the server's log has the cause"}
    (record,) = [one for one in caplog.records if one.name.startswith("predictor")]
    assert record.getMessage() == "the ControlNet 'broken' does not load"
    assert record.exc_info
    assert cause in str(record.exc_info[1])


@pytest.mark.parametrize(
    "form", [{}, {"variant": "fp16"}, {"max_shard_size": "100KB"}], ids=["plain", "fp16", "shards"]
)
def test_weights_in_every_format_are_found(
    tmp_path: Path, demo: DiffusionPipeline, form: dict[str, Any]
) -> None:
    model = build_controlnet(demo, 1)
    model.save_pretrained(folder := tmp_path / "controlnets" / "one", **form)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == ("max_shard_size" in form)

    part = PartEntry("controlnets/one", "any", "1", form.get("variant"))
    network = load_controlnets(unpublished(tmp_path, part), demo, CPU)["one"]._model

    there, saved = network.state_dict(), model.state_dict()
    assert torch.equal(there["controlnet_mid_block.weight"], saved["controlnet_mid_block.weight"])


def test_an_empty_folder_and_a_stray_file_are_ignored(
    tmp_path: Path, demo: DiffusionPipeline
) -> None:
    assert load_controlnets(unpublished(tmp_path), demo, CPU) == ControlNets()
    (tmp_path / "controlnets").mkdir()
    (tmp_path / "controlnets" / "README.md").write_text("")
    assert load_controlnets(unpublished(tmp_path), demo, CPU).names == ()


def test_a_whole_pipeline_has_no_controlnets(tmp_path: Path) -> None:
    build_sd3().save_pretrained(tmp_path / "sd3")
    ControlNetModel(block_out_channels=(32,), down_block_types=("DownBlock2D",)).save_pretrained(
        tmp_path / "sources" / "canny"
    )
    model = publish(tmp_path / "sd3", tmp_path / "sources", tmp_path)

    assert load_pipeline(Checkpoint.read(model), Settings()).profile.controlnets == ()


@pytest.fixture(scope="module")
def client(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with Server.started(model, tmp_path_factory.mktemp("server") / "log") as server:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, timeout=60) as opened:
            yield opened


def guiding_picture() -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").save(stream, "PNG")
    return stream.getvalue()


def ask(client: httpx.Client, name: str | None, **controlnet: Any) -> httpx.Response:
    body: dict[str, Any] = {**SHORT}
    if name is not None:
        encoded = base64.b64encode(guiding_picture()).decode()
        body["controlnet"] = {"name": name, "image": encoded, **controlnet}
    return client.post(PREDICT, json=body)


def test_a_request_uses_a_controlnet(client: httpx.Client) -> None:
    plain, steered, weaker = (
        picture_of(answer)
        for answer in (ask(client, None), ask(client, "canny"), ask(client, "canny", scale=0.5))
    )
    for one, other in ((plain, steered), (steered, weaker), (plain, weaker)):
        assert largest_difference(one, other) > 10
    again = picture_of(ask(client, "canny", scale=1))
    assert largest_difference(steered, again) == 0
    parameters = json.loads(steered.text["parameters"])  # type: ignore[attr-defined]
    recorded = parameters["controlnet"]
    assert (recorded["name"], recorded["scale"], recorded["image"]["width"]) == ("canny", 1.0, 64)


@pytest.mark.parametrize(
    ("name", "more", "status", "error"),
    [
        ("pose", {}, 400, 'controlnet.name: "pose" is not known; the model has canny, for-sdxl'),
        ("canny", {"scale": 11}, 400, "controlnet.scale: 11.0 is not between 0 and 10"),
        ("canny", {"scale": -1}, 400, "controlnet.scale: -1.0 is not between 0 and 10"),
        ("for-sdxl", {}, 500, "controlnet.name: 'for-sdxl' does not fit the model: its block"),
    ],
)
def test_an_invalid_controlnet_is_a_400_that_says_why(
    client: httpx.Client, name: str, more: dict[str, Any], status: int, error: str
) -> None:
    answer = ask(client, name, **more)

    assert answer.status_code == status
    assert answer.json()["error"].startswith(error)
    assert ask(client, None).status_code == 200


@needs_chromium
def test_the_page_draws_with_a_controlnet(browser: Browser, client: httpx.Client) -> None:
    expected = ask(client, "canny", scale=0.5).content

    with Visit.started(browser, str(client.base_url), SHORT) as visit:
        visit.wait_until_described()
        visit.page.get_by_text("ControlNet", exact=True).click()
        visit.control("Network").select_option("canny")
        visit.control("Guiding picture").set_input_files(
            {"name": "edges.png", "mimeType": "image/png", "buffer": guiding_picture()}
        )
        visit.page.get_by_role("img", name="Guiding picture").wait_for()
        visit.control("Scale").fill("0.5")
        visit.draw(1)

        assert visit.newest_file() == expected
