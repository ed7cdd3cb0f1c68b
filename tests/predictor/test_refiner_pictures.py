"""Base and refiner in the step loop match diffusers' two pipelines run in sequence."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from predictor.engine.capacity import Capacity
from predictor.engine.denoising import Denoising, SchedulerSteps
from predictor.engine.interfaces import Lane
from predictor.engine.step_loop import StepEngine
from predictor.pipelines.refiner import KIND, Refiner
from predictor.pipelines.schedulers import make_scheduler
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from tests.predictor.drawing import make
from tests.predictor.pictures import largest_difference
from tests.predictor.random_pipelines import build_sdxl
from tests.predictor.random_refiner import build_refiner

SCHEDULERS = ["euler", "euler_a", "unipc", "dpmpp_2m", "dpmpp_2m_karras", "heun", "ddim", "pndm"]
REQUEST = GenerationRequest(
    "a red circle on a yellow background", "", 3, 64, 64, 8, 5.0, "euler", denoising_end=0.25
)
# Tolerance per channel, of 255, for a different order of summation.
TOLERANCE = 2


@pytest.fixture(scope="module")
def pair() -> DiffusersPipeline:
    base = build_sdxl()
    refiner = build_refiner(base)
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    defaults = GenerationDefaults(128, 128, 3, 5.0, "unipc", 0.8)
    profile = ModelProfile("r1", defaults, 8, tuple(SCHEDULERS), has_refiner=True)
    return DiffusersPipeline(base, profile, refiner=DiffusersPipeline(refiner, profile))


def in_turn(pair: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    """Run diffusers' two pipelines in sequence with one generator."""
    assert pair.refiner is not None
    arguments: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
    }
    base, refiner = (
        _view(pipeline, request.scheduler) for pipeline in (pair.diffusers, pair.refiner.diffusers)
    )
    with torch.inference_mode():
        latents = base(
            **arguments,
            width=request.width,
            height=request.height,
            denoising_end=request.denoising_end,
            output_type="latent",
        ).images
        picture: Image.Image = refiner(
            **arguments, image=latents, denoising_start=request.denoising_end
        ).images[0]
    return picture


def base_alone(pair: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    (result,) = pair.generate([request], lambda step, steps: None)
    return result.image


def _view(pipeline: DiffusionPipeline, scheduler: str) -> Any:
    view: Any = copy.copy(pipeline)
    view.scheduler = make_scheduler(scheduler, pipeline.scheduler)
    return view


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_matches_the_two_pipelines(pair: DiffusersPipeline, scheduler: str) -> None:
    asked = replace(REQUEST, scheduler=scheduler)

    (picture,) = make(pair, asked)

    assert largest_difference(picture, in_turn(pair, asked)) <= TOLERANCE
    assert largest_difference(picture, base_alone(pair, asked)) > 10 * TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": "a star"},
        {"guidance_scale": 1.0},
        {"width": 128, "guidance_scale": 7.5},
        {"denoising_end": 0.5, "num_inference_steps": 5},
        # One case without a step for the base, one without a step for the refiner.
        {"denoising_end": 0.0004},
        {"denoising_end": 0.9996},
    ],
    ids=str,
)
def test_every_parameter_means_what_it_means_to_diffusers(
    pair: DiffusersPipeline, changes: dict[str, object]
) -> None:
    asked = replace(REQUEST, **changes)  # type: ignore[arg-type]

    (picture,) = make(pair, asked)

    assert picture.size == (asked.width, asked.height)
    assert largest_difference(picture, in_turn(pair, asked)) <= TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {"denoising_end": 1.0},
        # No timestep is left; diffusers would run Heun's last one twice.
        {"denoising_end": 0.9996, "scheduler": "heun"},
    ],
    ids=str,
)
def test_denoising_end_1_uses_only_the_base(
    pair: DiffusersPipeline, changes: dict[str, object]
) -> None:
    asked = replace(REQUEST, **changes)  # type: ignore[arg-type]

    (picture,) = make(pair, asked)

    assert largest_difference(picture, base_alone(pair, asked)) <= TOLERANCE


def test_a_batch_with_and_without_refiner_does_not_change_a_picture(
    pair: DiffusersPipeline,
) -> None:
    batch = [
        replace(
            REQUEST,
            prompt=f"a {colour} star on a white background",
            negative_prompt="a circle" if index % 2 else "",
            seed=index,
            num_inference_steps=3 + index,
            guidance_scale=1.5 * index,
            scheduler=scheduler,
            width=128 if index == 5 else 64,
            denoising_end=1.0 if index % 3 == 0 else 0.15 * index,
        )
        for index, (colour, scheduler) in enumerate(
            zip(["red", "green", "blue", "white", "black", "yellow"], SCHEDULERS, strict=False)
        )
    ]

    together = make(pair, *batch)

    for one, picture in zip(batch, together, strict=True):
        recipe = base_alone if one.denoising_end == 1 else in_turn
        assert largest_difference(picture, recipe(pair, one)) <= TOLERANCE


@pytest.mark.parametrize(("skipped", "own"), [(0, 4), (2, 2), (6, 0)])
def test_image_to_image_that_starts_late_is_handed_over(
    pair: DiffusersPipeline, skipped: int, own: int
) -> None:
    """As in image to image, the refiner takes at most the remaining steps."""
    assert pair.refiner is not None
    asked = replace(REQUEST, denoising_end=0.5)
    scheduler = make_scheduler(asked.scheduler, pair.diffusers.scheduler)
    scheduler.set_timesteps(asked.num_inference_steps)
    steps = SchedulerSteps(scheduler, scheduler.timesteps[skipped:])
    late = Denoising(steps, torch.zeros(1, 4, 8, 8), torch.Generator())

    Refiner(pair.refiner, pair).join(late, asked)

    base, refining = late.experts
    assert base.steps == own
    taken = torch.cat([base.timesteps[:own], refining.timesteps])
    assert torch.equal(taken, scheduler.timesteps[skipped:])
    assert late.next_stage() is (base if own else refining)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_the_refiners_unet_gets_the_same_inputs_as_in_diffusers(
    pair: DiffusersPipeline, guidance_scale: float
) -> None:
    asked = replace(REQUEST, guidance_scale=guidance_scale, width=128, num_inference_steps=4)
    assert pair.refiner is not None
    seen: list[dict[str, Any]] = []
    hook = pair.refiner.diffusers.unet.register_forward_pre_hook(
        lambda unet, arguments, named: seen.append(named["added_cond_kwargs"]), with_kwargs=True
    )
    with hook:
        make(pair, asked)
        ours = seen[:]
        seen.clear()
        in_turn(pair, asked)

    assert len(ours) == len(seen) > 0
    for own, theirs in zip(ours, seen, strict=True):
        assert torch.equal(own["time_ids"], theirs["time_ids"])
        assert torch.allclose(own["text_embeds"], theirs["text_embeds"], atol=1e-5)


def test_the_refiner_batches_all_pictures_that_reached_it(
    pair: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = denoiser_for(pair)
    passes: list[tuple[bool, int, set[bool]]] = []
    predict = denoiser.predict

    def watched(lanes: Sequence[Lane]) -> torch.Tensor:
        kinds = {lane.denoising.kind == KIND for lane in lanes}
        assert len(kinds) == 1
        passes.append((kinds.pop(), len(lanes), {lane.is_negative for lane in lanes}))
        return predict(lanes)

    monkeypatch.setattr(denoiser, "predict", watched)
    reported: list[tuple[int, int]] = []

    async def story() -> None:
        engine = StepEngine(denoiser, Capacity(32, 16 * 16, 1.0), max_queue_length=64)
        try:
            await engine.submit(
                replace(REQUEST, num_inference_steps=10, denoising_end=0.6),
                lambda step, steps: reported.append((step, steps)),
            )
        finally:
            engine.close()

    asyncio.run(story())
    assert passes == [(False, 2, {True, False})] * 6 + [(True, 2, {True, False})] * 4
    assert reported == [(step, 10) for step in range(1, 11)]
