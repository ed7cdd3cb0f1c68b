"""ControlNets in the step loop match diffusers' own ControlNet pipelines."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.engine.capacity import Capacity
from predictor.engine.interfaces import Lane
from predictor.engine.step_loop import StepEngine
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.schedulers import make_scheduler, scheduler_names
from predictor.pipelines.stepwise import denoiser_for
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
from tests.predictor.random_pipelines import build_sdxl

PLAIN = GenerationRequest("a red circle on a yellow background", "", 3, 64, 64, 6, 2.0, "unipc")
# Tolerance per channel, of 255, for a different order of summation.
TOLERANCE = 2
# A difference per channel that makes two pictures clearly distinct.
APART = 10

# The ControlNets of each model by name: a seed, and changes to the configuration.
CONTROLNETS: dict[str, tuple[int, dict[str, Any]]] = {
    "canny": (1, {}),
    "depth": (2, {}),
    "bgr": (1, {"controlnet_conditioning_channel_order": "bgr"}),
    "pooled": (1, {"global_pool_conditions": True}),
}


def control_image(seed: int, width: int = 96, height: int = 80) -> InputImage:
    """Coarse coloured noise whose size differs from that of the pictures."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return InputImage(Image.fromarray(noise).resize((width, height)), f"sha of {seed}")


def steered(name: str, scale: float = 1.0, image: int = 0, **changes: Any) -> GenerationRequest:
    controlnet = ControlNetInput(name, control_image(image), scale)
    return replace(PLAIN, controlnet=controlnet, **changes)


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> DiffusersPipeline:
    return with_controlnets(load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers)


@pytest.fixture(scope="module")
def sdxl() -> DiffusersPipeline:
    pipeline = build_sdxl()
    pipeline.set_progress_bar_config(disable=True)
    return with_controlnets(pipeline)


def with_controlnets(pipeline: Any) -> DiffusersPipeline:
    usable = {
        name: ControlNet(own(pipeline, name), pipeline.vae_scale_factor) for name in CONTROLNETS
    }
    profile = ModelProfile(
        "r1",
        GenerationDefaults(64, 64, 3, 5.0, "unipc"),
        8,
        scheduler_names(UniPCMultistepScheduler()),
    )
    return DiffusersPipeline(pipeline, profile, controlnets=ControlNets(usable))


def own(pipeline: Any, name: str) -> ControlNetModel:
    """Build a second, equal model for diffusers, as the step loop modifies its own."""
    seed, config = CONTROLNETS[name]
    return build_controlnet(pipeline, seed, **config)


def diffusers_call(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    """Make the picture with diffusers' pipeline for the task, from the same components."""
    control = request.controlnet
    if control is None:
        (result,) = pipeline.generate([request], lambda step, steps: None)
        return result.image
    parts = dict(pipeline.diffusers.components)
    parts["scheduler"] = make_scheduler(request.scheduler, parts["scheduler"])
    parts["controlnet"] = own(pipeline.diffusers, control.name)
    if "text_encoder_2" in parts:
        view = StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False)
    else:
        view = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    view.set_progress_bar_config(disable=True)
    image: Image.Image = view(
        request.prompt,
        image=control.image.image,
        negative_prompt=request.negative_prompt or None,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        controlnet_conditioning_scale=control.scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    return image


@pytest.mark.parametrize("family", ["demo", "sdxl"])
@pytest.mark.parametrize(
    "asked",
    [
        steered("canny", 0.5),
        steered("canny", 1.0),
        steered("canny", 0.7, negative_prompt="a star", scheduler="heun"),
        steered("canny", guidance_scale=1.0),
        steered("canny", width=128, height=72, scheduler="euler_a"),
        steered("bgr"),
        steered("pooled", 4.0, guidance_scale=5.0),
        steered("pooled", 4.0, guidance_scale=1.0),
    ],
    ids=lambda asked: (
        f"{asked.controlnet.name}-{asked.controlnet.scale}-{asked.scheduler}-"
        f"{asked.width}-{asked.guidance_scale}"
    ),
)
def test_a_picture_with_a_controlnet_matches_diffusers(
    request: pytest.FixtureRequest, family: str, asked: GenerationRequest
) -> None:
    pipeline = request.getfixturevalue(family)

    (picture,) = make(pipeline, asked)

    assert picture.size == (asked.width, asked.height)
    assert largest_difference(picture, diffusers_call(pipeline, asked)) <= TOLERANCE


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_the_network_its_image_and_its_scale_change_the_picture(
    request: pytest.FixtureRequest, family: str
) -> None:
    pipeline = request.getfixturevalue(family)
    one, *others = make(
        pipeline,
        steered("canny"),
        PLAIN,
        steered("depth"),
        steered("bgr"),
        steered("canny", 0.5),
        steered("canny", image=1),
        steered("pooled"),
    )
    for other in others:
        assert largest_difference(one, other) > APART


@pytest.mark.parametrize("family", ["demo", "sdxl"])
def test_a_batch_with_and_without_controlnets_changes_no_picture(
    request: pytest.FixtureRequest, family: str
) -> None:
    pipeline = request.getfixturevalue(family)
    batch = [
        steered("canny", 0.5),
        PLAIN,
        steered("depth", 1.0, image=1, seed=4, num_inference_steps=4, negative_prompt="a star"),
        steered("canny", 1.0, image=2, seed=5, guidance_scale=1.0),
        replace(PLAIN, seed=6, width=128, scheduler="euler_a"),
        steered("depth", 0.8, seed=7, num_inference_steps=9, scheduler="pndm"),
        steered("canny", 1.0, image=3, seed=8, width=128),
        steered("pooled", 1.0, seed=9),
    ]

    together = make(pipeline, *batch)

    for asked, picture in zip(batch, together, strict=True):
        assert largest_difference(picture, diffusers_call(pipeline, asked)) <= TOLERANCE
    (again,) = make(pipeline, batch[3])
    assert largest_difference(again, together[3]) <= TOLERANCE


def test_lanes_of_different_scales_share_a_pass_and_those_of_two_networks_do_not(
    demo: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = denoiser_for(demo)
    passes: list[list[str]] = []
    predict = denoiser.predict

    def spied(lanes: list[Lane]) -> torch.Tensor:
        passes.append([lane.denoising.kind.controlnet for lane in lanes])  # type: ignore[attr-defined]
        return predict(lanes)

    monkeypatch.setattr(denoiser, "predict", spied)
    requests = [steered("canny", 0.5), steered("canny", 1.0, image=1), steered("depth"), PLAIN]

    async def story() -> None:
        engine = StepEngine(denoiser, Capacity(32, 16 * 16, 1.0), max_queue_length=8)
        try:
            await asyncio.gather(*(engine.submit(one) for one in requests))
        finally:
            engine.close()

    asyncio.run(story())

    assert all(len(set(names)) == 1 for names in passes)
    assert ["canny"] * 4 in passes


def test_the_control_image_is_embedded_once_for_all_steps(
    demo: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    controlnet = demo.controlnets["canny"]
    embed: Callable[[torch.Tensor], torch.Tensor] = controlnet._embedding
    seen: list[torch.Size] = []
    monkeypatch.setattr(
        controlnet, "_embedding", lambda pixels: (seen.append(pixels.shape), embed(pixels))[1]
    )

    make(demo, steered("canny", num_inference_steps=5))

    assert seen == [(1, 3, 64, 64)]


def test_a_controlnet_does_not_see_the_mask_channels(demo: DiffusersPipeline) -> None:
    denoiser = denoiser_for(demo)
    with torch.inference_mode():
        denoising = denoiser.begin(steered("canny"))
        (conditioning,) = denoiser.encode(["a star"])
        lanes = [Lane(denoising, denoising.model_input(), conditioning)]
        latents = denoising.model_input()
        conditions = {"encoder_hidden_states": conditioning[0][None]}
        run = demo.controlnets["canny"].residuals
        wide = torch.cat([latents, torch.ones(1, 5, *latents.shape[2:])], dim=1)
        step = torch.tensor([7.0])
        few, many = (run(lanes, one, step, conditions) for one in (latents, wide))
    middle = "mid_block_additional_residual"
    assert torch.equal(few[middle], many[middle])


def test_a_model_without_controlnets_is_not_touched(demo: DiffusersPipeline) -> None:
    bare = DiffusersPipeline(copy.copy(demo.diffusers), demo.profile)

    (picture,) = make(bare, PLAIN)

    assert largest_difference(picture, diffusers_call(bare, PLAIN)) <= TOLERANCE
