"""Image to image and inpainting in the step loop match diffusers' own pipelines."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image

from demo.shapes import Placement, Scene, draw, mask
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.step_loop import StepEngine
from predictor.errors import GenerationFailedError
from predictor.loading.pipeline import load_pipeline
from predictor.loading.profile import read_profile
from predictor.pipelines.schedulers import make_scheduler
from predictor.pipelines.stepwise import supports
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest, InputImage, Limits
from predictor.settings import Settings
from tests.predictor.checkpoints import measured_engine, unpublished
from tests.predictor.drawing import make
from tests.predictor.pictures import largest_difference
from tests.predictor.random_inpainting import build_sd_inpainting, build_sdxl_inpainting
from tests.predictor.random_pipelines import build_sdxl

# One solver of each kind: multistep, ancestral, second order, table of timesteps.
SCHEDULERS = ["unipc", "euler", "euler_a", "heun", "ddim", "ddpm", "pndm"]
# Tolerance per channel, of 255, for a different order of summation.
TOLERANCE = 2
SIDE = 64
PICTURE = InputImage.of(draw(Scene("red", "circle", "blue"), Placement()))
MASK = InputImage.of(mask("square", Placement()))
TEXT = GenerationRequest("a yellow star on a black background", "", 3, 64, 64, 6, 2.0, "unipc")
IMAGE_TO_IMAGE = replace(TEXT, image=PICTURE, strength=0.6)
INPAINTING = replace(TEXT, image=PICTURE, mask_image=MASK, strength=1.0)


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> DiffusersPipeline:
    return load_pipeline(Checkpoint.read(demo_model), Settings())


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> DiffusersPipeline:
    return loaded(build_sdxl(), tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def demo_inpainting(
    demo: DiffusersPipeline, tmp_path_factory: pytest.TempPathFactory
) -> DiffusersPipeline:
    return loaded(build_sd_inpainting(demo.diffusers), tmp_path_factory.mktemp("inpainting"))


@pytest.fixture(scope="module")
def sdxl_inpainting(tmp_path_factory: pytest.TempPathFactory) -> DiffusersPipeline:
    return loaded(build_sdxl_inpainting(), tmp_path_factory.mktemp("sdxl-inpainting"))


def loaded(pipeline: DiffusionPipeline, folder: Path) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPipeline(
        pipeline, read_profile(pipeline, unpublished(folder), has_refiner=False)
    )


def diffusers_own(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    """Make the picture with diffusers' pipeline for the task, built from the same components."""
    is_sdxl = "text_encoder_2" in pipeline.diffusers.components
    pipelines: dict[tuple[bool, bool], Any] = {
        (False, False): StableDiffusionImg2ImgPipeline,
        (False, True): StableDiffusionInpaintPipeline,
        (True, False): StableDiffusionXLImg2ImgPipeline,
        (True, True): StableDiffusionXLInpaintPipeline,
    }
    parts = dict(pipeline.diffusers.components)
    parts["scheduler"] = make_scheduler(request.scheduler, parts["scheduler"])
    options = {} if is_sdxl else {"requires_safety_checker": False}
    own = pipelines[is_sdxl, request.mask_image is not None](**parts, **options)
    own.set_progress_bar_config(disable=True)
    assert request.image is not None
    arguments: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "image": request.image.image,
        "strength": request.strength,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
    }
    if request.mask_image is not None:
        arguments["mask_image"] = request.mask_image.image
        arguments |= {"width": request.width, "height": request.height}
    picture: Image.Image = own(**arguments).images[0]
    return picture


def differences(
    pipeline: DiffusersPipeline, requests: list[GenerationRequest], pictures: list[Image.Image]
) -> list[int]:
    return [
        largest_difference(picture, diffusers_own(pipeline, asked))
        for asked, picture in zip(requests, pictures, strict=True)
    ]


@pytest.mark.parametrize("family", ["demo", "sdxl"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_task_matches_diffusers(
    request: pytest.FixtureRequest, family: str, scheduler: str
) -> None:
    """One picture in flight at a time."""
    pipeline = request.getfixturevalue(family)
    asked = [
        replace(one, scheduler=scheduler)
        for one in (IMAGE_TO_IMAGE, INPAINTING, replace(INPAINTING, strength=0.6))
    ]

    pictures = [make(pipeline, one)[0] for one in asked]

    assert max(differences(pipeline, asked, pictures)) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo_inpainting", "sdxl_inpainting"])
@pytest.mark.parametrize("scheduler", ["unipc", "euler_a", "heun", "ddpm"])
def test_an_inpainting_unet_matches_diffusers(
    request: pytest.FixtureRequest, family: str, scheduler: str
) -> None:
    pipeline = request.getfixturevalue(family)
    asked = [
        replace(INPAINTING, scheduler=scheduler, strength=strength, seed=seed)
        for seed, strength in enumerate((1.0, 0.6))
    ]

    pictures = make(pipeline, *asked)

    assert max(differences(pipeline, asked, pictures)) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo", "sdxl"])
@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": "a star"},
        {"guidance_scale": 1.0},
        {"strength": 1.0},
        {"strength": 0.17},
        {"num_inference_steps": 7, "strength": 0.3},
    ],
    ids=str,
)
def test_every_parameter_means_what_it_means_to_diffusers(
    request: pytest.FixtureRequest, family: str, changes: dict[str, Any]
) -> None:
    pipeline = request.getfixturevalue(family)
    asked = [replace(one, **changes) for one in (IMAGE_TO_IMAGE, INPAINTING)]

    pictures = make(pipeline, *asked)

    assert max(differences(pipeline, asked, pictures)) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_a_batch_of_all_tasks_does_not_change_a_picture(
    request: pytest.FixtureRequest, family: str
) -> None:
    pipeline = request.getfixturevalue(family)
    asked = [
        replace(
            (IMAGE_TO_IMAGE, INPAINTING)[index % 2],
            seed=index,
            scheduler=scheduler,
            num_inference_steps=5 + index,
            strength=0.5 + 0.07 * index,
            guidance_scale=0.7 * index,
        )
        for index, scheduler in enumerate(SCHEDULERS)
    ]
    plain = [replace(TEXT, seed=seed, num_inference_steps=4 + seed) for seed in range(4)]
    wide = replace(
        IMAGE_TO_IMAGE, width=128, image=InputImage.of(PICTURE.image.resize((128, SIDE)))
    )

    together = make(pipeline, *plain[:2], *asked[:4], wide, *plain[2:], *asked[4:])

    found = [*together[2:7], *together[9:]]
    assert max(differences(pipeline, [*asked[:4], wide, *asked[4:]], found)) <= TOLERANCE
    for one, picture in zip(plain, [*together[:2], *together[7:9]], strict=True):
        (expected,) = pipeline.generate([one], lambda step, steps: None)
        assert largest_difference(picture, expected.image) <= TOLERANCE


def test_latents_are_encoded_with_the_vaes_mean_and_deviation(sdxl: DiffusersPipeline) -> None:
    pipeline = copy.copy(sdxl.diffusers)
    pipeline.vae = copy.deepcopy(pipeline.vae)
    pipeline.vae.register_to_config(latents_mean=[30, -20, 10, 5], latents_std=[1, 2, 3, 0.5])
    whitened = DiffusersPipeline(pipeline, sdxl.profile)

    (picture,) = make(whitened, IMAGE_TO_IMAGE)

    expected = diffusers_own(whitened, IMAGE_TO_IMAGE)
    assert largest_difference(picture, expected) <= TOLERANCE
    assert largest_difference(expected, diffusers_own(sdxl, IMAGE_TO_IMAGE)) > TOLERANCE


@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")  # diffusers' own
@pytest.mark.parametrize("asked", [IMAGE_TO_IMAGE, INPAINTING], ids=lambda one: one.task)
def test_sdxl_in_half_precision_encodes_with_a_float32_vae(
    sdxl: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch, asked: GenerationRequest
) -> None:
    pipeline = copy.copy(sdxl.diffusers)
    for name in ("vae", "unet", "text_encoder", "text_encoder_2"):
        setattr(pipeline, name, copy.deepcopy(getattr(pipeline, name)).half())
    half = DiffusersPipeline(pipeline, sdxl.profile)
    expected = diffusers_own(half, asked)
    seen: list[torch.dtype] = []
    encode = pipeline.vae.encode

    def watched(pixels: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(pixels.dtype)
        return encode(pixels, *arguments, **options)

    monkeypatch.setattr(pipeline.vae, "encode", watched)
    (picture,) = make(half, asked)

    assert pipeline.vae.config.force_upcast
    assert pipeline.unet.dtype == torch.float16
    assert seen == [torch.float32]
    assert largest_difference(picture, expected) <= TOLERANCE


def test_a_picture_that_several_seeds_share_is_encoded_once(
    demo: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[torch.Size] = []
    encode = demo.diffusers.vae.encode

    def counted(pixels: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        encoded.append(pixels.shape)
        return encode(pixels, *arguments, **options)

    monkeypatch.setattr(demo.diffusers.vae, "encode", counted)
    make(demo, *(replace(INPAINTING, seed=seed) for seed in range(3)))

    assert encoded == [(1, 3, SIDE, SIDE)]


def test_a_picture_that_cannot_be_encoded_fails_alone(
    demo: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = demo.diffusers.vae.encode
    white = InputImage.of(Image.new("RGB", (SIDE, SIDE), "white"))

    def stumbling(pixels: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if pixels.min() == 1:
            raise RuntimeError("secret detail")
        return encode(pixels, *arguments, **options)

    monkeypatch.setattr(demo.diffusers.vae, "encode", stumbling)
    asked = [IMAGE_TO_IMAGE, replace(IMAGE_TO_IMAGE, image=white), INPAINTING]
    before, failed, after = make(demo, *asked, return_exceptions=True)

    assert isinstance(failed, GenerationFailedError)
    assert "secret" not in str(failed)
    assert max(differences(demo, [asked[0], asked[2]], [before, after])) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo_inpainting", "sdxl_inpainting"])
def test_an_inpainting_unet_runs_in_the_step_loop_and_only_inpaints(
    request: pytest.FixtureRequest, family: str
) -> None:
    pipeline = request.getfixturevalue(family)
    engine = measured_engine(pipeline, Settings(max_lanes=4))

    async def story() -> Image.Image:
        return (await engine.submit(INPAINTING)).image

    assert supports(pipeline.diffusers)
    assert pipeline.profile.tasks == ("inpainting",)
    pipeline.warm_up()
    Limits(Settings(), pipeline.profile).check(pipeline.profile.default_request("any"))
    try:
        assert isinstance(engine, StepEngine)
        picture = asyncio.run(story())
    finally:
        engine.close()
    assert differences(pipeline, [INPAINTING], [picture]) <= [TOLERANCE]


def test_a_plain_model_serves_every_task(demo: DiffusersPipeline, sdxl: DiffusersPipeline) -> None:
    tasks = ("text-to-image", "image-to-image", "inpainting")

    assert demo.profile.tasks == tasks
    assert sdxl.profile.tasks == tasks
