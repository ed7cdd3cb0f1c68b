"""Which pipelines the step loop supports, and the ``Denoiser`` of each."""

from __future__ import annotations

from inspect import signature

from diffusers import (
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from predictor.engine.interfaces import Denoiser
from predictor.pipelines.image_to_image import INPAINTING_CHANNELS
from predictor.pipelines.refiner import RefinedDenoiser, Refiner
from predictor.pipelines.stable_diffusion import TEXT_ENCODERS, StableDiffusionDenoiser
from predictor.pipelines.stable_diffusion_xl import StableDiffusionXLDenoiser
from predictor.pipelines.whole import DiffusersPipeline

_DENOISERS: dict[type, type[StableDiffusionDenoiser]] = {
    StableDiffusionPipeline: StableDiffusionDenoiser,
    StableDiffusionInpaintPipeline: StableDiffusionDenoiser,
    StableDiffusionXLPipeline: StableDiffusionXLDenoiser,
    StableDiffusionXLInpaintPipeline: StableDiffusionXLDenoiser,
}


def supports(pipeline: DiffusionPipeline) -> bool:
    """Whether the step loop supports it: SD or SDXL, plain or inpainting, undistilled guidance.

    A VAE whose decoder also takes the input picture (``AsymmetricAutoencoderKL``) needs the
    pipeline's own call.
    """
    if type(pipeline) not in _DENOISERS or "image" in signature(pipeline.vae.decode).parameters:
        return False
    config = pipeline.unet.config
    return config.in_channels in (4, INPAINTING_CHANNELS) and config.time_cond_proj_dim is None


def takes_refiner(pipeline: DiffusionPipeline) -> bool:
    """Whether a refiner can continue from its latents, which must be SDXL's."""
    return type(pipeline) is StableDiffusionXLPipeline and supports(pipeline)


def max_clip_skip(pipeline: DiffusionPipeline) -> int | None:
    """The most layers that a request may skip in each text encoder; None if it may skip none."""
    if not supports(pipeline):
        return None
    parts = pipeline.components
    layers = [parts[name].config.num_hidden_layers for name in TEXT_ENCODERS if parts.get(name)]
    return int(min(layers)) - 1


def denoiser_for(loaded: DiffusersPipeline) -> Denoiser:
    """Return the denoiser of a supported pipeline."""
    base = _DENOISERS[type(loaded.diffusers)](loaded)
    if loaded.refiner is None:
        return base
    return RefinedDenoiser(base, Refiner(loaded.refiner, loaded))
