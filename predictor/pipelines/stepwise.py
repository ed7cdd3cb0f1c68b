"""Which pipelines the step loop can take apart, and by what."""

from __future__ import annotations

from diffusers import (
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from predictor.pipelines.inpainting import INPAINTING_CHANNELS
from predictor.pipelines.stable_diffusion import StableDiffusionDenoiser
from predictor.pipelines.stable_diffusion_xl import StableDiffusionXLDenoiser
from predictor.pipelines.whole import DiffusersPipeline

_DENOISERS: dict[type, type[StableDiffusionDenoiser]] = {
    StableDiffusionPipeline: StableDiffusionDenoiser,
    StableDiffusionInpaintPipeline: StableDiffusionDenoiser,
    StableDiffusionXLPipeline: StableDiffusionXLDenoiser,
    StableDiffusionXLInpaintPipeline: StableDiffusionXLDenoiser,
}


def supports(pipeline: DiffusionPipeline) -> bool:
    """Whether it is of the two families, plain or for inpainting, without distilled guidance."""
    if type(pipeline) not in _DENOISERS:
        return False
    config = pipeline.unet.config
    return config.in_channels in (4, INPAINTING_CHANNELS) and config.time_cond_proj_dim is None


def denoiser_for(loaded: DiffusersPipeline) -> StableDiffusionDenoiser:
    """The parts of a pipeline that is supported."""
    return _DENOISERS[type(loaded.diffusers)](loaded)
