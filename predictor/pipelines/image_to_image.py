"""Image to image: the way from an input picture under as much noise as the strength says."""

from __future__ import annotations

from typing import Any

import torch

from predictor.engine.denoising import Denoising
from predictor.pipelines.generator import generator_for
from predictor.pipelines.image_encoder import ImageEncoder
from predictor.types import GenerationRequest, InputImage


def begin_image_to_image(
    request: GenerationRequest, scheduler: Any, pipeline: Any, encoder: ImageEncoder
) -> Denoising:
    """What ``StableDiffusionImg2ImgPipeline`` begins with, and what SDXL's does."""
    assert request.image is not None
    generator = generator_for(request)
    timesteps = last_timesteps(request, scheduler)
    pixels = pixels_of(request.image, pipeline)
    clean = encoder.latents(request.image.sha256, pixels, generator)
    noise = encoder.noise(pixels, generator)
    latents = scheduler.add_noise(clean, noise, timesteps[:1])
    return Denoising(scheduler, timesteps, latents, generator)


def last_timesteps(request: GenerationRequest, scheduler: Any) -> torch.Tensor:
    """Those of the request's steps that its strength leaves; the scheduler is set to them."""
    scheduler.set_timesteps(request.num_inference_steps)
    skipped = (request.num_inference_steps - request.steps_taken) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    timesteps: torch.Tensor = scheduler.timesteps[skipped:]
    return timesteps


def pixels_of(image: InputImage, pipeline: Any) -> torch.Tensor:
    """``(1, 3, height, width)`` of -1 to 1, on the CPU."""
    pixels: torch.Tensor = pipeline.image_processor.preprocess(image.image)
    return pixels
