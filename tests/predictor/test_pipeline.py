"""``Pipeline`` over real pipelines: the demo model, and SDXL and SD3 with random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UniPCMultistepScheduler
from PIL import Image

from demo.judge import look_at
from demo.shapes import Scene
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.interfaces import GenerationCancelledError
from predictor.errors import ModelLoadError
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.schedulers import OWN, make_scheduler, scheduler_names
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest
from predictor.settings import Settings
from tests.downloader.volume import download
from tests.predictor.random_pipelines import build_sd3, build_sdxl

SCENE = Scene("red", "circle", "yellow")
REQUEST = GenerationRequest(SCENE.prompt, "", 3, 64, 64, 20, 2.0, "unipc")


def made_alone(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    (result,) = pipeline.generate([request], lambda step, steps: None)
    return result.image


@pytest.fixture(scope="module")
def pipeline(demo_model: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings())


def test_the_profile_comes_from_the_folder(pipeline: DiffusersPipeline) -> None:
    defaults = pipeline.profile.defaults

    assert (defaults.width, defaults.height) == (64, 64)
    assert (defaults.num_inference_steps, defaults.guidance_scale) == (20, 2.0)
    assert pipeline.profile.size_multiple == 8
    assert pipeline.profile.revision.startswith("sha256:")


def test_the_picture_matches_the_pipelines_own_call(
    pipeline: DiffusersPipeline, demo_model: Path
) -> None:
    own = StableDiffusionPipeline.from_pretrained(demo_model, variant="fp16", dtype=torch.float32)
    own.scheduler = UniPCMultistepScheduler.from_config(own.scheduler.config)
    expected = own(
        SCENE.prompt,
        width=64,
        height=64,
        num_inference_steps=20,
        guidance_scale=2.0,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images[0]

    assert np.array_equal(made_alone(pipeline, REQUEST), expected)


@pytest.mark.parametrize("name", scheduler_names(UniPCMultistepScheduler()))
def test_every_scheduler_draws_the_prompt(pipeline: DiffusersPipeline, name: str) -> None:
    # DDPM needs more steps than the other solvers.
    steps = 100 if name == "ddpm" else 30
    request = dataclasses.replace(REQUEST, scheduler=name, num_inference_steps=steps)

    picture = made_alone(pipeline, request)

    assert look_at(picture).shows(SCENE), look_at(picture)


def test_steps_are_reported_and_an_exception_of_the_listener_ends_the_call(
    pipeline: DiffusersPipeline,
) -> None:
    reported: list[tuple[int, int]] = []

    def until_the_third(step: int, steps: int) -> None:
        reported.append((step, steps))
        if step == 3:
            raise GenerationCancelledError

    with pytest.raises(GenerationCancelledError):
        pipeline.generate([REQUEST], until_the_third)
    assert reported == [(1, 20), (2, 20), (3, 20)]


@pytest.mark.parametrize(("device", "size"), [("cpu", (64, 96)), ("cuda", (512, 768))])
def test_the_warm_up_picture_is_small_on_a_cpu(
    pipeline: DiffusersPipeline, device: str, size: tuple[int, int]
) -> None:
    defaults = dataclasses.replace(pipeline.profile.defaults, width=512, height=768)
    profile = dataclasses.replace(pipeline.profile, defaults=defaults)

    request = DiffusersPipeline(pipeline.diffusers, profile, torch.device(device)).warm_up_request()

    assert (request.width, request.height) == size
    assert request.guidance_scale == defaults.guidance_scale


def test_each_request_gets_a_new_scheduler() -> None:
    own = UniPCMultistepScheduler(prediction_type="v_prediction")

    made = make_scheduler(OWN, own)

    assert made is not own
    assert make_scheduler("dpmpp_2m_karras", own).config.use_karras_sigmas
    assert make_scheduler("euler", own).config.prediction_type == "v_prediction"


def test_missing_cuda_is_an_error(demo_model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")

    with pytest.raises(ModelLoadError, match="device=cuda, but torch does not find a GPU"):
        load_pipeline(Checkpoint.read(demo_model), Settings(device="cuda"))


@pytest.mark.parametrize(
    ("build", "multiple", "schedulers"),
    [
        (build_sdxl, 8, scheduler_names(UniPCMultistepScheduler())),
        (build_sd3, 8, ("euler", "heun", "unipc", "dpmpp_2m", OWN)),
    ],
)
def test_another_family_is_published_loaded_and_served(
    tmp_path: Path, build: Callable[[], DiffusionPipeline], multiple: int, schedulers: tuple[str]
) -> None:
    source = tmp_path / "source"
    build().save_pretrained(source)
    download(source, tmp_path, name="other")

    loaded = load_pipeline(Checkpoint.read(tmp_path / "other"), Settings())
    profile = loaded.profile
    request = dataclasses.replace(
        REQUEST, width=128, height=64, num_inference_steps=3, scheduler=profile.defaults.scheduler
    )
    first, again = (made_alone(loaded, request) for _ in range(2))

    assert (profile.size_multiple, profile.schedulers) == (multiple, schedulers)
    assert (profile.defaults.width, profile.defaults.height) == (128, 128)
    assert first.size == (128, 64)
    assert np.array_equal(first, again)
