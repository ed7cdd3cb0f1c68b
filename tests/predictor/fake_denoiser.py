"""A fake denoiser that counts passes, and runs out of memory or fails on demand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

import torch
from PIL import Image

from predictor.engine.capacity import Capacity
from predictor.engine.denoising import Denoising, SchedulerSteps
from predictor.engine.interfaces import Lane
from predictor.engine.step_loop import StepEngine
from predictor.requests import GenerationRequest
from tests.waiting import wait_until

Conditioning = tuple[torch.Tensor, ...]


def request(
    prompt: str, steps: int = 3, *, guidance_scale: float = 2.0, width: int = 64, height: int = 64
) -> GenerationRequest:
    """A request that the fake identifies by its prompt."""
    return GenerationRequest(prompt, "", 0, width, height, steps, guidance_scale, "fake")


class FakeScheduler:
    """Counts down; fails for certain prompts."""

    init_noise_sigma = 1.0

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt

    def set_timesteps(self, steps: int) -> None:
        if self._prompt == "no timesteps":
            raise ValueError("secret detail")
        self.timesteps = torch.arange(steps, 0, -1)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return sample

    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool
    ) -> tuple[torch.Tensor]:
        if self._prompt == "no step":
            raise ValueError("secret detail")
        return (sample + model_output * (float("nan") if self._prompt == "nan" else 1),)


class FakeDenoiser:
    """Each release of ``gate`` lets one forward pass through.

    ``passes`` lists the prompts of each pass; ``events`` lists passes and decodings in order.
    """

    guidance_is_input = False

    def __init__(self, memory_in_lanes: int = 10_000) -> None:
        self.memory_in_lanes = memory_in_lanes
        self.gate = threading.Semaphore(0)
        self.waiting = threading.Semaphore(0)
        self.passes: list[list[str]] = []
        self.lanes: list[int] = []
        self.events: list[str] = []
        self.encoded: list[list[str]] = []
        self._prompts: list[str] = []

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        self.encoded.append(list(prompts))
        first = len(self._prompts)
        self._prompts += prompts
        return [(torch.tensor(index),) for index in range(first, len(self._prompts))]

    def prepare(self, request: GenerationRequest) -> None:
        pass

    def begin(self, request: GenerationRequest) -> Denoising:
        noise = torch.zeros(1, 4, request.height // 8, request.width // 8)
        scheduler = FakeScheduler(request.prompt)
        scheduler.set_timesteps(request.num_inference_steps)
        steps = SchedulerSteps(scheduler, scheduler.timesteps)
        return Denoising(steps, noise * steps.init_noise_sigma, torch.Generator())

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        latents = torch.cat([lane.model_input for lane in lanes])
        self.waiting.release()
        self.gate.acquire()
        prompts = [self._prompts[int(lane.conditioning[0])] for lane in lanes]
        if len(latents) > self.memory_in_lanes:
            raise torch.OutOfMemoryError("secret detail")
        if "no prediction" in prompts:
            raise RuntimeError("secret detail")
        self.passes.append([prompt for prompt in prompts if prompt])
        self.lanes.append(len(latents))
        self.events.append("step")
        return torch.ones_like(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.events.append(f"decode {len(latents)}")
        return latents

    def finish(self, image: torch.Tensor) -> Image.Image:
        if image.isnan().any():
            raise ArithmeticError("the picture came out as NaN or infinity")
        return Image.new("RGB", (image.shape[-1] * 8, image.shape[-2] * 8))

    def warnings(self, request: GenerationRequest) -> tuple[str, ...]:
        return ()


class Scene:
    """An engine over a fake denoiser, and what a test needs to drive both."""

    def __init__(self, denoiser: FakeDenoiser, lanes: int, queue: int) -> None:
        self.denoiser = denoiser
        self.capacity = Capacity(lanes, latent_pixels=64, steps_per_decode=2.0)
        self.engine = StepEngine(denoiser, self.capacity, queue)
        self._tasks: list[asyncio.Task[Any]] = []

    def submit(self, *requests: GenerationRequest) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(self.engine.submit(one)) for one in requests]
        self._tasks += tasks
        return tasks

    async def queue(self, *requests: GenerationRequest) -> list[asyncio.Task[Any]]:
        """Submit, and wait until the engine has every request that is not answered yet."""
        tasks = self.submit(*requests)

        def are_queued() -> bool:
            return sum(self.engine.state[:2]) >= sum(not task.done() for task in self._tasks)

        await asyncio.to_thread(wait_until, are_queued)
        return tasks

    async def stepping(self) -> None:
        """Wait until a forward pass is about to begin."""
        assert await asyncio.to_thread(self.denoiser.waiting.acquire, timeout=5)

    async def submit_all(self, *requests: GenerationRequest) -> list[asyncio.Task[Any]]:
        """Submit so that all requests are queued before the second forward pass."""
        tasks = await self.queue(*requests)
        await self.stepping()
        return tasks

    def run_free(self) -> None:
        """Let all further forward passes through."""
        self.denoiser.gate.release(100_000)


def run_story(
    story: Callable[[Scene], Awaitable[None]],
    denoiser: FakeDenoiser | None = None,
    *,
    lanes: int = 16,
    queue: int = 64,
) -> FakeDenoiser:
    """Run a test's coroutine against an engine, and close the engine."""
    scene = Scene(denoiser or FakeDenoiser(), lanes, queue)
    try:
        asyncio.run(asyncio.wait_for(story(scene), 30))
    finally:
        scene.run_free()
        scene.engine.close()
    return scene.denoiser
