"""Which pipelines the step loop supports, and the ``Denoiser`` of each."""

from __future__ import annotations

from inspect import signature

from diffusers import (
    DiffusionPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from predictor.engine.interfaces import Denoiser
from predictor.pipelines.flux import FluxDenoiser
from predictor.pipelines.image_to_image import INPAINTING_CHANNELS
from predictor.pipelines.refiner import RefinedDenoiser, Refiner
from predictor.pipelines.stable_diffusion import TEXT_ENCODERS, StableDiffusionDenoiser
from predictor.pipelines.stable_diffusion_3 import StableDiffusion3Denoiser
from predictor.pipelines.stable_diffusion_xl import StableDiffusionXLDenoiser
from predictor.pipelines.whole import DiffusersPipeline

_UNETS: dict[type, type[StableDiffusionDenoiser]] = {
    StableDiffusionPipeline: StableDiffusionDenoiser,
    StableDiffusionInpaintPipeline: StableDiffusionDenoiser,
    StableDiffusionXLPipeline: StableDiffusionXLDenoiser,
    StableDiffusionXLInpaintPipeline: StableDiffusionXLDenoiser,
}
_TRANSFORMERS: dict[type, type[StableDiffusionDenoiser]] = {
    StableDiffusion3Pipeline: StableDiffusion3Denoiser,
    StableDiffusion3Img2ImgPipeline: StableDiffusion3Denoiser,
    StableDiffusion3InpaintPipeline: StableDiffusion3Denoiser,
    FluxPipeline: FluxDenoiser,
    FluxImg2ImgPipeline: FluxDenoiser,
    FluxInpaintPipeline: FluxDenoiser,
}
_DENOISERS = _UNETS | _TRANSFORMERS


def supports(pipeline: DiffusionPipeline) -> bool:
    """Whether the step loop supports it: SD, SDXL, SD3 or FLUX, with the usual inputs.

    A VAE whose decoder also takes the input picture (``AsymmetricAutoencoderKL``) needs the
    pipeline's own call, as does a network with more inputs than the latents and, for UNets, the
    mask: LCM, or FLUX and SD3 for inpainting.
    """
    if type(pipeline) not in _DENOISERS or "image" in signature(pipeline.vae.decode).parameters:
        return False
    if type(pipeline) in _TRANSFORMERS:
        return bool(pipeline.transformer.config.in_channels == _input_channels(pipeline))
    config = pipeline.unet.config
    return config.in_channels in (4, INPAINTING_CHANNELS) and config.time_cond_proj_dim is None


def has_unet(pipeline: DiffusionPipeline) -> bool:
    """Whether the step loop supports it with a UNet, so that ControlNets and CLIP skip work."""
    return type(pipeline) in _UNETS and supports(pipeline)


def _input_channels(pipeline: DiffusionPipeline) -> int:
    """The channels of a transformer without further inputs; FLUX packs 2x2 latents into one."""
    packed = 4 if _TRANSFORMERS[type(pipeline)] is FluxDenoiser else 1
    return int(packed * pipeline.vae.config.latent_channels)


def takes_refiner(pipeline: DiffusionPipeline) -> bool:
    """Whether a refiner can continue from its latents, which must be SDXL's."""
    return type(pipeline) is StableDiffusionXLPipeline and supports(pipeline)


def max_clip_skip(pipeline: DiffusionPipeline) -> int | None:
    """The most layers that a request may skip in each text encoder; None if it may skip none."""
    if not has_unet(pipeline):
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
