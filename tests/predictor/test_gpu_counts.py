"""What a GPU would launch, copy and wait for: counted on a GPU that a CPU pretends to be.

These are counts, not times. A GPU idles while the host waits for it or launches many small kernels.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from torch.utils._python_dispatch import _disable_current_modes

from demo.shapes import Placement, Scene, draw, mask
from predictor.engine.capacity import Capacity
from predictor.engine.inbox import Ticket
from predictor.engine.interfaces import Denoiser
from predictor.engine.job import Job
from predictor.engine.run_ahead import RunAhead
from predictor.engine.step_loop import StepEngine
from predictor.engine.turn import Turn
from predictor.pipelines import plans
from predictor.pipelines.controlnet import ControlNet, ControlNets
from predictor.pipelines.flow_matching import FlowMatchingDenoiser
from predictor.pipelines.schedulers import scheduler_names
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import (
    ControlNetInput,
    GenerationDefaults,
    GenerationRequest,
    InputImage,
    ModelProfile,
)
from tests.predictor.pretended_gpu import DEVICE, Counts, PretendedGpu
from tests.predictor.random_controlnets import build_controlnet
from tests.predictor.random_families import build_flux_schnell, build_sd2
from tests.predictor.random_inpainting import build_sd_inpainting
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl
from tests.predictor.random_refiner import build_refiner

PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 4, 5.0, "unipc"), 8, ("unipc",))
REQUEST = GenerationRequest("a red circle", "", 3, 64, 64, 4, 5.0, "unipc")
PICTURE = InputImage.of(draw(Scene("red", "circle", "blue"), Placement()))
MASK = InputImage.of(mask("square", Placement()))
CHANGED = replace(REQUEST, image=PICTURE, strength=0.5)
INPAINTED = replace(REQUEST, image=PICTURE, mask_image=MASK, strength=1.0)
CONTROLLED = replace(REQUEST, controlnet=ControlNetInput("canny", PICTURE, 0.5))
# torch's names of ``randn``, with and without gradients.
DRAWS = {"host_operations: randn", "host_operations: normal_"}
REFINED = replace(REQUEST, denoising_end=0.01)


MADE: dict[Any, Any] = {}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    """The GPU; plans of equal schedulers are made once for all tests, and without counting."""
    make = plans._plan_or_none

    def made(run: Any, scheduler: Callable[[], Any]) -> Any:
        key = (run, str(scheduler().config))
        if key not in MADE:
            with _disable_current_modes():  # type: ignore[no-untyped-call]
                MADE[key] = make(run, scheduler)
        return MADE[key]

    monkeypatch.setattr(plans, "_plan_or_none", made)
    return PretendedGpu(monkeypatch)


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


def loaded(
    gpu: PretendedGpu, pipeline: Any, controlnets: ControlNets | None = None, **options: Any
) -> DiffusersPipeline:
    """The pipeline on the GPU in half precision; its UNet or transformer counts as "denoiser"."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            gpu.move(part.half())
    count_apart(gpu, getattr(pipeline, "unet", None) or pipeline.transformer)
    return DiffusersPipeline(pipeline, PROFILE, DEVICE, controlnets=controlnets, **options)


def count_apart(gpu: PretendedGpu, module: Any) -> None:
    forward = module.forward

    def watched(*arguments: Any, **options: Any) -> Any:
        with gpu.watched("denoiser"):
            return forward(*arguments, **options)

    module.forward = watched


def stable_diffusion(gpu: PretendedGpu) -> Denoiser:
    return denoiser_for(loaded(gpu, build_sd2()))


def inpainting_unet(gpu: PretendedGpu) -> Denoiser:
    return denoiser_for(loaded(gpu, build_sd_inpainting(build_sd2())))


def sdxl(gpu: PretendedGpu) -> Denoiser:
    pipeline = build_sdxl()
    # The GPU cannot convert a module back to float32.
    pipeline.vae.register_to_config(force_upcast=False)
    return denoiser_for(loaded(gpu, pipeline))


def flow_matching(build: Callable[[], Any]) -> Callable[[PretendedGpu], Denoiser]:
    return lambda gpu: denoiser_for(loaded(gpu, build()))


def refined(gpu: PretendedGpu) -> Denoiser:
    base = build_sdxl()
    refiner = loaded(gpu, build_refiner(base))
    count_apart(gpu, base.unet)
    gpu.move(base.text_encoder.half())
    gpu.move(base.unet.half())
    return denoiser_for(DiffusersPipeline(base, PROFILE, DEVICE, refiner=refiner))


def controlled(build: Callable[[], Any]) -> Callable[[PretendedGpu], Denoiser]:
    def build_on(gpu: PretendedGpu) -> Denoiser:
        pipeline = build()
        model = build_controlnet(pipeline, 7).half()
        gpu.move(model)
        count_apart(gpu, model)
        usable = {"canny": ControlNet(model, pipeline.vae_scale_factor)}
        return denoiser_for(loaded(gpu, pipeline, ControlNets(usable)))

    return build_on


FAMILIES: dict[str, tuple[Callable[[PretendedGpu], Denoiser], GenerationRequest, int]] = {
    "Stable Diffusion": (stable_diffusion, REQUEST, 12),
    "SDXL": (sdxl, REQUEST, 12),
    "refiner": (refined, REFINED, 12),
    "ControlNet": (controlled(build_sd2), CONTROLLED, 12),
    "ControlNet of SDXL": (controlled(build_sdxl), CONTROLLED, 12),
    "inpainting": (stable_diffusion, INPAINTED, 16),
    "inpainting with SDXL": (sdxl, INPAINTED, 16),
    "inpainting UNet": (inpainting_unet, INPAINTED, 16),
    "Stable Diffusion 3": (flow_matching(build_sd3), REQUEST, 12),
    "inpainting with Stable Diffusion 3": (flow_matching(build_sd3), INPAINTED, 16),
    "FLUX": (flow_matching(build_flux), REQUEST, 12),
    "FLUX without guidance": (flow_matching(build_flux_schnell), REQUEST, 12),
    "inpainting with FLUX": (flow_matching(build_flux), INPAINTED, 16),
}


def own_scheduler(denoiser: Denoiser) -> Any:
    if isinstance(denoiser, FlowMatchingDenoiser):
        return FlowMatchEulerDiscreteScheduler()
    return DDIMScheduler()


def jobs_of(denoiser: Denoiser, request: GenerationRequest, number: int) -> list[Job]:
    """Jobs in flight, each with another scheduler, number of steps, guidance and seed.

    Each scheduler draws noise or keeps tensors of its own; every third picture has no guidance.
    """
    names = [name for name in scheduler_names(own_scheduler(denoiser)) if name != "default"]
    jobs = []
    for index in range(number):
        mixed = replace(
            request,
            scheduler=names[index % len(names)],
            num_inference_steps=4 + index % 3,
            guidance_scale=2.0 + index if index % 3 else 1.0,
            seed=index,
        )
        ticket = Ticket(mixed, None, guidance_is_input=denoiser.guidance_is_input)
        denoising = denoiser.begin(mixed).experts[-1]
        encoded = denoiser.encode(["", mixed.prompt], denoising.encoders)
        conditioning = {denoising.encoders: encoded[2 - ticket.lanes :]}
        jobs.append(Job(ticket, denoising, conditioning, (), 0))
    return jobs


def turn_of(gpu: PretendedGpu, denoiser: Denoiser, jobs: list[Job], most_kernels: int) -> Counts:
    """The counts of the second turn; the first one also copies the conditions and constants."""
    for _ in range(2):
        gpu.counts.clear()
        with gpu.watched("turn") as counts:
            turn = Turn(jobs)
            turn.advance(denoiser.predict(turn.lanes()))
        assert counts.waits == 0, counts.where
        assert counts.kernels <= most_kernels, counts.names
    assert not any(job.ticket.is_over for job in jobs)
    return counts


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of NumPy
@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_costs_the_same_for_16_mixed_pictures_as_for_one(
    gpu: PretendedGpu, family: str
) -> None:
    build, request, most_kernels = FAMILIES[family]
    denoiser = build(gpu)
    with gpu.watched("start"):
        lone, crowd = (jobs_of(denoiser, request, number) for number in (1, 16))

    one = turn_of(gpu, denoiser, lone, most_kernels)
    many = turn_of(gpu, denoiser, crowd, most_kernels)

    assert gpu.counts["denoiser"].kernels > 100
    assert gpu.counts["denoiser"].waits == gpu.counts["denoiser"].uploads == 0
    assert one.kernels == many.kernels <= 12, (one.names, many.names)
    # The numbers of the turn, and the noise of the pictures that draw some.
    assert one.uploads == 1
    assert many.uploads == (1 if isinstance(denoiser, FlowMatchingDenoiser) else 2)
    assert many.host_operations <= 20, many.names
    assert one.waits == many.waits == many.event_waits == many.downloads == 0, many.where


# With the number of uploads: the timesteps and token ids of each expert and text encoder; for an
# input picture its pixels and two draws of noise, and its mask; for a ControlNet pixels and scales.
ADMISSIONS = {
    "image to image": (stable_diffusion, CHANGED, 5),
    "image to image with SDXL": (sdxl, CHANGED, 6),
    "inpainting": (stable_diffusion, INPAINTED, 6),
    "inpainting UNet": (inpainting_unet, INPAINTED, 6),
    "ControlNet": (controlled(build_sd2), CONTROLLED, 4),
    "ControlNet, inpainting": (
        controlled(build_sd2),
        replace(INPAINTED, controlnet=CONTROLLED.controlnet),
        8,
    ),
    "refiner": (refined, REFINED, 5),
    "Stable Diffusion 3": (flow_matching(build_sd3), REQUEST, 3),
    "image to image with Stable Diffusion 3": (flow_matching(build_sd3), CHANGED, 6),
    "FLUX": (flow_matching(build_flux), REQUEST, 3),
    "inpainting with FLUX": (flow_matching(build_flux), INPAINTED, 7),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of NumPy
@pytest.mark.parametrize("task", ADMISSIONS)
def test_the_engines_thread_only_launches_the_start_of_a_picture(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Pictures, masks, prompts and noise are in pinned memory when it begins."""
    build, request, uploads = ADMISSIONS[task]
    denoiser = build(gpu)
    converting = []
    preprocess = VaeImageProcessor.preprocess

    def noted(*arguments: Any, **options: Any) -> Any:
        converting.append(gpu.phase)
        return preprocess(*arguments, **options)

    monkeypatch.setattr(VaeImageProcessor, "preprocess", noted)
    with gpu.watched("preparer"):
        denoiser.prepare(request)

    with gpu.watched("admission") as admission:
        experts = denoiser.begin(request).experts
        for one in experts:
            denoiser.encode([request.prompt], one.encoders)

    assert admission.waits == admission.downloads == 0, admission.where
    assert admission.uploads == uploads, admission.names
    assert admission.host_operations <= 20, admission.names
    assert not admission.names.keys() & DRAWS
    pictures = [request.image, request.mask_image, request.controlnet]
    assert converting == ["preparer"] * sum(one is not None for one in pictures)
    assert gpu.counts["preparer"].waits == 0, gpu.counts["preparer"].where


class Calls:
    """An engine over Stable Diffusion on the GPU, and what happened in its threads, in order."""

    def __init__(self, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.tokenizing: set[str] = set()
        denoiser: Any = stable_diffusion(gpu)
        predict, tokenizer = denoiser.predict, type(denoiser._pipeline.tokenizer)
        tokenize = tokenizer.__call__

        def noted_predict(lanes: Any) -> Any:
            self.events.append("pass")
            return predict(lanes)

        def noted_tokenize(*arguments: Any, **options: Any) -> Any:
            self.tokenizing.add(threading.current_thread().name.partition("_")[0])
            return tokenize(*arguments, **options)

        monkeypatch.setattr(denoiser, "predict", noted_predict)
        begin = StepEngine._begin

        def watched_begin(engine: StepEngine, tickets: list[Ticket]) -> None:
            with gpu.watched("admission"):
                begin(engine, tickets)

        monkeypatch.setattr(StepEngine, "_begin", watched_begin)
        with gpu.watched("start"):
            self.engine = StepEngine(denoiser, Capacity(16, 256, 1.0), 64)
        monkeypatch.setattr(tokenizer, "__call__", noted_tokenize)

    def make(self, *requests: GenerationRequest) -> None:
        """Make the pictures, and close the engine."""

        async def story() -> None:
            await asyncio.gather(*(self.engine.submit(one, self._note_step) for one in requests))

        try:
            asyncio.run(asyncio.wait_for(story(), 60))
        finally:
            self.engine.close()

    def _note_step(self, step: int, steps: int) -> None:
        self.events.append(f"step {step}")


def test_the_engines_thread_waits_only_for_the_turn_before_the_last(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(gpu, monkeypatch)

    calls.make(*(replace(REQUEST, seed=seed, scheduler="euler_a") for seed in range(3)))

    engine, finisher = gpu.counts["engine"], gpu.counts["finisher"]
    assert engine.waits == gpu.counts["admission"].waits == 0, engine.where
    assert engine.event_waits == calls.events.count("pass")
    # The copy of each picture has its own event.
    assert finisher.event_waits == 3
    assert finisher.waits == finisher.kernels == finisher.downloads == 0, finisher.names


def test_a_request_joins_without_work_that_another_thread_can_do(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans, noise, token ids and warnings are ready when the engine's thread begins a picture."""
    calls = Calls(gpu, monkeypatch)

    calls.make(replace(REQUEST, negative_prompt="a blue square"))

    admission = gpu.counts["admission"]
    assert calls.tokenizing == {"preparer"}
    assert admission.uploads == 2  # timesteps, token ids
    # Nothing like the noise or a plan, which takes thousands of operations.
    assert admission.host_operations <= 15, admission.names
    assert not admission.names.keys() & DRAWS
    assert gpu.counts["preparer"].names.keys() & DRAWS
    assert gpu.counts["preparer"].waits == 0


def test_a_step_is_reported_when_it_has_ended_and_the_next_is_launched(
    gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(gpu, monkeypatch)

    calls.make(REQUEST)

    assert calls.events[:5] == ["pass", "pass", "step 1", "pass", "step 2"]
    assert calls.events[-1] == "step 4"


def test_at_most_one_turn_runs_behind_the_last(gpu: PretendedGpu) -> None:
    run_ahead, ended = RunAhead(), []
    for turn in (1, 2):
        run_ahead.launched(DEVICE, lambda turn=turn: ended.append(turn))  # type: ignore[misc]
        run_ahead.wait(turns_left=1)
    assert ended == [1]

    run_ahead.wait(turns_left=0)
    assert ended == [1, 2]

    run_ahead.launched(torch.device("cpu"), lambda: ended.append(3))
    assert ended == [1, 2, 3]


def test_the_pretended_gpu_rejects_mixed_devices(gpu: PretendedGpu) -> None:
    with gpu.watched("any"):
        there, here = torch.ones(2).to(DEVICE), torch.ones(2)

        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="same device"):
            torch.cat([there, here])
        assert (there * 2.0).device == DEVICE


def test_the_pretended_gpu_counts_what_blocks(gpu: PretendedGpu) -> None:
    with gpu.watched("any") as counts:
        pageable, pinned = torch.ones(2), torch.ones(2).pin_memory()
        pageable.to(DEVICE, non_blocking=True)
        pinned.to(DEVICE)
        assert (counts.uploads, counts.waits) == (2, 2)

        there = pinned.to(DEVICE, non_blocking=True)
        torch.empty(2, pin_memory=True).copy_(there, non_blocking=True)
        assert (counts.uploads, counts.downloads, counts.waits) == (3, 1, 2)

        float(there[0])
        there.cpu()
        there[there > 0]
        assert (counts.waits, counts.kernels) == (5, 2)
