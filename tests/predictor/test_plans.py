"""Plans reproduce diffusers' schedulers, and a turn advances each picture as if it were alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from torch.overrides import TorchFunctionMode

from predictor.engine.denoising import Denoising, Inpainting, SchedulerSteps, accepted_arguments
from predictor.engine.inbox import Ticket
from predictor.engine.job import Job
from predictor.engine.plan import ROWS, Plan
from predictor.engine.turn import Turn
from predictor.metrics import PLAN_FALLBACKS
from predictor.pipelines import plans
from predictor.pipelines.plans import NotLinearError, Plans, Run, make_plan
from predictor.pipelines.schedulers import make_scheduler, scheduler_names
from predictor.requests import GenerationRequest

SHAPE = (1, 4, 8, 8)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OWN = {
    kind: PNDMScheduler(**LATENT, skip_prk_steps=True, steps_offset=1, prediction_type=kind)
    for kind in ("epsilon", "v_prediction")
}
# Schedulers that published checkpoints carry, which requests get as "default".
CARRIED: dict[str, Callable[[], Any]] = {
    "trailing Euler, zero SNR": lambda: diffusers.EulerDiscreteScheduler(
        **LATENT,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    ),
    "trailing DDIM, zero SNR": lambda: DDIMScheduler(
        **LATENT,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
    ),
    "DEIS of order 3": lambda: diffusers.DEISMultistepScheduler(**LATENT, solver_order=3),
    "KDPM2": lambda: diffusers.KDPM2DiscreteScheduler(**LATENT),
    "KDPM2 ancestral": lambda: diffusers.KDPM2AncestralDiscreteScheduler(**LATENT),
    "TCD": lambda: diffusers.TCDScheduler(**LATENT),
    "EDM": diffusers.EDMEulerScheduler,
    "EDM DPM++": diffusers.EDMDPMSolverMultistepScheduler,
    "UniPC of order 3": lambda: diffusers.UniPCMultistepScheduler(**LATENT, solver_order=3),
    "DPM++ of order 3": lambda: diffusers.DPMSolverMultistepScheduler(**LATENT, solver_order=3),
    "flow matching": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
}


@pytest.fixture(autouse=True)
def lms_integrals_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An integral takes 1 ms; the plan, its check and diffusers need the same ones."""
    integrate, known = diffusers.LMSDiscreteScheduler.get_lms_coefficient, {}

    def once(scheduler: Any, *arguments: int) -> Any:
        key = (*scheduler.sigmas.tolist(), *arguments)
        if key not in known:
            known[key] = integrate(scheduler, *arguments)
        return known[key]

    monkeypatch.setattr(diffusers.LMSDiscreteScheduler, "get_lms_coefficient", once)


def scheduler_of(run: Run, own: Any) -> Any:
    scheduler: Any = make_scheduler(run.scheduler, own)
    run.set_timesteps(scheduler)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(run.first)
    return scheduler


def normal(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Float32Noise(TorchFunctionMode):
    """Draws float32 noise for a scheduler that computes in float64."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is not torch.randn:
            return func(*args, **given)
        return torch.randn(*args, **given | {"dtype": torch.float32}).double()


def latents_of_diffusers(scheduler: Any, first: int) -> torch.Tensor:
    """The latents after all steps, in float64; the prediction of step n comes from seed n.

    In float32, Euler with zero-SNR betas is 1e-4 from these, and a plan is not.
    """
    generator = torch.Generator().manual_seed(99)
    arguments = accepted_arguments(scheduler.step, eta=0.0, generator=generator)
    latents = normal(1000).double() * getattr(scheduler, "init_noise_sigma", 1.0)
    for number, timestep in enumerate(scheduler.timesteps[first:]):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(latents, timestep)
        prediction = normal(number).double()
        with Float32Noise():
            latents = scheduler.step(prediction, timestep, latents, **arguments, return_dict=False)[
                0
            ]
    return latents


def job_of(
    steps: Plan | SchedulerSteps,
    *,
    seed: int = 99,
    guidance_scale: float = 1.0,
    start: int = 1000,
    inpainting: Inpainting | None = None,
) -> Job:
    request = GenerationRequest("any", "", seed, 64, 64, 20, guidance_scale, "any")
    latents = normal(start) * steps.init_noise_sigma
    generator = torch.Generator().manual_seed(seed)
    denoising = Denoising(steps, latents, generator, inpainting=inpainting)
    ticket = Ticket(request, None)
    lane = (torch.zeros(1),)
    return Job(ticket, denoising, {(): [lane] * ticket.lanes}, (), 0)


def latents_of_a_plan(plan: Plan) -> torch.Tensor:
    job = job_of(plan)
    for number in range(len(plan.draws)):
        turn = Turn([job])
        turn.lanes()
        turn.advance(normal(number))
    return job.denoising.latents


def assert_equal_to_diffusers(run: Run, own: Any) -> None:
    plan = make_plan(lambda: scheduler_of(run, own), run.first)
    expected = latents_of_diffusers(scheduler_of(run, own), run.first)
    difference = (latents_of_a_plan(plan) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5, run


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("scheduler", scheduler_names(OWN["epsilon"]))
def test_a_plan_takes_the_steps_of_its_scheduler(scheduler: str, kind: str) -> None:
    for steps in (1, 2, 5, 20, 50):
        for skipped in (0, 7):
            order = make_scheduler(scheduler, OWN[kind]).order  # type: ignore[attr-defined]
            if skipped < steps:
                assert_equal_to_diffusers(Run(scheduler, steps, skipped * order), OWN[kind])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of NumPy
@pytest.mark.parametrize("carried", CARRIED)
def test_a_plan_takes_the_steps_of_a_scheduler_that_checkpoints_carry(carried: str) -> None:
    own = CARRIED[carried]()
    for steps in (1, 2, 5, 20, 50):
        for first in (0, 7):
            if first < steps:
                assert_equal_to_diffusers(Run("default", steps, first * own.order), own)


@pytest.mark.parametrize("scheduler", ["euler", "heun", "unipc", "dpmpp_2m", "default"])
@pytest.mark.parametrize("mu", [None, 0.8])
def test_a_plan_takes_the_steps_of_a_flow_matching_scheduler(
    scheduler: str, mu: float | None
) -> None:
    """Those of SD3, and of FLUX, which passes noise levels and a shift for the picture's size."""
    own = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=mu is not None)
    if scheduler not in scheduler_names(own):
        pytest.skip("excluded")
    order = make_scheduler(scheduler, own).order  # type: ignore[attr-defined]
    for steps, skipped in itertools.product((1, 2, 5, 20, 50), (0, 7)):
        if skipped < steps:
            run = Run(scheduler, steps, skipped * order, mu)
            assert_equal_to_diffusers(run, own)
            if scheduler in ("euler", "unipc", "default"):
                assert_equal_to_diffusers(run._replace(is_linear=True), own)


@pytest.mark.parametrize("scheduler", ["euler", "heun", "unipc", "dpmpp_2m"])
def test_a_flow_matching_plan_starts_between_the_picture_and_the_noise(scheduler: str) -> None:
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    run = Run(scheduler, 10, 4)
    plan = Plans(own).steps(run)
    assert isinstance(plan, Plan)
    made = scheduler_of(run, own)

    for number in range(2):
        sigma = float(made.sigmas[4 + number])
        assert plan.levels[number] == pytest.approx((1 - sigma, sigma), abs=1e-5)
    assert 0.3 < plan.levels[0][1] < 0.95


def test_a_shift_for_the_size_changes_a_plan() -> None:
    made = Plans(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    small, large = (made.steps(Run("euler", 4, mu=mu)).timesteps for mu in (0.5, 1.15))

    assert large[1] > small[1] + 50


def test_a_scheduler_that_is_not_linear_steps_on_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = DDIMScheduler(**LATENT, clip_sample=True)
    run = Run("default", 5)
    counted = PLAN_FALLBACKS.labels("default")._value.get

    before = counted()
    with pytest.raises(NotLinearError):
        make_plan(lambda: scheduler_of(run, own), 0)
    steps = Plans(own).steps(run)

    assert isinstance(steps, SchedulerSteps)
    assert "the scheduler default steps each picture on its own" in caplog.text
    assert counted() == before + 1
    assert isinstance(Plans(OWN["epsilon"]).steps(Run("euler", 5)), Plan)
    assert counted() == before + 1
    job = job_of(steps)
    for number in range(5):
        turn = Turn([job])
        turn.lanes()
        turn.advance(normal(number))
    expected = latents_of_diffusers(scheduler_of(run, own), 0)
    assert torch.allclose(job.denoising.latents.double(), expected, atol=1e-5)


def test_a_plan_is_made_once_for_all_requests() -> None:
    made = Plans(OWN["epsilon"])

    with patch.object(plans, "make_plan", wraps=make_plan) as making:
        first, second = (made.steps(Run("euler", 5)) for _ in range(2))
        made.steps(Run("euler", 6))

    assert first is second
    assert making.call_count == 2


def test_noise_levels_are_those_of_diffusers() -> None:
    """Image to image starts at a level, and inpainting restores each one."""
    run = Run("dpmpp_2m", 10, 4)
    plan = Plans(OWN["epsilon"]).steps(run)
    assert isinstance(plan, Plan)
    scheduler = scheduler_of(run, OWN["epsilon"])
    clean, noise = normal(1), normal(2)

    expected = scheduler.add_noise(clean, noise, scheduler.timesteps[4:5])

    assert torch.allclose(plan.add_noise(clean, noise), expected, atol=1e-6)


def test_pictures_with_guidance_and_without_share_a_turn() -> None:
    plan = Plans(OWN["epsilon"]).steps(Run("unipc", 4))
    jobs = [job_of(plan, guidance_scale=scale, start=7) for scale in (3.0, 1.0)]
    alone = [job_of(plan, guidance_scale=scale, start=7) for scale in (3.0, 1.0)]
    predictions = torch.randn(3, *SHAPE[1:], generator=torch.Generator().manual_seed(5))

    Turn(jobs).advance(predictions)
    Turn(alone[:1]).advance(predictions[:2])
    Turn(alone[1:]).advance(predictions[2:])

    for job, expected in zip(jobs, alone, strict=True):
        assert job.denoising.state.shape[0] == ROWS
        assert torch.allclose(job.denoising.state, expected.denoising.state, atol=1e-6)


def test_pictures_with_and_without_a_mask_share_a_turn() -> None:
    """Also in another order: those with a mask come first in a turn."""
    plan = Plans(OWN["epsilon"]).steps(Run("euler", 4))
    kept = Inpainting(torch.cat([normal(1), normal(2)]), torch.zeros(1, 1, 8, 8))
    repainted = kept._replace(mask=torch.ones(1, 1, 8, 8))
    masks = [None, kept, None, repainted]
    jobs, alone = (
        [
            job_of(plan, guidance_scale=3.0, start=number, inpainting=one)
            for number, one in enumerate(masks)
        ]
        for _ in range(2)
    )
    predictions = [normal(10 + number).expand(2, -1, -1, -1) for number in range(4)]

    turn = Turn(jobs)
    order = [jobs.index(job) for job in turn._planned]
    turn.advance(torch.cat([predictions[index] for index in order]))
    for job, prediction in zip(alone, predictions, strict=True):
        Turn([job]).advance(prediction)

    assert order == [1, 3, 0, 2]
    for job, expected in zip(jobs, alone, strict=True):
        assert torch.allclose(job.denoising.state, expected.denoising.state, atol=1e-6)
    signal, noise = plan.levels[1]
    levelled = signal * normal(1) + noise * normal(2)
    assert torch.allclose(jobs[1].denoising.latents, levelled, atol=1e-5)
    assert not torch.allclose(jobs[3].denoising.latents, levelled, atol=1e-2)


def test_noise_drawn_ahead_keeps_the_order_of_the_generator() -> None:
    """A step that is repeated, because its batch did not fit, must get the same noise."""
    plan = Plans(OWN["epsilon"]).steps(Run("euler_a", 3))
    job = job_of(plan)
    expected = torch.Generator().manual_seed(99)

    for _ in range(3):
        wanted = torch.randn(SHAPE, generator=expected).flatten()
        job.denoising.draw_ahead()
        repeated = [job.denoising.next_noise() for _ in range(2)]
        assert all(torch.equal(torch.from_numpy(one), wanted) for one in repeated)
        job.move_to(job.denoising.state)
    assert job.denoising.next_noise() is None
