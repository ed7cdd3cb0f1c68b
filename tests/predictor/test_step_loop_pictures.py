"""The step loop over real pipelines draws what diffusers' own ``__call__`` draws."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, UniPCMultistepScheduler
from PIL import Image

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.capacity import Capacity
from predictor.engine.denoising import Denoising
from predictor.engine.step_loop import StepEngine
from predictor.errors import GenerationFailedError
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.schedulers import scheduler_names
from predictor.pipelines.stepwise import denoiser_for, supports
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from predictor.settings import Settings
from tests.predictor.checkpoints import measured_engine
from tests.predictor.drawing import engine_over, make, own_call
from tests.predictor.pictures import largest_difference
from tests.predictor.random_families import build_lcm_unet, build_pixart
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl

SCHEDULERS = scheduler_names(UniPCMultistepScheduler())
REQUEST = GenerationRequest("a red circle on a yellow background", "", 3, 64, 64, 12, 2.0, "unipc")
# The largest difference, of 255, that another order of summation may cause in a channel.
TOLERANCE = 2


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings())


@pytest.fixture(scope="module")
def epsilon(demo: DiffusersPipeline) -> DiffusersPipeline:
    """The demo model with the wrong prediction type: both ways must draw the same noise."""
    pipeline = copy.copy(demo.diffusers)
    own = pipeline.scheduler
    pipeline.scheduler = type(own).from_config(own.config, prediction_type="epsilon")
    return DiffusersPipeline(pipeline, demo.profile)


@pytest.fixture(scope="module")
def sdxl() -> DiffusersPipeline:
    pipeline = build_sdxl()
    pipeline.set_progress_bar_config(disable=True)
    defaults = GenerationDefaults(128, 128, 3, 5.0, "unipc")
    return DiffusersPipeline(pipeline, ModelProfile("r1", defaults, 8, SCHEDULERS))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("family", ["demo", "epsilon", "sdxl"])
def test_every_scheduler_draws_what_diffusers_own_call_draws(
    request: pytest.FixtureRequest, family: str, scheduler: str
) -> None:
    pipeline = request.getfixturevalue(family)
    wanted = replace(REQUEST, scheduler=scheduler)

    (picture,) = make(pipeline, wanted)

    assert largest_difference(picture, own_call(pipeline, wanted)) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo", "sdxl"])
@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": "a star"},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.0, "negative_prompt": "a star"},
        {"width": 128, "scheduler": "euler_a", "guidance_scale": 7.5},
        {"num_inference_steps": 1},
    ],
    ids=str,
)
def test_every_parameter_means_what_it_means_to_diffusers(
    request: pytest.FixtureRequest, family: str, changes: dict[str, object]
) -> None:
    pipeline = request.getfixturevalue(family)
    wanted = replace(REQUEST, **changes)  # type: ignore[arg-type]

    (picture,) = make(pipeline, wanted)

    assert picture.size == (wanted.width, wanted.height)
    assert largest_difference(picture, own_call(pipeline, wanted)) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo", "sdxl"])
@pytest.mark.parametrize("scheduler", ["unipc", "euler_a", "heun", "pndm"])
def test_a_crowd_does_not_change_a_picture(
    request: pytest.FixtureRequest, family: str, scheduler: str
) -> None:
    pipeline = request.getfixturevalue(family)
    wanted = replace(REQUEST, scheduler=scheduler)
    crowd = [
        replace(
            REQUEST,
            prompt=f"a {colour} star on a white background",
            negative_prompt="a circle" if index % 2 else "",
            seed=index,
            num_inference_steps=4 + 3 * index,
            guidance_scale=0.5 * index,
            scheduler=SCHEDULERS[index],
            width=128 if index == 5 else 64,
        )
        for index, colour in enumerate(
            ["red", "green", "blue", "white", "black", "yellow", "purple", "orange"]
        )
    ]

    (alone,) = make(pipeline, wanted)
    together = make(pipeline, *crowd[:4], wanted, *crowd[4:])

    assert largest_difference(alone, together[4]) <= TOLERANCE
    for other, picture in zip(crowd, [*together[:4], *together[5:]], strict=True):
        assert largest_difference(picture, own_call(pipeline, other)) <= TOLERANCE


def test_sdxl_with_a_mean_and_deviation_of_its_latents(sdxl: DiffusersPipeline) -> None:
    pipeline = copy.copy(sdxl.diffusers)
    pipeline.vae = copy.deepcopy(pipeline.vae)
    pipeline.vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1, 2, 3, 0.5])
    whitened = DiffusersPipeline(pipeline, sdxl.profile)

    (picture,) = make(whitened, REQUEST)

    assert largest_difference(picture, own_call(whitened, REQUEST)) <= TOLERANCE


def test_a_picture_of_nan_fails_alone(
    demo: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = denoiser_for(demo)
    begin = denoiser.begin

    def poisoned(request: GenerationRequest) -> Denoising:
        denoising = begin(request)
        if request.seed == 13:
            denoising.latents[0, 0, 0, 0] = torch.nan
        return denoising

    monkeypatch.setattr(denoiser, "begin", poisoned)

    async def story() -> list[object]:
        engine = StepEngine(denoiser, Capacity(32, 16 * 16, 1.0), max_queue_length=8)
        requests = [replace(REQUEST, seed=seed) for seed in (12, 13, 14)]
        try:
            return await asyncio.gather(
                *(engine.submit(one) for one in requests), return_exceptions=True
            )
        finally:
            engine.close()

    before, failed, after = asyncio.run(story())
    assert isinstance(failed, GenerationFailedError)
    assert "NaN" in str(failed)
    for seed, result in ((12, before), (14, after)):
        expected = own_call(demo, replace(REQUEST, seed=seed))
        assert largest_difference(result.image, expected) <= TOLERANCE  # type: ignore[attr-defined]


def test_a_truncated_prompt_gets_a_warning(demo: DiffusersPipeline) -> None:
    wanted = replace(REQUEST, prompt="a red star " * 40, num_inference_steps=1)

    async def story() -> tuple[str, ...]:
        with engine_over(demo) as engine:
            return (await engine.submit(wanted)).warnings

    (warning,) = asyncio.run(story())
    assert warning.startswith("prompt is longer than the text encoder reads")


def test_the_step_loop_supports_stable_diffusion_sdxl_sd3_and_flux(
    demo: DiffusersPipeline, sdxl: DiffusersPipeline
) -> None:
    parts = demo.diffusers.components
    inpainting = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)

    assert supports(demo.diffusers)
    assert supports(sdxl.diffusers)
    assert supports(inpainting)
    assert supports(build_sd3())
    assert supports(build_flux())
    assert not supports(build_pixart())
    assert not supports(build_lcm_unet())


def test_the_engine_is_chosen_and_measured_for_the_model(demo: DiffusersPipeline) -> None:
    engine = measured_engine(demo, Settings(max_lanes=4))

    async def story() -> Image.Image:
        try:
            assert isinstance(engine, StepEngine)
            return (await engine.submit(REQUEST)).image
        finally:
            engine.close()

    assert largest_difference(asyncio.run(story()), own_call(demo, REQUEST)) <= TOLERANCE
