"""Stable Diffusion and SDXL taken apart into what the engine calls step by step.

Together the parts do what ``__call__`` of diffusers' two pipelines does; the tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from predictor.engine.denoising import Denoising
from predictor.pipeline import DiffusersPipeline
from predictor.schedulers import make_scheduler
from predictor.types import GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.seam import Conditioning


def supports(pipeline: DiffusionPipeline) -> bool:
    """Whether it is one of the two pipelines, plain: no inpainting, no distilled guidance."""
    if type(pipeline) not in _DENOISERS:
        return False
    config = pipeline.unet.config
    return bool(config.in_channels == 4 and config.time_cond_proj_dim is None)


def denoiser_for(loaded: DiffusersPipeline) -> StableDiffusionDenoiser:
    """The parts of a pipeline that is supported."""
    return _DENOISERS[type(loaded.diffusers)](loaded)


class StableDiffusionDenoiser:
    """A ``Denoiser`` over ``StableDiffusionPipeline``: one text encoder, a safety checker."""

    def __init__(self, loaded: DiffusersPipeline) -> None:
        self.warnings = loaded.warnings
        self._pipeline: Any = loaded.diffusers
        self._device: torch.device = self._pipeline.device
        self._dtype: torch.dtype = self._pipeline.unet.dtype
        self._decode_stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._decode_stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """See ``Denoiser.encode``."""
        embeddings, _ = self._pipeline.encode_prompt(list(prompts), self._device, 1, False)
        return _rows(embeddings)

    def begin(self, request: GenerationRequest) -> Denoising:
        """See ``Denoiser.begin``."""
        return self._begin(request, make_scheduler(request.scheduler, self._pipeline.scheduler))

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Sequence[Conditioning],
    ) -> torch.Tensor:
        """See ``Denoiser.predict``."""
        prediction: torch.Tensor = self._pipeline.unet(
            latents.to(self._dtype),
            timesteps.to(self._device),
            encoder_hidden_states=torch.stack([one[0] for one in conditioning]),
            added_cond_kwargs=self._added_conditions(latents, conditioning),
            return_dict=False,
        )[0]
        return prediction

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See ``Denoiser.decode``."""
        vae, stream = self._pipeline.vae, self._decode_stream
        if stream is not None:
            # Steps go on meanwhile, and must not reuse the memory of these latents.
            stream.wait_stream(torch.cuda.current_stream(self._device))
            latents.record_stream(stream)
        with torch.cuda.stream(stream):
            unscaled = self._unscaled(latents.to(vae.dtype))
            image: torch.Tensor = vae.decode(unscaled, return_dict=False)[0]
        return image

    def finish(self, image: torch.Tensor) -> Image.Image:
        """See ``Denoiser.finish``."""
        with torch.inference_mode(), torch.cuda.stream(self._decode_stream):
            if not torch.isfinite(image).all():
                raise ArithmeticError("the picture came out as NaN or infinity")
            return self._to_picture(image)

    def _begin(self, request: GenerationRequest, scheduler: Any) -> Denoising:
        scale = self._pipeline.vae_scale_factor
        channels = self._pipeline.unet.config.in_channels
        shape = (1, channels, request.height // scale, request.width // scale)
        # A CPU generator draws the same noise whatever device the pipeline runs on.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        noise = randn_tensor(shape, generator, self._device, self._dtype)
        return Denoising(scheduler, request.num_inference_steps, noise, generator)

    def _added_conditions(
        self, latents: torch.Tensor, conditioning: Sequence[Conditioning]
    ) -> dict[str, torch.Tensor] | None:
        return None

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled: torch.Tensor = latents / self._pipeline.vae.config.scaling_factor
        return unscaled

    def _to_picture(self, image: torch.Tensor) -> Image.Image:
        image, flagged = self._pipeline.run_safety_checker(image, self._device, self._dtype)
        # A flagged picture is black already.
        denormalize = [not one for one in flagged or [False]]
        picture: Image.Image = self._pipeline.image_processor.postprocess(
            image, output_type="pil", do_denormalize=denormalize
        )[0]
        return picture


class StableDiffusionXLDenoiser(StableDiffusionDenoiser):
    """A ``Denoiser`` over ``StableDiffusionXLPipeline``: two text encoders, sizes as conditions."""

    def __init__(self, loaded: DiffusersPipeline) -> None:
        super().__init__(loaded)
        vae = self._pipeline.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            # It overflows in half precision. Diffusers casts it to and fro for each picture.
            vae.to(torch.float32)

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """See ``Denoiser.encode``."""
        embeddings, _, pooled, _ = self._pipeline.encode_prompt(
            list(prompts), device=self._device, do_classifier_free_guidance=False
        )
        if self._pipeline.config.force_zeros_for_empty_prompt:
            empty = [index for index, prompt in enumerate(prompts) if not prompt]
            embeddings[empty] = 0
            pooled[empty] = 0
        return _rows(embeddings, pooled)

    def _begin(self, request: GenerationRequest, scheduler: Any) -> Denoising:
        denoising = super()._begin(request, scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return denoising

    def _added_conditions(
        self, latents: torch.Tensor, conditioning: Sequence[Conditioning]
    ) -> dict[str, torch.Tensor] | None:
        """Original size, crop and target size: nobody asks for other than the picture's own."""
        height, width = (side * self._pipeline.vae_scale_factor for side in latents.shape[-2:])
        pooled = torch.stack([one[1] for one in conditioning])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=pooled.dtype)
        return {
            "text_embeds": pooled,
            "time_ids": sizes.to(self._device).repeat(len(conditioning), 1),
        }

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        config = self._pipeline.vae.config
        unscaled = super()._unscaled(latents)
        statistics = [config.get("latents_mean"), config.get("latents_std")]
        if None in statistics:
            return unscaled
        mean, std = (
            torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
            for values in statistics
        )
        return unscaled * std + mean

    def _to_picture(self, image: torch.Tensor) -> Image.Image:
        if self._pipeline.watermark is not None:
            image = self._pipeline.watermark.apply_watermark(image)
        picture: Image.Image = self._pipeline.image_processor.postprocess(image, "pil")[0]
        return picture


_DENOISERS: dict[type, type[StableDiffusionDenoiser]] = {
    StableDiffusionPipeline: StableDiffusionDenoiser,
    StableDiffusionXLPipeline: StableDiffusionXLDenoiser,
}


def _rows(*batches: torch.Tensor) -> list[Conditioning]:
    """What belongs to each prompt, as copies: a view would keep the whole batch in memory."""
    return [tuple(row.clone() for row in rows) for rows in zip(*batches, strict=True)]
