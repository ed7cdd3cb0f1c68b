"""The clean sample that a step predicts equals the one that diffusers' scheduler computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from predictor.engine.clean_sample import clean_weights
from predictor.engine.denoising import Denoising, Inpainting, SchedulerSteps, accepted_arguments
from predictor.engine.inbox import Ticket
from predictor.engine.interfaces import Previews
from predictor.engine.job import Job
from predictor.engine.plan import Plan
from predictor.engine.turn import Turn
from predictor.pipelines.plans import Run, make_plan
from predictor.pipelines.schedulers import make_scheduler, scheduler_names
from predictor.requests import GenerationRequest

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHAPE = (1, 4, 8, 8)
STEPS = 6
KINDS = ("epsilon", "v_prediction")
NAMES = [name for name in scheduler_names(DDIMScheduler(**BETAS)) if name != "default"]
FLOW = FlowMatchEulerDiscreteScheduler(shift=3.0)
CARRIED: dict[str, Callable[[], Any]] = {
    "sample": lambda: DDIMScheduler(**BETAS, prediction_type="sample", clip_sample=False),
    "zero SNR": lambda: DDIMScheduler(
        **BETAS,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    ),
    "EDM": diffusers.EDMEulerScheduler,
    "EDM DPM++": diffusers.EDMDPMSolverMultistepScheduler,
    "TCD": lambda: diffusers.TCDScheduler(**BETAS),
}


def normal(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def prepared(scheduler: Any) -> Any:
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def clean_of_diffusers(scheduler: Any, prediction: torch.Tensor, timestep: Any, sample: Any) -> Any:
    """What the scheduler computes on its way to the next sample; it may change the scheduler."""
    if hasattr(scheduler, "convert_model_output"):
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        return scheduler.convert_model_output(prediction, sample=sample)
    output = scheduler.step(prediction, timestep, sample)
    if "pred_original_sample" in output:
        return output.pred_original_sample
    # Heun and PNDM do not return it, and none of them changes the scale of latents.
    alpha = scheduler.alphas_cumprod[int(timestep)].double()
    if hasattr(scheduler, "sigmas"):
        sigma = ((1 - alpha) / alpha) ** 0.5
        sample = sample / (1 + sigma**2) ** 0.5
    if scheduler.config.prediction_type == "epsilon":
        return (sample - (1 - alpha) ** 0.5 * prediction) / alpha**0.5
    return alpha**0.5 * sample - (1 - alpha) ** 0.5 * prediction


def assert_equal_to_diffusers(make: Callable[[], Any]) -> None:
    plan = make_plan(lambda: prepared(make()), 0)
    scheduler = prepared(make())
    arguments = accepted_arguments(
        scheduler.step, eta=0.0, generator=torch.Generator().manual_seed(0)
    )
    sample = normal(100) * plan.init_noise_sigma
    for step, timestep in enumerate(plan.timesteps):
        prediction = normal(step)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        expected = clean_of_diffusers(copy.deepcopy(scheduler), prediction, timestep, sample)
        found = plan.clean_weights(step).clean(sample, prediction)
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, (step, float(error))
        sample = scheduler.step(prediction, timestep, sample, **arguments, return_dict=False)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_and_type_of_prediction(name: str, kind: str) -> None:
    own = DDIMScheduler(**BETAS, prediction_type=kind)
    assert_equal_to_diffusers(lambda: make_scheduler(name, own))


@pytest.mark.parametrize("carried", CARRIED)
def test_schedulers_of_published_checkpoints(carried: str) -> None:
    assert_equal_to_diffusers(lambda: make_scheduler("default", CARRIED[carried]()))


@pytest.mark.parametrize("name", ["unipc", "dpmpp_2m"])
def test_solvers_with_flow_matching(name: str) -> None:
    assert_equal_to_diffusers(lambda: make_scheduler(name, FLOW))


def test_a_level_without_a_signal_predicts_nothing() -> None:
    scheduler = DDIMScheduler(**BETAS)

    assert math.isnan(clean_weights(scheduler, (0.0, 1.0)).sample)


def job_of(steps: Plan | SchedulerSteps, seed: int, **fields: Any) -> Job:
    """A job whose last step is to be previewed, which no request can ask for."""
    request = GenerationRequest("any", "", seed, 64, 64, STEPS, 1.0, "any")
    request = replace(request, **{k: v for k, v in fields.items() if k != "inpainting"})
    latents = normal(seed).float() * steps.init_noise_sigma
    generator = torch.Generator().manual_seed(seed)
    denoising = Denoising(steps, latents, generator, inpainting=fields.get("inpainting"))
    ticket = Ticket(request, None, Previews(1, lambda preview: None))
    job = Job(ticket, denoising, {(): [(torch.zeros(1),)] * ticket.lanes}, (), 0)
    job._preview_steps = (denoising.total_steps,)
    return job


def test_the_last_step_of_each_picture_in_a_turn_ends_at_its_clean_sample() -> None:
    """Euler and flow matching end at zero noise, whatever the guidance and the engine's way."""
    own, flow = EulerDiscreteScheduler(**BETAS), FlowMatchEulerDiscreteScheduler()
    euler, flowing = (
        make_plan(lambda: prepared(type(one).from_config(one.config)), 0)  # noqa: B023
        for one in (own, flow)
    )
    scheduler = prepared(EulerDiscreteScheduler(**BETAS))
    alone = SchedulerSteps(scheduler, scheduler.timesteps)
    originals = torch.cat([normal(50), normal(51)]).float()
    mask = torch.ones(1, 1, 8, 8)
    jobs = [
        job_of(euler, 0),
        job_of(euler, 1, guidance_scale=4.0),
        job_of(alone, 2, guidance_scale=3.0, guidance_rescale=0.7),
        job_of(euler, 3, guidance_scale=5.0, guidance_rescale=0.5),
        job_of(flowing, 4, guidance_scale=2.0),
        job_of(euler, 5, inpainting=Inpainting(originals, mask)),
    ]
    lanes = sum(job.lanes for job in jobs)
    for step in range(STEPS):
        assert all(job.predicted is None for job in jobs)
        predictions = torch.cat([normal(1000 * step + lane).float() for lane in range(lanes)])
        turn = Turn(jobs)
        turn.lanes()
        turn.advance(predictions)

    assert not any(job.ticket.is_over for job in jobs)
    for job in jobs:
        assert job.predicted is not None
        assert (job.predicted.index, job.predicted.step) == (0, STEPS)
        difference = (job.predicted.latents - job.denoising.latents).abs().max()
        assert difference < 1e-4, (job.ticket.request.seed, float(difference))


def test_a_scheduler_that_steps_alone_predicts_as_its_plan() -> None:
    run = Run("dpmpp_2m_karras", STEPS)
    own = DDIMScheduler(**BETAS)
    plan = make_plan(lambda: prepared(make_scheduler(run.scheduler, own)), 0)
    scheduler = prepared(make_scheduler(run.scheduler, own))
    alone = SchedulerSteps(scheduler, scheduler.timesteps)

    sample = normal(0)
    for step in range(STEPS):
        alone.scaled(sample, step)
        assert alone.clean_weights(step) == pytest.approx(plan.clean[step], rel=1e-5)
        sample = alone.stepped(sample, normal(step), step, torch.Generator())
