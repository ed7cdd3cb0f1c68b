"""SD3 and FLUX in the step loop draw what diffusers' own ``__call__`` draws."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
)
from PIL import Image

from demo.shapes import Placement, Scene, draw, mask
from predictor.engine.capacity import Capacity
from predictor.engine.interfaces import Lane
from predictor.engine.step_loop import StepEngine
from predictor.errors import InvalidRequestError
from predictor.loading.profile import read_profile
from predictor.pipelines import plans
from predictor.pipelines.plans import NotLinearError
from predictor.pipelines.schedulers import scheduler_names
from predictor.pipelines.stepwise import denoiser_for, supports
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import (
    GenerationDefaults,
    GenerationRequest,
    InputImage,
    Limits,
    ModelProfile,
)
from predictor.settings import Settings
from tests.predictor.checkpoints import unpublished
from tests.predictor.decoding import decode
from tests.predictor.drawing import engine_over, make, own_call, submit_all
from tests.predictor.pictures import largest_difference
from tests.predictor.random_families import build_flux_schnell
from tests.predictor.random_inpainting import build_sd3_of_16_channels
from tests.predictor.random_pipelines import build_flux
from tests.waiting import wait_until

TOLERANCE = 2
SHIFT = 0.5
REQUEST = GenerationRequest("a red circle on a yellow background", "", 3, 64, 64, 5, 3.0, "euler")
PICTURE = InputImage.of(
    draw(Scene("red", "circle", "blue"), Placement()).resize((64, 64), Image.Resampling.BOX)
)
MASK = InputImage.of(mask("square", Placement()).resize((64, 64), Image.Resampling.NEAREST))
IMAGE_TO_IMAGE = replace(REQUEST, image=PICTURE, strength=0.5)
INPAINTING = replace(REQUEST, image=PICTURE, mask_image=MASK, strength=1.0)
TASKS = [REQUEST, IMAGE_TO_IMAGE, INPAINTING]
FAMILIES: dict[str, tuple[Callable[[], DiffusionPipeline], bool]] = {
    "sd3": (build_sd3_of_16_channels, False),
    "sd3, shifting": (build_sd3_of_16_channels, True),
    "flux-dev": (build_flux, True),
    "flux-schnell": (build_flux_schnell, False),
}


def family_of(name: str, **spacing: bool) -> DiffusersPipeline:
    build, shifts = FAMILIES[name]
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=shifts, **spacing
    )
    # The VAEs of both families have one; it is larger here so that a picture shows it.
    pipeline.vae.register_to_config(shift_factor=SHIFT)
    schedulers = scheduler_names(pipeline.scheduler, always_shifts=name.startswith("flux"))
    profile = ModelProfile(
        "r1", GenerationDefaults(64, 64, 5, 3.0, "euler"), 8, schedulers, max_sequence_length=24
    )
    return DiffusersPipeline(pipeline, profile)


@pytest.fixture(scope="module", params=["sd3", "flux-dev", "flux-schnell"])
def family(request: pytest.FixtureRequest) -> DiffusersPipeline:
    return family_of(request.param)


@pytest.fixture(scope="module")
def flux() -> DiffusersPipeline:
    return family_of("flux-dev")


@contextmanager
def repaired(pipeline: Any, request: GenerationRequest) -> Iterator[None]:
    """Add what diffusers' inpainting of SD3 omits when it decodes: huggingface/diffusers#13611."""
    decode = pipeline.vae.decode
    if type(pipeline).__name__.startswith("StableDiffusion3") and request.mask_image:
        pipeline.vae.decode = lambda latents, **options: decode(latents + SHIFT, **options)
    try:
        yield
    finally:
        pipeline.vae.decode = decode


def diffusers_own(pipeline: DiffusersPipeline, request: GenerationRequest) -> Image.Image:
    with repaired(pipeline.diffusers, request):
        return own_call(pipeline, request)


def has_arrived(engine: StepEngine, pictures: int) -> bool:
    return engine.state.waiting + engine.state.in_flight >= pictures


def crowd_of(pipeline: DiffusersPipeline) -> list[GenerationRequest]:
    """Different tasks, steps, guidance, prompts, seeds, schedulers and sizes."""
    names = itertools.cycle(pipeline.profile.schedulers)
    # diffusers' FLUX cannot start this one from a picture.
    from_picture = itertools.cycle(
        [name for name in pipeline.profile.schedulers if name != "dpmpp_2m"]
    )
    return [
        replace(
            TASKS[index % 3],
            prompt=f"a {colour} star",
            negative_prompt="a circle" if index % 2 else "",
            seed=index,
            num_inference_steps=3 + index // 2,
            guidance_scale=0.6 * index,
            scheduler=next(from_picture if index % 3 else names),
        )
        for index, colour in enumerate(
            ["red", "green", "blue", "white", "black", "yellow", "purple", "orange"]
        )
    ] + [replace(REQUEST, width=128, seed=20)]


@pytest.mark.parametrize("wanted", TASKS, ids=lambda one: one.task)
def test_a_picture_alone_equals_diffusers(
    family: DiffusersPipeline, wanted: GenerationRequest
) -> None:
    (picture,) = make(family, wanted)

    assert largest_difference(picture, diffusers_own(family, wanted)) <= TOLERANCE


def test_a_mixed_crowd_shares_passes_and_each_picture_equals_diffusers(
    family: DiffusersPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd, timesteps = crowd_of(family), []
    with engine_over(family) as engine:
        predict = engine._denoiser.predict

        def watched(lanes: Sequence[Lane]) -> torch.Tensor:
            # The first pass waits until the whole crowd has arrived.
            wait_until(lambda: bool(timesteps) or has_arrived(engine, len(crowd)))
            timesteps.append({lane.denoising.timestep for lane in lanes})
            return predict(lanes)

        monkeypatch.setattr(engine._denoiser, "predict", watched)
        pictures = submit_all(engine, *crowd)

    assert max(map(len, timesteps)) >= 4
    assert len(timesteps) < sum(one.steps_taken for one in crowd)
    expected = [diffusers_own(family, one) for one in crowd]
    for one, picture, own in zip(crowd, pictures, expected, strict=True):
        assert largest_difference(picture, own) <= TOLERANCE, one
    # Each request must give a different picture, or the comparison means nothing.
    square = [one for one in expected if one.size == (64, 64)]
    for one, other in itertools.combinations(square, 2):
        assert largest_difference(one, other) > 2 * TOLERANCE


def test_a_shift_of_sd3_depends_on_the_size() -> None:
    shifting = family_of("sd3, shifting")
    requests = [replace(one, scheduler="unipc") for one in TASKS]
    requests.append(replace(REQUEST, width=256, height=128))

    for one, picture in zip(requests, make(shifting, *requests), strict=True):
        assert largest_difference(picture, diffusers_own(shifting, one)) <= TOLERANCE


@pytest.mark.parametrize("scheduler", ["euler", "heun", "unipc", "dpmpp_2m", "default"])
def test_every_flow_scheduler_equals_diffusers(family: DiffusersPipeline, scheduler: str) -> None:
    if scheduler not in family.profile.schedulers:
        pytest.skip("the model does not accept it")
    tasks = TASKS
    if scheduler == "dpmpp_2m" and "Flux" in type(family.diffusers).__name__:
        tasks = TASKS[:1]
    wanted = [
        replace(one, scheduler=scheduler, num_inference_steps=steps)
        for one, steps in zip(tasks, (4, 5, 3), strict=False)
    ]

    for one, picture in zip(wanted, make(family, *wanted), strict=True):
        assert largest_difference(picture, diffusers_own(family, one)) <= TOLERANCE, one


@pytest.mark.parametrize("spacing", ["use_beta_sigmas", "use_exponential_sigmas"])
@pytest.mark.parametrize("name", ["sd3", "flux-dev", "flux-schnell"])
def test_every_solver_equals_diffusers_if_the_checkpoint_has_its_own_spacing(
    name: str, spacing: str
) -> None:
    """A solver that kept this spacing would give NaN, which fails the request."""
    family = family_of(name, **{spacing: True})
    wanted = [replace(REQUEST, scheduler=one) for one in family.profile.schedulers]

    for one, picture in zip(wanted, make(family, *wanted), strict=True):
        assert largest_difference(picture, diffusers_own(family, one)) <= TOLERANCE, one
    assert {"euler", "unipc"} <= {*family.profile.schedulers}
    assert ("dpmpp_2m" in family.profile.schedulers) == (name != "flux-schnell")


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_a_scheduler_without_a_plan_steps_each_picture(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise NotLinearError("any reason")

    monkeypatch.setattr(plans, "make_plan", fail)
    family = family_of(name)
    for one, picture in zip(TASKS, make(family, *TASKS), strict=True):
        assert largest_difference(picture, diffusers_own(family, one)) <= TOLERANCE


def test_flux_takes_a_second_lane_only_for_true_guidance(flux: DiffusersPipeline) -> None:
    plain = replace(REQUEST, guidance_scale=5.0)
    negative = replace(plain, negative_prompt="a blue star")
    true = replace(negative, true_cfg_scale=4.0)
    requests = [plain, negative, true]

    drawn, ignored, pushed = make(flux, *requests)

    for one, picture in zip(requests, (drawn, ignored, pushed), strict=True):
        assert largest_difference(picture, own_call(flux, one)) <= TOLERANCE
    assert largest_difference(drawn, ignored) <= TOLERANCE
    assert largest_difference(drawn, pushed) > 2 * TOLERANCE
    is_input = denoiser_for(flux).guidance_is_input
    capacity = Capacity(4, 16 * 16, 1.0, guidance_is_input=is_input)
    assert [capacity.size(one) for one in requests] == [1, 1, 2]


def test_true_guidance_of_flux_requires_a_negative_prompt(tmp_path: Path) -> None:
    limits, other = (
        Limits(Settings(), read_profile(build(), unpublished(tmp_path), has_refiner=False))
        for build in (build_flux, build_sd3_of_16_channels)
    )
    body = {"prompt": "a star", "negative_prompt": "a circle", "true_cfg_scale": 4}
    (made,) = decode(body, limits).pictures
    refused = [
        (body | {"negative_prompt": ""}, limits, "true_cfg_scale: requires `negative_prompt`"),
        (body | {"true_cfg_scale": 1}, limits, "negative_prompt: .*set true_cfg_scale above 1"),
        (body | {"true_cfg_scale": 31}, limits, "true_cfg_scale: 31.* not between 0 and 30"),
        (body, other, "true_cfg_scale: only FLUX supports it"),
    ]

    assert (made.request.true_cfg_scale, made.request.negative_prompt) == (4, "a circle")
    for wrong, under, message in refused:
        with pytest.raises(InvalidRequestError, match=f"^{message}"):
            decode(wrong, under)


def test_sides_of_flux_are_multiples_of_its_packed_patches(tmp_path: Path) -> None:
    pipeline: Any = build_flux()
    config = pipeline.vae.config
    names = ("down_block_types", "up_block_types", "block_out_channels")
    deeper = {name: [*config[name], config[name][-1]] for name in names}
    vae = AutoencoderKL.from_config(config, **deeper)
    eighth = FluxPipeline(**pipeline.components | {"vae": vae})

    assert eighth.vae_scale_factor == 8
    profile = read_profile(eighth, unpublished(tmp_path), has_refiner=False)
    assert profile.size_multiple == 16


def test_guidance_is_an_input_of_flux_dev_and_not_of_schnell(flux: DiffusersPipeline) -> None:
    for family, differs in ((flux, True), (family_of("flux-schnell"), False)):
        weak, strong = make(family, *(replace(REQUEST, guidance_scale=one) for one in (1.5, 12.0)))
        assert (largest_difference(weak, strong) > 2 * TOLERANCE) == differs


def test_a_prompt_beyond_the_window_gets_a_warning(family: DiffusersPipeline) -> None:
    wanted = replace(REQUEST, prompt="a red star " * 40, num_inference_steps=1)

    async def story() -> tuple[str, ...]:
        with engine_over(family) as engine:
            return (await engine.submit(wanted)).warnings

    (warning,) = asyncio.run(story())
    assert warning.startswith("prompt is longer than the text encoder reads")


def test_a_transformer_with_more_inputs_runs_in_whole_calls() -> None:
    """Such as SD3 for inpainting, whose transformer also takes the mask and the picture."""
    pipeline = build_flux()
    assert supports(pipeline)

    pipeline.vae.register_to_config(latent_channels=2)

    assert not supports(pipeline)
