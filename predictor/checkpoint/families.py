"""The known model families and their defaults; ``docs/models.md`` shows this table.

The numbers come from diffusers' pipeline documentation and the model cards, except for the steps of
SD 1.x to SDXL, which are for UniPC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from predictor.checkpoint.configs import Configs


@dataclass(frozen=True)
class Family:
    """One row of the table.

    ``recognised_by`` describes in words what ``matches`` checks. ``latent_side`` is the side in
    latents that a checkpoint was trained at, used if its configuration does not say.
    ``num_inference_steps`` and ``guidance_scale`` are None if the defaults of the pipeline's
    ``__call__`` apply, ``scheduler`` is None if the checkpoint's own scheduler applies.
    ``gpu_dtype`` is the dtype of the published weights, or one with the range of float32 if that is
    unknown. ``max_sequence_length`` is the maximum number of tokens for T5; None means the
    pipeline's default. ``schedulers`` are those that a request may name in addition to ``default``;
    None means all that solve the model's equation. For ``always_shifts`` see ``scheduler_names``.
    """

    name: str
    recognised_by: str
    matches: Callable[[Configs], bool]
    latent_side: int
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    gpu_dtype: Literal["float16", "bfloat16"]
    max_sequence_length: int | None = None
    schedulers: tuple[str, ...] | None = None
    always_shifts: bool = False


_STABLE_DIFFUSION = {
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
}
_SDXL = {"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"}
_SDXL_INPAINTING = {"StableDiffusionXLInpaintPipeline"}
_LCM = {"LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"}
_SD3 = {
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
}
_FLUX = {"FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"}


def _is_lcm(model: Configs) -> bool:
    """Whether guidance is an input of the UNet (``w`` in the LCM paper, arXiv 2310.04378)."""
    unets = _STABLE_DIFFUSION | _SDXL | _LCM
    return model.class_name in unets and model.unet.get("time_cond_proj_dim") is not None


def _is_turbo(model: Configs) -> bool:
    """Whether the model was trained at 512 pixels with trailing timesteps.

    A schedule with zero terminal SNR also uses ``trailing``, but with v-prediction.
    """
    schedule = model.scheduler
    return (
        schedule.get("timestep_spacing") == "trailing"
        and schedule.get("prediction_type", "epsilon") == "epsilon"
        and model.unet.get("sample_size") == 64
    )


def _is_sd2(model: Configs) -> bool:
    """Check the key that diffusers sets when it converts an SD 2 checkpoint of any size."""
    return model.class_name in _STABLE_DIFFUSION and bool(model.unet.get("use_linear_projection"))


def _is_sd35(model: Configs) -> bool:
    return model.class_name in _SD3 and model.transformer.get("qk_norm") is not None


FAMILIES: tuple[Family, ...] = (
    Family(
        "lcm",
        "SD or SDXL whose UNet has `time_cond_proj_dim`, or `LatentConsistencyModelPipeline`",
        lambda model: _is_lcm(model) or model.class_name in _LCM,
        latent_side=96,
        num_inference_steps=4,
        guidance_scale=8.0,
        scheduler="lcm",
        gpu_dtype="float16",
        schedulers=("lcm",),
    ),
    Family(
        "sdxl-turbo",
        "as `sdxl`, with `sample_size` 64, `timestep_spacing` trailing and epsilon prediction",
        lambda model: model.class_name in _SDXL and _is_turbo(model),
        latent_side=64,
        num_inference_steps=4,
        guidance_scale=0.0,
        scheduler=None,
        gpu_dtype="float16",
    ),
    Family(
        "sdxl-inpainting",
        "`StableDiffusionXLInpaintPipeline`",
        lambda model: model.class_name in _SDXL_INPAINTING,
        latent_side=128,
        num_inference_steps=30,
        guidance_scale=7.5,
        scheduler="unipc",
        gpu_dtype="float16",
    ),
    Family(
        "sdxl",
        "`StableDiffusionXLPipeline`",
        lambda model: model.class_name in _SDXL,
        latent_side=128,
        num_inference_steps=30,
        guidance_scale=5.0,
        scheduler="unipc",
        gpu_dtype="float16",
    ),
    Family(
        "sd2-turbo",
        "as `sd2`, with `sample_size` 64, `timestep_spacing` trailing and epsilon prediction",
        lambda model: _is_sd2(model) and _is_turbo(model),
        latent_side=64,
        num_inference_steps=4,
        guidance_scale=0.0,
        scheduler=None,
        gpu_dtype="float16",
    ),
    Family(
        "sd2",
        "as `sd1`, with `use_linear_projection` in the UNet",
        _is_sd2,
        latent_side=96,
        num_inference_steps=30,
        guidance_scale=7.5,
        scheduler="unipc",
        gpu_dtype="float16",
    ),
    Family(
        "sd1",
        "`StableDiffusionPipeline`",
        lambda model: model.class_name in _STABLE_DIFFUSION,
        latent_side=64,
        num_inference_steps=30,
        guidance_scale=7.5,
        scheduler="unipc",
        gpu_dtype="float16",
    ),
    Family(
        "sd3.5-medium",
        "as `sd3.5-large`, with `dual_attention_layers`",
        lambda model: _is_sd35(model) and bool(model.transformer.get("dual_attention_layers")),
        latent_side=128,
        num_inference_steps=40,
        guidance_scale=4.5,
        scheduler="euler",
        gpu_dtype="bfloat16",
    ),
    Family(
        "sd3.5-large",
        "as `sd3`, with `qk_norm` in the transformer",
        _is_sd35,
        latent_side=128,
        num_inference_steps=28,
        guidance_scale=3.5,
        scheduler="euler",
        gpu_dtype="bfloat16",
    ),
    Family(
        "sd3",
        "`StableDiffusion3Pipeline`",
        lambda model: model.class_name in _SD3,
        latent_side=128,
        num_inference_steps=28,
        guidance_scale=7.0,
        scheduler="euler",
        gpu_dtype="float16",
    ),
    Family(
        "flux-schnell",
        "`FluxPipeline` whose transformer has no `guidance_embeds`",
        lambda model: model.class_name in _FLUX and not model.transformer.get("guidance_embeds"),
        latent_side=128,
        num_inference_steps=4,
        guidance_scale=0.0,
        scheduler="euler",
        # float16 clips the output of the text encoders.
        gpu_dtype="bfloat16",
        max_sequence_length=256,
        always_shifts=True,
    ),
    Family(
        "flux-dev",
        "`FluxPipeline` whose transformer has `guidance_embeds`",
        lambda model: model.class_name in _FLUX,
        latent_side=128,
        num_inference_steps=28,
        guidance_scale=3.5,
        scheduler="euler",
        # float16 clips the output of the text encoders.
        gpu_dtype="bfloat16",
        always_shifts=True,
    ),
    Family(
        "unknown",
        "any other class that makes pictures",
        lambda model: True,
        latent_side=128,
        num_inference_steps=None,
        guidance_scale=None,
        scheduler=None,
        gpu_dtype="bfloat16",
        schedulers=(),
    ),
)


def family_of(configs: Configs) -> Family:
    """Return the first family that the configurations match.

    Raises:
        ModelLoadError: one of them is not valid JSON.
    """
    return next(family for family in FAMILIES if family.matches(configs))
