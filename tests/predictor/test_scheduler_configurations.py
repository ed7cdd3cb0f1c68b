"""Every scheduler with the configurations of published checkpoints: finite latents, or 400."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)

from demo.shapes import Placement, Scene, draw, mask
from predictor.errors import InvalidRequestError
from predictor.loading.profile import read_profile
from predictor.pipelines.schedulers import OWN, make_scheduler, scheduler_names
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest, InputImage, Limits
from predictor.settings import Settings
from tests.predictor.checkpoints import unpublished
from tests.predictor.drawing import make, own_call
from tests.predictor.pictures import largest_difference
from tests.predictor.random_families import build_sd2

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
ZERO_SNR = SD | {
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
OWNS: dict[str, Callable[[], Any]] = {
    "sd1": partial(PNDMScheduler, **SD, skip_prk_steps=True, set_alpha_to_one=False),
    "sdxl": partial(EulerDiscreteScheduler, **SD, timestep_spacing="leading"),
    "turbo": partial(EulerAncestralDiscreteScheduler, **SD, timestep_spacing="trailing"),
    "zero snr, euler": partial(EulerDiscreteScheduler, **ZERO_SNR),
    "zero snr, ddim": partial(DDIMScheduler, **ZERO_SNR, clip_sample=False),
    "zero snr, unipc": partial(UniPCMultistepScheduler, **ZERO_SNR, use_beta_sigmas=True),
    "karras": partial(DPMSolverMultistepScheduler, **SD, use_karras_sigmas=True),
    "beta": partial(DPMSolverMultistepScheduler, **SD, use_beta_sigmas=True),
    "lu": partial(DPMSolverMultistepScheduler, **SD, use_lu_lambdas=True),
    "exponential": partial(DEISMultistepScheduler, **SD, use_exponential_sigmas=True),
    "beta, heun": partial(HeunDiscreteScheduler, **SD, use_beta_sigmas=True),
    "kdpm2": partial(KDPM2DiscreteScheduler, **SD),
    "lms": partial(LMSDiscreteScheduler, **SD),
    "lcm": partial(LCMScheduler, **SD),
    "tcd": partial(TCDScheduler, **SD),
    "edm": EDMEulerScheduler,
    "edm, dpm": EDMDPMSolverMultistepScheduler,
    "sd3": partial(FlowMatchEulerDiscreteScheduler, shift=3.0),
    "sd3, beta": partial(FlowMatchEulerDiscreteScheduler, shift=3.0, use_beta_sigmas=True),
    "sd3, exponential": partial(
        FlowMatchEulerDiscreteScheduler, shift=3.0, use_exponential_sigmas=True
    ),
    "sd3, karras": partial(FlowMatchEulerDiscreteScheduler, shift=3.0, use_karras_sigmas=True),
    "sana": partial(
        DPMSolverMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True
    ),
}
SIDE = 64
PICTURE = InputImage.of(draw(Scene("red", "circle", "blue"), Placement()))
MASK = InputImage.of(mask("square", Placement()))
# With 40 steps, the first two timesteps of the first two are equal.
REQUEST = GenerationRequest("a red circle", "", 3, SIDE, SIDE, 40, 2.0, "dpmpp_2m_karras")
TASKS = [
    REQUEST,
    replace(REQUEST, image=PICTURE, strength=1.0),
    replace(REQUEST, image=PICTURE, strength=0.6),
    replace(REQUEST, image=PICTURE, mask_image=MASK, strength=1.0),
    replace(REQUEST, image=PICTURE, mask_image=MASK, strength=0.6),
]


def denoised(scheduler: Any, steps: int) -> torch.Tensor:
    """Take all steps with a made-up denoiser."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    # Flow matching scales nothing.
    latents = torch.randn(1, 4, 2, 2, generator=generator)
    latents *= getattr(scheduler, "init_noise_sigma", 1.0)
    scale = getattr(scheduler, "scale_model_input", lambda latents, timestep: latents)
    drawn = {"generator": generator} if accepts_generator(scheduler) else {}
    for timestep in scheduler.timesteps:
        prediction = 0.5 * torch.tanh(scale(latents, timestep))
        latents = scheduler.step(prediction, timestep, latents, **drawn, return_dict=False)[0]
    return latents


def accepts_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters


def all_schedulers() -> Iterator[tuple[str, str, Any]]:
    """Yield each different scheduler once, with its checkpoint and its name."""
    seen = set()
    for checkpoint, build in OWNS.items():
        own = build()
        for name in scheduler_names(own):
            made = make_scheduler(name, own)
            known = inspect.signature(type(made).__init__).parameters
            key = (type(made), str([made.config[one] for one in known if one in made.config]))
            if key not in seen:
                yield checkpoint, name, made
            seen.add(key)


# diffusers' own, in KDPM2DiscreteScheduler.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_every_scheduler_works_with_every_configuration() -> None:
    for checkpoint, name, scheduler in all_schedulers():
        for steps in (1, 2, 40):
            assert denoised(scheduler, steps).isfinite().all(), (checkpoint, name, steps)


@pytest.mark.parametrize("own", [LCMScheduler(**SD), TCDScheduler(**SD)], ids=["lcm", "tcd"])
def test_more_steps_than_a_distilled_scheduler_has_are_refused(own: Any, tmp_path: Path) -> None:
    pipeline = build_sd2()
    pipeline.scheduler = own
    profile = read_profile(pipeline, unpublished(tmp_path), has_refiner=False)
    asked = replace(profile.default_request("a star"), scheduler=OWN, num_inference_steps=50)
    limits = Limits(Settings(), profile)

    limits.check(asked)
    with pytest.raises(InvalidRequestError, match="51 exceeds the 50 of the scheduler"):
        limits.check(replace(asked, num_inference_steps=51))


# Their first two timesteps are equal for most numbers of steps.
EQUAL_FIRST = [("zero snr, euler", "dpmpp_2m_karras"), ("beta", OWN), ("beta", "unipc")]


@pytest.mark.parametrize(("checkpoint", "scheduler"), EQUAL_FIRST)
def test_any_number_of_steps_begins_at_the_first_sigma(checkpoint: str, scheduler: str) -> None:
    """One that begins at the second passes the last, which raises after all other steps.

    Taking all steps of all numbers takes too long, so only every 25th number takes them.
    """
    own, sample = OWNS[checkpoint](), torch.zeros(1, 4, 2, 2)
    are_equal = 0
    for steps in range(1, 151):
        made: Any = make_scheduler(scheduler, own)
        made.set_timesteps(steps)
        assert len(made.sigmas) == len(made.timesteps) + 1
        are_equal += bool(steps > 1 and made.timesteps[0] == made.timesteps[1])
        made.step(sample, made.timesteps[0], sample)
        assert made.step_index == 1, steps
        if steps % 25 == 0:
            assert denoised(made, steps).isfinite().all(), steps
    assert are_equal > 100


@pytest.mark.parametrize(("checkpoint", "scheduler"), EQUAL_FIRST)
def test_equal_first_timesteps_skip_no_step(
    tmp_path: Path, checkpoint: str, scheduler: str
) -> None:
    """In the step loop and in whole calls, from noise and from a picture."""
    pipeline = build_sd2()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = OWNS[checkpoint]()
    profile = read_profile(pipeline, unpublished(tmp_path), has_refiner=False)
    loaded = DiffusersPipeline(pipeline, profile)
    made = make_scheduler(scheduler, pipeline.scheduler)
    made.set_timesteps(REQUEST.num_inference_steps)
    assert made.timesteps[0] == made.timesteps[1]
    asked = [replace(one, scheduler=scheduler) for one in TASKS]

    for one, picture in zip(asked, make(loaded, *asked), strict=True):
        assert largest_difference(picture, own_call(loaded, one)) <= 2, one


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "dpmpp_2m_karras", "dpmpp_sde"])
def test_a_solver_with_its_own_spacing_clears_the_checkpoints(scheduler: str) -> None:
    flags = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"]
    for flag in flags:
        made = make_scheduler(scheduler, DPMSolverMultistepScheduler(**SD, **{flag: True}))

        made.set_timesteps(10)
        plain = make_scheduler(scheduler, DPMSolverMultistepScheduler(**SD))
        plain.set_timesteps(10)
        assert torch.equal(made.sigmas, plain.sigmas), flag
