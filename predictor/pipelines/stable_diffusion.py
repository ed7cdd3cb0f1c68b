"""Stable Diffusion split into the operations that the engine calls step by step.

Together they match ``__call__`` of diffusers' pipeline; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from predictor.engine.denoising import Denoising, Steps
from predictor.pipelines.cuda_graphs import Pass
from predictor.pipelines.image_encoder import ImageEncoder
from predictor.pipelines.image_to_image import begin_image_to_image, begin_inpainting
from predictor.pipelines.plans import Plans, Run
from predictor.pipelines.schedulers import generator_for
from predictor.pipelines.whole import DiffusersPipeline, check_finite
from predictor.requests import Adapter, GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane


class Kind(NamedTuple):
    """The UNet, LoRAs and ControlNet of a request."""

    expert: str = "base"
    adapters: tuple[Adapter, ...] = ()
    controlnet: str | None = None


class ClipSkip(NamedTuple):
    """Among the ``encoders`` of a prompt: how many of their last layers it skips."""

    layers: int


TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


class StableDiffusionDenoiser:
    """A ``Denoiser`` over ``StableDiffusionPipeline``: one text encoder."""

    def __init__(self, loaded: DiffusersPipeline) -> None:
        self.warnings = loaded.warnings
        self._pipeline: Any = loaded.diffusers
        self._adapters = loaded.adapters
        self._controlnets = loaded.controlnets
        self._graphs = loaded.graphs
        self._device = loaded.device
        self._offload = loaded.tuning.savings.offload
        self._dtype: torch.dtype = self._pipeline.unet.dtype
        self._plans = Plans(self._pipeline.scheduler)
        self._image_encoder = ImageEncoder(self._pipeline, self._device, self._dtype)
        self._decode_stream: torch.cuda.Stream | None = None
        # Under offloading there is not enough memory to decode while steps run.
        if self._device.type == "cuda" and self._offload == "none":
            self._decode_stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        """See ``Denoiser.encode``; ``encoders`` holds adapters of the text encoders, and may end
        with a ``ClipSkip``.
        """
        self._make_room()
        named = cast("tuple[Adapter | ClipSkip, ...]", encoders)
        self._adapters.use([one for one in named if isinstance(one, Adapter)], TEXT_ENCODERS)
        skipped = sum(one.layers for one in named if isinstance(one, ClipSkip))
        return self._encode(prompts, skipped)

    def prepare(self, request: GenerationRequest) -> None:
        """See ``Denoiser.prepare``."""
        with suppress(Exception):  # ``begin`` fails in the same way, with the picture's ticket
            self.steps_of(request)

    def steps_of(self, request: GenerationRequest) -> Steps:
        """The steps that the request takes."""
        skipped = request.num_inference_steps - request.steps_taken
        first = skipped * self._plans.order(request.scheduler) if skipped else 0
        return self._plans.steps(Run(request.scheduler, request.num_inference_steps, first))

    def begin(self, request: GenerationRequest) -> Denoising:
        """See ``Denoiser.begin``."""
        self._adapters.load(request.adapters)
        denoising = self._begin(request, self.steps_of(request))
        denoising.kind = _kind(request)
        adapters = self._adapters.of(request.adapters, TEXT_ENCODERS)
        skip = (ClipSkip(request.clip_skip),) if request.clip_skip else ()
        denoising.encoders = (*adapters, *skip)
        # As in diffusers, the negative prompt takes all layers.
        denoising.negative_encoders = adapters
        if request.controlnet is not None:
            denoising.control = self._controlnets[request.controlnet.name].look(request)
        return denoising

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """See ``Denoiser.predict``."""
        kind = cast(Kind, lanes[0].denoising.kind)
        self._adapters.use(kind.adapters, ("unet",))
        latents = torch.cat([lane.model_input for lane in lanes]).to(self._dtype)
        timesteps = torch.tensor([lane.denoising.timestep for lane in lanes]).to(self._device)
        conditions: dict[str, Any] = {
            "encoder_hidden_states": torch.stack([lane.conditioning[0] for lane in lanes]),
            "added_cond_kwargs": self._added_conditions(lanes),
        }
        residuals = {}
        if kind.controlnet is not None:
            controlnet = self._controlnets[kind.controlnet]
            residuals = controlnet.residuals(lanes, latents, timesteps, conditions)
        arguments = Pass(
            latents,
            timesteps,
            conditions["encoder_hidden_states"],
            conditions["added_cond_kwargs"],
        )
        return self._graphs.run(
            self._pipeline.unet, arguments, residuals, is_adapted=bool(kind.adapters)
        )

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See ``Denoiser.decode``."""
        vae, stream = self._pipeline.vae, self._decode_stream
        if stream is not None:
            # Steps continue meanwhile and must not reuse the memory of these latents.
            stream.wait_stream(torch.cuda.current_stream(self._device))
            latents.record_stream(stream)
        with torch.cuda.stream(stream):
            unscaled = self._unscaled(latents.to(vae.dtype))
            image: torch.Tensor = vae.decode(unscaled, return_dict=False)[0]
        return image

    def finish(self, image: torch.Tensor) -> Image.Image:
        """See ``Denoiser.finish``."""
        with torch.inference_mode(), torch.cuda.stream(self._decode_stream):
            check_finite(image)
            return self._to_picture(image)

    def _encode(self, prompts: Sequence[str], clip_skip: int) -> list[Conditioning]:
        """By the text encoders as they are now, without their last ``clip_skip`` layers."""
        if clip_skip:
            return rows(self._skipped(prompts, clip_skip))
        embeddings, _ = self._pipeline.encode_prompt(list(prompts), self._device, 1, False)
        return rows(embeddings)

    def _skipped(self, prompts: Sequence[str], clip_skip: int) -> torch.Tensor:
        """What ``encode_prompt(clip_skip=...)`` computes under transformers 4.

        diffusers 0.42 reads ``text_model.final_layer_norm``; a ``CLIPTextModel`` of transformers 5
        has no ``text_model``.
        """
        tokenizer, encoder = self._pipeline.tokenizer, self._pipeline.text_encoder
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        states = encoder(
            tokens.input_ids,
            attention_mask=tokens.attention_mask if uses_mask else None,
            output_hidden_states=True,
        ).hidden_states
        embeddings: torch.Tensor = encoder.final_layer_norm(states[-(clip_skip + 1)])
        return embeddings.to(encoder.dtype)

    def _make_room(self) -> None:
        """Move the UNet and the VAE off the GPU before the text encoders return to it.

        diffusers' hooks offload each part when the next one runs, and the rest at the end of a
        picture. In the step loop pictures do not end together, so those hooks do not suffice.
        """
        if self._offload == "model":
            self._pipeline.unet.to("cpu")
            self._pipeline.vae.to("cpu")

    def _begin(self, request: GenerationRequest, steps: Steps) -> Denoising:
        if request.image is not None:
            is_whole = request.mask_image is None
            begin = begin_image_to_image if is_whole else begin_inpainting
            return begin(request, steps, self._pipeline, self._image_encoder)
        scale = self._pipeline.vae_scale_factor
        channels = self._pipeline.unet.config.in_channels
        shape = (1, channels, request.height // scale, request.width // scale)
        generator = generator_for(request)
        noise = randn_tensor(shape, generator, self._device, self._dtype)
        return Denoising.from_noise(steps, noise, generator)

    def _added_conditions(self, lanes: Sequence[Lane]) -> dict[str, torch.Tensor] | None:
        return None

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled: torch.Tensor = latents / self._pipeline.vae.config.scaling_factor
        return unscaled

    def _to_picture(self, image: torch.Tensor) -> Image.Image:
        picture: Image.Image = self._pipeline.image_processor.postprocess(image, "pil")[0]
        return picture


def _kind(request: GenerationRequest) -> Kind:
    """Return the kind of a request; requests of equal kind share forward passes."""
    controlnet = request.controlnet.name if request.controlnet else None
    return Kind(adapters=request.adapters, controlnet=controlnet)


def rows(*batches: torch.Tensor) -> list[Conditioning]:
    """Split batches by prompt into copies; a view would keep the whole batch in memory."""
    return [tuple(row.clone() for row in rows) for rows in zip(*batches, strict=True)]
