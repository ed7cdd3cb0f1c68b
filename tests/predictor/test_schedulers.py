"""The schedulers by name: their configuration, their results and their noise."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusion3Img2ImgPipeline,
)
from PIL import Image

from predictor.pipelines import schedulers
from predictor.pipelines.schedulers import OWN, make_scheduler, most_steps, scheduler_names
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, GenerationRequest, ModelProfile
from tests.predictor.drawing import make, own_call
from tests.predictor.pictures import largest_difference
from tests.predictor.random_families import build_sd2
from tests.predictor.random_pipelines import build_flux, build_sd3

NAMES = scheduler_names(EulerDiscreteScheduler())
REQUEST = GenerationRequest("a red circle", "", 3, 64, 64, 6, 2.0, "unipc")
DEFAULTS = GenerationDefaults(64, 64, 3, 2.0, OWN)
SDE = ["dpmpp_2m_sde", "dpmpp_2m_sde_karras", "euler_a", "ddpm", "lcm"]
# Checkpoints' own schedulers; each named scheduler must work with their configuration.
OWNS = [
    PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
    EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
    DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    DPMSolverMultistepScheduler(use_exponential_sigmas=True),
]


@pytest.fixture(scope="module")
def sd2() -> DiffusersPipeline:
    return wrapped(build_sd2())


def wrapped(pipeline: Any) -> DiffusersPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPipeline(pipeline, ModelProfile("r1", DEFAULTS, 8, NAMES))


def with_scheduler(loaded: DiffusersPipeline, own: Any) -> DiffusersPipeline:
    pipeline = copy.copy(loaded.diffusers)
    pipeline.scheduler = own
    return DiffusersPipeline(pipeline, loaded.profile)


@pytest.mark.parametrize("own", OWNS, ids=lambda own: type(own).__name__)
def test_every_scheduler_works_with_every_checkpoints_configuration(
    sd2: DiffusersPipeline, own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In one step loop with all the others, in few steps, and without log messages."""
    loaded = with_scheduler(sd2, own)
    requests = [
        replace(REQUEST, scheduler=name, num_inference_steps=1 + index % 3)
        for index, name in enumerate(NAMES)
    ]

    pictures = make(loaded, *requests)

    assert [record for record in caplog.records if record.name.startswith("diffusers")] == []
    for request, picture in zip(requests, pictures, strict=True):
        assert largest_difference(picture, own_call(loaded, request)) <= 2, request


@pytest.mark.parametrize("scheduler", SDE)
def test_the_noise_of_the_steps_comes_from_the_seed(sd2: DiffusersPipeline, scheduler: str) -> None:
    asked = replace(REQUEST, scheduler=scheduler)
    others = [replace(asked, seed=seed) for seed in (4, 5)]

    first, *_ = make(sd2, asked, *others)
    _, again, other = make(sd2, others[0], asked, others[1])

    assert largest_difference(first, again) <= 2
    assert largest_difference(first, other) > 2


def test_a_name_means_the_same_spacing_for_every_checkpoint() -> None:
    karras = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    beta = DPMSolverMultistepScheduler(use_beta_sigmas=True)

    assert not make_scheduler("dpmpp_2m", karras).config.use_karras_sigmas
    assert make_scheduler("dpmpp_2m_karras", beta).config.use_karras_sigmas
    assert make_scheduler("dpmpp_2m_sde", karras).config.algorithm_type == "sde-dpmsolver++"
    assert type(make_scheduler("dpmpp_sde", karras)).__name__ == "DPMSolverSinglestepScheduler"
    assert make_scheduler(OWN, karras).config.use_karras_sigmas


def test_an_unsupported_equation_has_only_its_own_scheduler() -> None:
    flow_solver = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )

    assert scheduler_names(EDMEulerScheduler()) == (OWN,)
    assert scheduler_names(flow_solver) == (OWN,)


def test_lcm_has_no_more_steps_than_its_teacher() -> None:
    assert most_steps(LCMScheduler(original_inference_steps=40)) == {"lcm": 50, OWN: 40}
    assert most_steps(EulerDiscreteScheduler()) == {"lcm": 50}
    few = most_steps(EulerDiscreteScheduler(num_train_timesteps=100))
    assert few["ddim"] == 100


def test_only_schedulers_that_may_refuse_steps_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of 1,000 steps with Karras sigmas takes 0.1 s, at each load of a model."""
    tried: list[str] = []
    takes = schedulers._takes

    def noting(scheduler: Any, steps: int) -> bool:
        tried.append(type(scheduler).__name__)
        return takes(scheduler, steps)

    monkeypatch.setattr(schedulers, "_takes", noting)
    most_steps(DPMSolverMultistepScheduler(use_karras_sigmas=True))
    assert set(tried) == {"LCMScheduler"}

    tried.clear()
    most_steps(EDMEulerScheduler())
    assert set(tried) == {"EDMEulerScheduler"}


@pytest.fixture(scope="module", params=["sd3", "sd3 shifting", "flux", "flux shifting"])
def flow(request: pytest.FixtureRequest) -> tuple[DiffusersPipeline, tuple[str, ...]]:
    is_flux = request.param.startswith("flux")
    pipeline: DiffusionPipeline = build_flux() if is_flux else build_sd3()
    own = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=request.param.endswith("shifting")
    )
    loaded = with_scheduler(wrapped(pipeline), own)
    return loaded, scheduler_names(own, always_shifts=is_flux)


def test_all_flow_schedulers_give_the_same_picture(
    flow: tuple[DiffusersPipeline, tuple[str, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    """They solve the same equation: they agree with many steps and differ with few."""
    loaded, names = flow
    steps = {"euler": 100, "heun": 30, "unipc": 30, "dpmpp_2m": 30, OWN: 100}
    requests = [replace(REQUEST, scheduler=name, num_inference_steps=steps[name]) for name in names]

    exact, *others = [own_call(loaded, request) for request in requests]
    coarse = own_call(loaded, replace(requests[0], num_inference_steps=2))

    assert [record for record in caplog.records if record.name.startswith("diffusers")] == []
    assert max(largest_difference(exact, other) for other in others) <= 6
    assert largest_difference(exact, coarse) > 12


def test_the_excluded_flow_schedulers_do_not_run(
    flow: tuple[DiffusersPipeline, tuple[str, ...]],
) -> None:
    loaded, names = flow

    for name in {"heun", "dpmpp_2m"} - set(names):
        with pytest.raises((AssertionError, ValueError, TypeError)):
            own_call(loaded, replace(REQUEST, scheduler=name))


def test_a_flow_matching_picture_is_equal_alone_and_in_a_batch(
    flow: tuple[DiffusersPipeline, tuple[str, ...]],
) -> None:
    loaded, names = flow
    for scheduler in names:
        request = replace(REQUEST, scheduler=scheduler)
        other = replace(request, prompt="a star", seed=4)

        together = loaded.generate([other, request], lambda step, steps: None)

        assert largest_difference(together[1].image, own_call(loaded, request)) <= 2


@pytest.mark.parametrize("scheduler", ["euler", "heun", "unipc", "dpmpp_2m"])
def test_every_flow_scheduler_can_start_from_a_picture(scheduler: str) -> None:
    """All of them start on the straight line between the picture and the noise."""
    made = make_scheduler(scheduler, FlowMatchEulerDiscreteScheduler(shift=3.0))
    made.set_timesteps(20)
    begin = len(made.timesteps) // 2
    made.set_begin_index(begin)
    picture, noise = torch.full((1, 4, 8, 8), 0.5), torch.full((1, 4, 8, 8), -2.0)

    between = made.scale_noise(picture, made.timesteps[begin : begin + 1], noise)

    sigma = made.sigmas[begin]
    assert 0.2 < sigma < 0.9
    torch.testing.assert_close(between, (1 - sigma) * picture + sigma * noise)


@pytest.mark.parametrize("scheduler", ["euler", "heun", "unipc", "dpmpp_2m"])
def test_every_flow_scheduler_runs_from_image_to_image(scheduler: str) -> None:
    pipeline = StableDiffusion3Img2ImgPipeline(**build_sd3().components)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(scheduler, pipeline.scheduler)
    given = Image.new("RGB", (64, 64), "orange")

    made = pipeline("a star", image=given, width=64, height=64, num_inference_steps=6)

    assert made.images[0].size == (64, 64)
