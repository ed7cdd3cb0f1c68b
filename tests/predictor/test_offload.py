"""Offloading with the CPU as the target, which covers all code except the copy to a GPU."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, CpuOffload
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

from predictor.engine.capacity import Capacity
from predictor.engine.step_loop import StepEngine
from predictor.loading.apply import apply_tuning
from predictor.pipelines.stepwise import denoiser_for
from predictor.pipelines.tuning import Offload, Savings, Tuning
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationDefaults, ModelProfile
from tests.predictor.drawing import own_call
from tests.predictor.pictures import largest_difference
from tests.predictor.random_pipelines import build_flux, build_sd3, build_sdxl

PROFILE = ModelProfile("r1", GenerationDefaults(128, 128, 3, 5.0, "default"), 8, ("default",))
# Not equal to the pipeline's own device, as with a GPU.
TARGET = torch.device("cpu", 0)


def offloaded(build: Callable[[], DiffusionPipeline], offload: Offload) -> DiffusersPipeline:
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    tuning = Tuning(savings=Savings(offload=offload))
    apply_tuning(pipeline, tuning, TARGET)
    return DiffusersPipeline(pipeline, PROFILE, TARGET, tuning)


def that_draws(build: Callable[[], DiffusionPipeline], offload: Offload) -> DiffusersPipeline:
    """Offload sequentially to the CPU, which requires a device without an index.

    diffusers always adds index 0, so accelerate would assume that the weights are elsewhere. This
    calls accelerate directly for each component, as diffusers does.
    """
    if offload == "model":
        return offloaded(build, offload)
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    for part in parts_of(pipeline):
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert pipeline.device.type == "meta"
    tuning = Tuning(savings=Savings(offload=offload))
    return DiffusersPipeline(pipeline, PROFILE, torch.device("cpu"), tuning)


def through_the_step_loop(loaded: DiffusersPipeline, seeds: int) -> list[Image.Image]:
    request = PROFILE.default_request("a red circle")

    async def submit_all() -> list[Image.Image]:
        engine = StepEngine(denoiser_for(loaded), Capacity(4, 16 * 16, 1.0), max_queue_length=8)
        try:
            requests = [replace(request, seed=seed) for seed in range(seeds)]
            results = await asyncio.gather(*(engine.submit(one) for one in requests))
        finally:
            engine.close()
        return [result.image for result in results]

    return asyncio.run(submit_all())


def parts_of(pipeline: Any) -> list[torch.nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


@pytest.mark.parametrize("build", [build_sdxl, build_sd3, build_flux])
def test_model_offload_hooks_every_part(build: Callable[[], DiffusionPipeline]) -> None:
    loaded = offloaded(build, "model")

    hooks = [part._hf_hook for part in parts_of(loaded.diffusers)]
    assert len(hooks) >= 4
    assert {type(hook) for hook in hooks} == {CpuOffload}
    assert {hook.execution_device for hook in hooks} == {TARGET}


@pytest.mark.parametrize("build", [build_sdxl, build_sd3, build_flux])
def test_sequential_offload_leaves_no_weights_with_the_modules(
    build: Callable[[], DiffusionPipeline],
) -> None:
    loaded = offloaded(build, "sequential")

    weights = [weight for part in parts_of(loaded.diffusers) for weight in part.parameters()]
    assert {weight.device.type for weight in weights} == {"meta"}
    linear = next(
        one
        for one in loaded.diffusers.vae.modules()
        if isinstance(one, torch.nn.Conv2d) and hasattr(one, "_hf_hook")
    )
    assert isinstance(linear._hf_hook, AlignDevicesHook)
    assert linear._hf_hook.execution_device == TARGET


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("build", [build_sdxl, build_sd3, build_flux])
def test_the_step_loop_draws_the_same_under_offloading(
    build: Callable[[], DiffusionPipeline], offload: Offload
) -> None:
    plain = DiffusersPipeline(build(), PROFILE)
    plain.diffusers.set_progress_bar_config(disable=True)
    request = PROFILE.default_request("a red circle")
    expected = [own_call(plain, replace(request, seed=seed)) for seed in range(3)]

    drawn = through_the_step_loop(that_draws(build, offload), seeds=3)

    assert [largest_difference(*both) <= 2 for both in zip(drawn, expected, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("build", [build_sd3, build_flux])
def test_whole_pipelines_draw_the_same_under_offloading(
    build: Callable[[], DiffusionPipeline], offload: Offload
) -> None:
    plain = DiffusersPipeline(build(), PROFILE)
    plain.diffusers.set_progress_bar_config(disable=True)
    request = PROFILE.default_request("a red circle")
    loaded = that_draws(build, offload)

    drawn = [own_call(loaded, request) for _ in range(2)]

    assert largest_difference(drawn[0], own_call(plain, request)) <= 2
    assert largest_difference(drawn[1], drawn[0]) <= 2


@pytest.mark.parametrize(("build", "network"), [(build_sdxl, "unet"), (build_flux, "transformer")])
def test_the_denoiser_is_offloaded_before_prompts_are_encoded(
    build: Callable[[], DiffusionPipeline], network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise both would be on the GPU at once, and offloading would save nothing."""
    loaded = offloaded(build, "model")
    calls: list[str] = []
    for name in (network, "vae"):
        part = getattr(loaded.diffusers, name)
        monkeypatch.setattr(part, "to", lambda device, name=name: calls.append(f"{name} {device}"))
    loaded.diffusers.text_encoder.register_forward_pre_hook(lambda *_: calls.append("encode"))

    with torch.inference_mode():
        denoiser_for(loaded).encode(["a red circle"])

    assert calls == [f"{network} cpu", "vae cpu", "encode"]


class Recorder(StableDiffusionXLPipeline):  # type: ignore[misc]
    """Records the calls that would move weights to a GPU."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        self.calls.append(f"model {device}")

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        self.calls.append(f"sequential {device}")

    def to(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(f"to {args[0]}")


@pytest.mark.parametrize(
    ("offload", "call"),
    [("none", "to cuda"), ("model", "model cuda"), ("sequential", "sequential cuda")],
)
def test_an_offloaded_pipeline_is_not_moved_as_a_whole(offload: Offload, call: str) -> None:
    recorder = Recorder()

    apply_tuning(recorder, Tuning(savings=Savings(offload=offload)), torch.device("cuda"))

    assert recorder.calls == [call]


def test_a_decoder_is_upcast_under_sequential_offloading() -> None:
    """SDXL's denoiser upcasts it when it is created, after the weights were offloaded."""
    vae = build_sdxl().vae.to(torch.float16)
    plain = copy.deepcopy(vae).to(torch.float32)
    cpu_offload(vae, torch.device("cpu"), offload_buffers=len(vae._parameters) > 0)
    latents = torch.randn(1, 4, 16, 16)

    vae.to(torch.float32)

    with torch.inference_mode():
        expected = plain.decode(latents, return_dict=False)[0]
        assert torch.equal(vae.decode(latents, return_dict=False)[0], expected)
