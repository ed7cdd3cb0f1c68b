"""Image to image and inpainting with whole pipelines match diffusers' own for the task."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    DiffusionPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from PIL import Image

from demo.shapes import Placement, Scene, draw, mask
from predictor.engine.composite import CompositeEngine
from predictor.engine.whole_batch import WholeBatchEngine
from predictor.errors import InvalidRequestError
from predictor.loading.profile import read_profile
from predictor.pipelines.stepwise import supports
from predictor.pipelines.tasks import pipeline_for, tasks_of
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest, InputImage, Limits, ModelProfile, Task
from predictor.settings import Settings
from tests.predictor.checkpoints import unpublished
from tests.predictor.drawing import submit_all
from tests.predictor.pictures import largest_difference
from tests.predictor.random_inpainting import (
    build_sd3_of_16_channels,
    build_sd_inpainting,
    build_sdxl_inpainting,
)
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl

PICTURE = InputImage.of(
    draw(Scene("red", "circle", "blue"), Placement()).resize((128, 128), Image.Resampling.BOX)
)
MASK = InputImage.of(mask("square", Placement()).resize((128, 128), Image.Resampling.NEAREST))
TEXT = GenerationRequest("a yellow star", "", 3, 128, 128, 5, 3.0, "default")
IMAGE_TO_IMAGE = replace(TEXT, image=PICTURE, strength=0.6)
INPAINTING = replace(TEXT, image=PICTURE, mask_image=MASK, strength=1.0)
OWN: dict[tuple[str, bool], Any] = {
    ("sd3", False): StableDiffusion3Img2ImgPipeline,
    ("sd3", True): StableDiffusion3InpaintPipeline,
    ("flux", False): FluxImg2ImgPipeline,
    ("flux", True): FluxInpaintPipeline,
}


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> DiffusersPipeline:
    return loaded(build_sd3_of_16_channels(), tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> DiffusersPipeline:
    return loaded(build_flux(), tmp_path_factory.mktemp("flux"))


def loaded(pipeline: DiffusionPipeline, folder: Path) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPipeline(
        pipeline, read_profile(pipeline, unpublished(folder), has_refiner=False)
    )


def make(pipeline: DiffusersPipeline, *requests: GenerationRequest) -> list[Image.Image]:
    engine = CompositeEngine(WholeBatchEngine(pipeline, max_batch=4, max_queue_length=8))
    with closing(engine):
        return submit_all(engine, *requests)


def diffusers_own(pipeline: DiffusersPipeline, own: Any, request: GenerationRequest) -> Image.Image:
    parts = dict(pipeline.diffusers.components)
    parts["scheduler"] = type(parts["scheduler"]).from_config(parts["scheduler"].config)
    made = own(**parts)
    made.set_progress_bar_config(disable=True)
    assert request.image is not None
    given: dict[str, Any] = {"image": request.image.image}
    if request.mask_image is not None:
        given["mask_image"] = request.mask_image.image
    picture: Image.Image = made(
        prompt=request.prompt,
        **given,
        strength=request.strength,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    return picture


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("asked", [IMAGE_TO_IMAGE, INPAINTING], ids=lambda one: one.task)
def test_every_task_matches_diffusers(
    request: pytest.FixtureRequest, family: str, asked: GenerationRequest
) -> None:
    """In one batch with another seed, and concurrently with text to image."""
    pipeline = request.getfixturevalue(family)
    other = replace(asked, seed=4)

    plain, *pictures = make(pipeline, TEXT, asked, other)

    own = OWN[family, asked.mask_image is not None]
    for one, picture in zip((asked, other), pictures, strict=True):
        expected = diffusers_own(pipeline, own, one)
        if asked.mask_image is not None:
            expected = Image.composite(expected, PICTURE.image, MASK.image)
        assert largest_difference(picture, expected) <= 2
    (text,) = pipeline.generate([TEXT], lambda step, steps: None)
    assert largest_difference(plain, text.image) <= 2


def test_a_decoder_that_takes_the_picture_gets_it(demo_model: Path, tmp_path: Path) -> None:
    plain = DiffusionPipeline.from_pretrained(demo_model, variant="fp16", dtype=torch.float32)
    torch.manual_seed(1)
    plain.vae = AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        down_block_out_channels=(8, 8, 8),
        up_block_types=("UpDecoderBlock2D",) * 3,
        up_block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        scaling_factor=1.0,
    )
    pipeline = loaded(build_sd_inpainting(plain), tmp_path)
    assert not supports(pipeline.diffusers)
    asked = replace(INPAINTING, width=64, height=64, num_inference_steps=2)
    asked = replace(
        asked,
        image=InputImage.of(PICTURE.image.resize((64, 64))),
        mask_image=InputImage.of(MASK.image.resize((64, 64))),
    )

    (picture,) = make(pipeline, asked)

    assert asked.image is not None
    assert asked.mask_image is not None
    own = diffusers_own(pipeline, StableDiffusionInpaintPipeline, asked)
    expected = Image.composite(own, asked.image.image, asked.mask_image.image)
    assert largest_difference(picture, expected) <= 2


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_inpainting_changes_only_the_mask(request: pytest.FixtureRequest, family: str) -> None:
    pipeline = request.getfixturevalue(family)

    (picture,) = make(pipeline, INPAINTING)

    outside = np.asarray(MASK.image) == 0
    made, given = np.asarray(picture), np.asarray(PICTURE.image)
    assert (made[outside] == given[outside]).all()
    assert (made[~outside] != given[~outside]).any()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_weights_are_shared_and_the_steps_are_counted(
    request: pytest.FixtureRequest, family: str
) -> None:
    pipeline = request.getfixturevalue(family)
    reported: list[tuple[int, int]] = []

    pipeline.generate([IMAGE_TO_IMAGE], lambda step, steps: reported.append((step, steps)))
    view = pipeline_for("image-to-image", pipeline.diffusers)

    assert view.transformer is pipeline.diffusers.transformer
    assert view.vae is pipeline.diffusers.vae
    assert reported == [(1, 3), (2, 3), (3, 3)]


def refiner() -> DiffusionPipeline:
    return StableDiffusionXLImg2ImgPipeline(**build_sdxl().components)


def pix2pix() -> DiffusionPipeline:
    parts = build_sdxl().components
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    return StableDiffusionInstructPix2PixPipeline(
        **{name: parts[name] for name in names},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


ALL: tuple[Task, ...] = ("text-to-image", "image-to-image", "inpainting")


@pytest.mark.parametrize(
    ("build", "tasks"),
    [
        (build_sdxl, ALL),
        (build_sd3, ALL),
        (build_flux, ALL),
        (build_sdxl_inpainting, ("inpainting",)),
        (refiner, ("image-to-image",)),
        (pix2pix, ("image-to-image",)),
    ],
)
def test_the_tasks_match_the_checkpoint(
    build: Callable[[], DiffusionPipeline], tasks: tuple[Task, ...]
) -> None:
    assert tasks_of(build()) == tasks


@pytest.mark.parametrize(
    ("tasks", "asked", "field"),
    [
        (("inpainting",), TEXT, "image"),
        (("inpainting",), IMAGE_TO_IMAGE, "mask_image"),
        (("text-to-image",), IMAGE_TO_IMAGE, "image"),
        (("text-to-image",), INPAINTING, "mask_image"),
        (("text-to-image", "image-to-image"), INPAINTING, "mask_image"),
        (("image-to-image",), TEXT, "image"),
    ],
)
def test_an_unsupported_task_is_rejected_with_the_field_that_requests_it(
    sd3: DiffusersPipeline, tasks: tuple[Task, ...], asked: GenerationRequest, field: str
) -> None:
    limits = Limits(Settings(), replace(sd3.profile, tasks=tasks))

    with pytest.raises(InvalidRequestError, match=f"^{field}: ") as caught:
        limits.check(asked)
    assert f"does not support {asked.task}; it supports {', '.join(tasks)}" in str(caught.value)


@pytest.mark.parametrize("task", ["image-to-image", "inpainting"])
def test_a_model_that_requires_an_image_is_warmed_up_with_one(
    sd3: DiffusersPipeline, task: Task
) -> None:
    profile: ModelProfile = replace(sd3.profile, tasks=(task,))

    request = profile.default_request("any")

    assert request.task == task
    Limits(Settings(), profile).check(request)
    DiffusersPipeline(sd3.diffusers, profile).warm_up()
