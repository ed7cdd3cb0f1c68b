"""ControlNets for image tasks match diffusers' own pipelines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
)
from PIL import Image

from demo.shapes import Placement, Scene, draw, mask
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.schedulers import make_scheduler
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import (
    ControlNetInput,
    GenerationDefaults,
    GenerationRequest,
    InputImage,
    ModelProfile,
)
from predictor.settings import Settings
from tests.predictor.drawing import make
from tests.predictor.pictures import largest_difference
from tests.predictor.random_controlnets import build_controlnet
from tests.predictor.random_inpainting import build_sd_inpainting, build_sdxl_inpainting
from tests.predictor.random_pipelines import build_sdxl

# Tolerance per channel, of 255, for a different order of summation.
TOLERANCE = 2
# A difference per channel that makes two pictures clearly distinct.
APART = 10

PICTURE = InputImage.of(draw(Scene("red", "circle", "blue"), Placement()))
MASK = InputImage.of(mask("square", Placement()))
CONTROL = InputImage.of(draw(Scene("white", "star", "black"), Placement()))
TEXT = GenerationRequest("a yellow star on a black background", "", 3, 64, 64, 6, 2.0, "unipc")
STEERED = replace(TEXT, controlnet=ControlNetInput("canny", CONTROL, 0.7))
IMAGE_TO_IMAGE = replace(STEERED, image=PICTURE, strength=0.6)
INPAINTING = replace(STEERED, image=PICTURE, mask_image=MASK, strength=1.0)


@pytest.fixture(scope="module")
def pipelines(demo_model: Path) -> dict[str, DiffusersPipeline]:
    demo = load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers
    made = {
        "demo": demo,
        "sdxl": build_sdxl(),
        "demo-inpainting": build_sd_inpainting(demo),
        "sdxl-inpainting": build_sdxl_inpainting(),
    }
    return {name: with_controlnet(pipeline) for name, pipeline in made.items()}


def with_controlnet(pipeline: Any) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    controlnets = ControlNets({"canny": ControlNet(own(pipeline), pipeline.vae_scale_factor)})
    profile = ModelProfile("r1", GenerationDefaults(64, 64, 3, 5.0, "unipc"), 8, ("unipc",))
    return DiffusersPipeline(pipeline, profile, controlnets=controlnets)


def own(pipeline: Any) -> ControlNetModel:
    """A ControlNet for the plain channels; it sees only the latents of an inpainting UNet."""
    return build_controlnet(pipeline, 1, in_channels=4)


def diffusers_call(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    """Make the picture with diffusers' pipeline for the task, from the same components."""
    classes: dict[tuple[bool, bool], Any] = {
        (False, False): StableDiffusionControlNetImg2ImgPipeline,
        (False, True): StableDiffusionControlNetInpaintPipeline,
        (True, False): StableDiffusionXLControlNetImg2ImgPipeline,
        (True, True): StableDiffusionXLControlNetInpaintPipeline,
    }
    assert request.controlnet and request.image
    parts = dict(pipeline.diffusers.components)
    is_xl = "text_encoder_2" in parts
    parts["scheduler"] = make_scheduler(request.scheduler, parts["scheduler"])
    parts["controlnet"] = own(pipeline.diffusers)
    more: dict[str, Any] = {"mask_image": request.mask_image.image} if request.mask_image else {}
    only = {"add_watermarker": False} if is_xl else {"requires_safety_checker": False}
    view = classes[is_xl, bool(request.mask_image)](**parts, **only)
    view.set_progress_bar_config(disable=True)
    image: Image.Image = view(
        request.prompt,
        image=request.image.image,
        control_image=request.controlnet.image.image,
        strength=request.strength,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        controlnet_conditioning_scale=request.controlnet.scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        **more,
    ).images[0]
    return image


@pytest.mark.parametrize("scheduler", ["unipc", "euler_a"])
@pytest.mark.parametrize(
    ("family", "asked"),
    [
        ("demo", IMAGE_TO_IMAGE),
        ("sdxl", IMAGE_TO_IMAGE),
        ("demo", INPAINTING),
        ("sdxl", INPAINTING),
        ("demo-inpainting", INPAINTING),
        ("sdxl-inpainting", INPAINTING),
    ],
    ids=lambda value: getattr(value, "task", value),
)
def test_an_image_task_with_a_controlnet_matches_diffusers(
    pipelines: dict[str, DiffusersPipeline], family: str, asked: GenerationRequest, scheduler: str
) -> None:
    asked = replace(asked, scheduler=scheduler)
    pipeline = pipelines[family]

    alone, unsteered = make(pipeline, asked, replace(asked, controlnet=None))

    assert largest_difference(alone, diffusers_call(pipeline, asked)) <= TOLERANCE
    assert largest_difference(alone, unsteered) > APART


def test_all_tasks_with_controlnets_share_one_batch(
    pipelines: dict[str, DiffusersPipeline],
) -> None:
    batch = [STEERED, IMAGE_TO_IMAGE, INPAINTING, replace(INPAINTING, controlnet=None), TEXT]

    together = make(pipelines["demo"], *batch)

    for asked, picture in zip(batch, together, strict=True):
        (alone,) = make(pipelines["demo"], asked)
        assert largest_difference(alone, picture) <= TOLERANCE
