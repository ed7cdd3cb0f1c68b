"""A ControlNet and a LoRA in one request match diffusers with both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline
from PIL import Image

from demo.shapes import Placement, Scene, draw
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.schedulers import make_scheduler
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import (
    Adapter,
    ControlNetInput,
    GenerationDefaults,
    GenerationRequest,
    InputImage,
    ModelProfile,
)
from predictor.settings import Settings
from tests.predictor.drawing import make
from tests.predictor.pictures import largest_difference
from tests.predictor.random_adapters import write_adapter
from tests.predictor.random_controlnets import build_controlnet
from tests.predictor.random_pipelines import build_sdxl

# Tolerance per channel, of 255, for a different order of summation.
TOLERANCE = 2
# A difference per channel that makes two pictures clearly distinct.
APART = 10

CONTROL = InputImage.of(draw(Scene("white", "star", "black"), Placement()))
PLAIN = GenerationRequest("a yellow star on a black background", "", 3, 64, 64, 6, 2.0, "unipc")
STEERED = replace(PLAIN, controlnet=ControlNetInput("canny", CONTROL, 0.7))
STYLED = replace(PLAIN, adapters=(Adapter("style", 0.8),))
BOTH = replace(STEERED, adapters=STYLED.adapters)


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_both_together_match_diffusers(family: str, demo_model: Path, tmp_path: Path) -> None:
    demo = load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers
    build: Callable[[], Any] = build_sdxl if family == "sdxl" else lambda: copy.deepcopy(demo)
    style = write_adapter(build(), tmp_path / "style", seed=1, components=("unet", "text_encoder"))
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    network = ControlNet(build_controlnet(pipeline, 1), pipeline.vae_scale_factor)
    served = DiffusersPipeline(
        pipeline,
        ModelProfile("r1", GenerationDefaults(64, 64, 3, 5.0, "unipc"), 8, ("unipc",)),
        adapter_files={"style": style},
        controlnets=ControlNets({"canny": network}),
    )

    batch = make(served, BOTH, STEERED, STYLED, PLAIN)

    for asked, picture in ((BOTH, batch[0]), (STEERED, batch[1])):
        assert largest_difference(picture, diffusers_call(build(), style, asked)) <= TOLERANCE
    for other in batch[1:]:
        assert largest_difference(batch[0], other) > APART
    assert largest_difference(make(served, BOTH)[0], batch[0]) <= TOLERANCE


def diffusers_call(pipeline: Any, style: Path, request: GenerationRequest) -> Image.Image:
    """Make the picture with diffusers' ControlNet pipeline, and the adapter if requested."""
    assert request.controlnet
    parts = dict(pipeline.components)
    parts["scheduler"] = make_scheduler(request.scheduler, parts["scheduler"])
    parts["controlnet"] = build_controlnet(pipeline, 1)
    view: Any
    if "text_encoder_2" in parts:
        view = StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False)
    else:
        view = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    view.set_progress_bar_config(disable=True)
    for adapter in request.adapters:
        view.load_lora_weights(style, adapter_name=adapter.name)
        view.set_adapters([adapter.name], [adapter.scale])
    image: Image.Image = view(
        request.prompt,
        image=request.controlnet.image.image,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        controlnet_conditioning_scale=request.controlnet.scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    return image
