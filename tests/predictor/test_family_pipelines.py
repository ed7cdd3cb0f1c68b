"""Each family with random weights, from a published folder to the engine's picture."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, StableVideoDiffusionPipeline

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.step_loop import StepEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import InvalidRequestError, ModelLoadError
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.schedulers import OWN, scheduler_names
from predictor.pipelines.signature import check_makes_pictures
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationResult, Limits
from predictor.settings import Settings
from tests.downloader.volume import download
from tests.predictor.checkpoints import measured_engine
from tests.predictor.decoding import decode
from tests.predictor.pictures import largest_difference
from tests.predictor.random_families import (
    build_flux_schnell,
    build_lcm,
    build_lcm_unet,
    build_pixart,
    build_sd2,
)
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl
from tests.serving import MODEL_NAME, PREDICT, Server

SOLVERS = scheduler_names(EulerDiscreteScheduler())
NO_NEGATIVE = {"negative_prompt"}

# Pipeline, family, engine, default steps, guidance and scheduler, accepted schedulers.
FAMILIES = {
    "sd2": (build_sd2, StepEngine, (30, 7.5, "unipc"), SOLVERS, set()),
    "sdxl": (build_sdxl, StepEngine, (30, 5.0, "unipc"), SOLVERS, set()),
    "lcm": (build_lcm, WholeBatchEngine, (4, 8.0, "lcm"), ("lcm", OWN), NO_NEGATIVE),
    "lcm, SD's class": (build_lcm_unet, WholeBatchEngine, (4, 8.0, "lcm"), ("lcm", OWN), set()),
    "sd3": (
        build_sd3,
        StepEngine,
        (28, 7.0, "euler"),
        ("euler", "heun", "unipc", "dpmpp_2m", OWN),
        set(),
    ),
    "flux-dev": (
        build_flux,
        StepEngine,
        (28, 3.5, "euler"),
        ("euler", "unipc", OWN),
        NO_NEGATIVE,
    ),
    "flux-schnell": (
        build_flux_schnell,
        StepEngine,
        (4, 0.0, "euler"),
        ("euler", "unipc", OWN),
        {"negative_prompt", "guidance_scale"},
    ),
    "unknown": (build_pixart, WholeBatchEngine, (20, 4.5, OWN), (OWN,), set()),
}


def published(build: Callable[[], DiffusionPipeline], folder: Path) -> Path:
    build().save_pretrained(folder / "source")
    # FLUX's configuration does not include its training size.
    own = folder / "source" / "generation_defaults.json"
    own.write_text('{"width": 128, "height": 128}')
    download(folder / "source", folder, name="model")
    return folder / "model"


def loaded_from(build: Callable[[], DiffusionPipeline], folder: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(published(build, folder)), Settings())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusersPipeline]:
    """Return the loaded pipeline of a family, published and loaded once."""

    @functools.cache
    def load(family: str) -> DiffusersPipeline:
        return loaded_from(FAMILIES[family][0], tmp_path_factory.mktemp("family"))

    return load


def asked(
    loaded: DiffusersPipeline, *bodies: dict[str, object], engine_class: type = object
) -> list[GenerationResult]:
    """Make the pictures of these bodies concurrently with the engine that is chosen."""
    limits = Limits(Settings(), loaded.profile)
    calls = [decode({"prompt": "a red circle", "seed": 3} | body, limits) for body in bodies]

    engine = measured_engine(loaded, Settings(max_lanes=4))

    async def submit_all() -> list[GenerationResult]:
        try:
            assert isinstance(engine, engine_class)
            requests = [picture.request for call in calls for picture in call.pictures]
            return await asyncio.gather(*(engine.submit(request) for request in requests))
        finally:
            engine.close()

    return asyncio.run(submit_all())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_served_with_its_own_defaults(
    family: str, served: Callable[[str], DiffusersPipeline]
) -> None:
    _, engine_class, suited, schedulers, unused = FAMILIES[family]

    loaded = served(family)
    profile, defaults = loaded.profile, loaded.profile.defaults

    assert profile.family == family.partition(",")[0]
    assert (defaults.width, defaults.height) == (128, 128)
    assert (defaults.num_inference_steps, defaults.guidance_scale, defaults.scheduler) == suited
    assert profile.schedulers == schedulers
    assert set(profile.unused_fields) == unused

    few = {"num_inference_steps": 3, "width": 64, "height": 128}
    bodies = [few | {"scheduler": name} for name in schedulers[-5:]]
    results = asked(
        loaded, *bodies, {"seed": 4} | bodies[-1], bodies[-1], engine_class=engine_class
    )
    assert {result.image.size for result in results} == {(64, 128)}
    assert largest_difference(results[-3].image, results[-1].image) <= 2
    assert largest_difference(results[-3].image, results[-2].image) > 2


@pytest.mark.parametrize(
    ("family", "field", "value", "kept", "reason"),
    [
        ("flux-dev", "negative_prompt", "a star", "", "guidance as an input"),
        ("flux-schnell", "guidance_scale", 3.5, 0.0, "distilled to work without guidance"),
        ("lcm", "negative_prompt", "a star", "", "does not accept it"),
        ("unknown", "scheduler", "unipc", OWN, "is not one of default"),
        ("lcm", "scheduler", "unipc", OWN, "is not one of lcm, default"),
        ("flux-dev", "scheduler", "heun", OWN, "is not one of euler, unipc, default"),
    ],
)
def test_a_field_without_effect_is_rejected_unless_it_has_its_default(
    served: Callable[[str], DiffusersPipeline],
    family: str,
    field: str,
    value: object,
    kept: object,
    reason: str,
) -> None:
    limits = Limits(Settings(), served(family).profile)

    with pytest.raises(InvalidRequestError, match=reason) as refused:
        decode({"prompt": "a red circle", field: value}, limits)
    assert refused.value.field == field
    with pytest.raises(InvalidRequestError, match=reason) as refused:
        decode({"instances": [{"prompt": "a"}], "parameters": {field: value}}, limits)
    assert refused.value.field == f"instances[0].{field}"
    decode({"prompt": "a red circle", field: kept}, limits)


def test_over_http_a_family_lists_what_it_accepts_and_rejects_the_rest(tmp_path: Path) -> None:
    model = published(build_flux, tmp_path)
    picture = {"prompt": "a red circle", "num_inference_steps": 2}

    with Server.started(model, tmp_path / "log", max_lanes=2) as server:
        server.wait_until_ready()
        metadata = httpx.get(f"{server.url}/v2/models/{MODEL_NAME}").json()
        made, no_scheduler, no_negative = (
            httpx.post(server.url + PREDICT, json=picture | field, timeout=60)
            for field in ({}, {"scheduler": "ddim"}, {"negative_prompt": "a star"})
        )

    assert metadata["family"] == "flux-dev"
    assert metadata["schedulers"] == ["euler", "unipc", "default"]
    assert "negative_prompt" not in {one["name"] for one in metadata["inputs"]}
    assert made.status_code == 200
    assert (no_scheduler.status_code, no_negative.status_code) == (400, 400)
    assert no_scheduler.json() == {"error": 'scheduler: "ddim" is not one of euler, unipc, default'}
    reason = metadata["unused_fields"]["negative_prompt"]
    assert no_negative.json() == {"error": f"negative_prompt: {reason}"}


def test_an_unknown_class_gets_only_accepted_arguments_and_reports_its_steps(
    served: Callable[[str], DiffusersPipeline],
) -> None:
    loaded = served("unknown")
    (request,) = decode(
        {"prompt": "a red circle", "num_inference_steps": 4, "seed": 1},
        Limits(Settings(), loaded.profile),
    ).pictures
    reported: list[tuple[int, int]] = []

    plain, guided = (
        asked(loaded, {"num_inference_steps": 4, "guidance_scale": scale})[0]
        for scale in (1.0, 9.0)
    )
    loaded.generate([request.request], lambda step, steps: reported.append((step, steps)))

    assert largest_difference(plain.image, guided.image) > 2
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_video_pipeline_is_rejected() -> None:
    with pytest.raises(ModelLoadError, match="StableVideoDiffusionPipeline makes video"):
        check_makes_pictures(object.__new__(StableVideoDiffusionPipeline))


def test_a_pipeline_without_a_prompt_is_rejected(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )

    with pytest.raises(ModelLoadError, match="DDPMPipeline does not accept a prompt"):
        loaded_from(lambda: DDPMPipeline(unet, DDPMScheduler()), tmp_path)
