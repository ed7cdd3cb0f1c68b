"""Stable Diffusion split into the operations that the engine calls step by step.

Together they match ``__call__`` of diffusers' pipeline; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import torch
from PIL import Image

from predictor.engine.denoising import Denoising, Steps
from predictor.engine.inbox import lanes_of
from predictor.errors import InvalidRequestError
from predictor.pipelines.cuda_graphs import Pass
from predictor.pipelines.decoder import DecodedPicture, Decoder, picture_of
from predictor.pipelines.image_encoder import ImageEncoder
from predictor.pipelines.image_to_image import ImageStarts, Start
from predictor.pipelines.initial_noise import InitialNoise
from predictor.pipelines.plans import Plans, Run
from predictor.pipelines.stacked_rows import StackedRows
from predictor.pipelines.token_ids import TokenIds
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import Adapter, GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane


class Kind(NamedTuple):
    """The UNet, LoRAs and ControlNet of a request, and the length of its prompts."""

    expert: str = "base"
    adapters: tuple[Adapter, ...] = ()
    controlnet: str | None = None
    chunks: int = 1


class ClipSkip(NamedTuple):
    """Among the ``encoders`` of a prompt: how many of their last layers it skips."""

    layers: int


# Not a tuple, which would equal a ``ClipSkip``.
@dataclass(frozen=True)
class WeightedPrompts:
    """Among the ``encoders`` of a prompt: it has the weighted syntax, and that many chunks."""

    chunks: int


# A prompt of ``max_prompt_length`` in English. Each chunk adds to the time of a step.
MAX_CHUNKS = 16
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")


class StableDiffusionDenoiser:
    """A ``Denoiser`` over ``StableDiffusionPipeline``: one text encoder.

    Those of other families derive from it. ``network`` names the component of the pipeline that
    runs at every step.
    """

    network: ClassVar = "unet"
    guidance_is_input = False

    def __init__(self, loaded: DiffusersPipeline) -> None:
        self.warnings = loaded.warnings
        self._pipeline: Any = loaded.diffusers
        self._adapters = loaded.adapters
        self._controlnets = loaded.controlnets
        self._embeddings = loaded.embeddings
        self._graphs = loaded.graphs
        self._device = loaded.device
        self._offload = loaded.tuning.savings.offload
        self._dtype: torch.dtype = getattr(self._pipeline, self.network).dtype
        self._plans = Plans(self._pipeline.scheduler)
        self._token_ids = self._clip_token_ids()
        encoder = ImageEncoder(self._pipeline, self._device, self._dtype)
        self._image_starts = ImageStarts(self._pipeline, encoder)
        self._stacked = StackedRows()
        self._initial_noise = InitialNoise(self._device, self._dtype)
        # Under offloading there is not enough memory to decode while steps run.
        self._decoder = Decoder(self._device, has_stream=self._offload == "none")

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        """See ``Denoiser.encode``; ``encoders`` holds adapters of the text encoders, and may end
        with a ``ClipSkip`` and ``WeightedPrompts``.
        """
        self._make_room()
        named = cast("tuple[Adapter | ClipSkip | WeightedPrompts, ...]", encoders)
        self._adapters.use([one for one in named if isinstance(one, Adapter)], TEXT_ENCODERS)
        skipped = sum(one.layers for one in named if isinstance(one, ClipSkip))
        chunks = sum(one.chunks for one in named if isinstance(one, WeightedPrompts))
        return self._encode(prompts, skipped, chunks)

    def prepare(self, request: GenerationRequest) -> None:
        """See ``Denoiser.prepare``."""
        self._embeddings.check((request.prompt, request.negative_prompt))
        self.chunks_of(request)
        with suppress(Exception):  # ``begin`` fails in the same way, with the picture's ticket
            self.steps_of(request)
            if request.image is None:
                self._initial_noise.prepare(request.seed, self._latent_shape(request))
            else:
                self._image_starts.prepare(request)
            if request.controlnet is not None:
                self._controlnets[request.controlnet.name].prepare(request)
            self.prepare_prompts(request)
            self.warnings(request)

    def prepare_prompts(self, request: GenerationRequest) -> None:
        """Compute in advance what ``encode`` needs of the prompts."""
        for tokens in self._token_ids.values():
            tokens.prepare(request.prompt, is_weighted=request.is_weighted)
            tokens.prepare(request.negative_prompt, is_weighted=request.is_weighted)

    def chunks_of(self, request: GenerationRequest) -> int:
        """The chunks of the longer prompt, which the other one is padded to; 0 for plain prompts.

        Raises:
            InvalidRequestError: a prompt takes more than ``MAX_CHUNKS``.
        """
        if not request.is_weighted:
            return 0
        fields = {"prompt": request.prompt}
        if lanes_of(request.guidance_scale) > 1:
            fields["negative_prompt"] = request.negative_prompt
        return max(
            _checked_chunks(field, tokens, text)
            for field, text in fields.items()
            for tokens in self._token_ids.values()
        )

    def steps_of(self, request: GenerationRequest) -> Steps:
        """The steps that the request takes."""
        skipped = request.num_inference_steps - request.steps_taken
        first = skipped * self._plans.order(request.scheduler) if skipped else 0
        return self._plans.steps(Run(request.scheduler, request.num_inference_steps, first))

    def begin(self, request: GenerationRequest) -> Denoising:
        """See ``Denoiser.begin``."""
        self._adapters.load(request.adapters)
        adapters = self._adapters.of(request.adapters, TEXT_ENCODERS)
        skip = (ClipSkip(request.clip_skip),) if request.clip_skip else ()
        chunks = self.chunks_of(request)
        weighted = (WeightedPrompts(chunks),) if chunks else ()
        # The plain encoding of an empty prompt is always in the cache.
        is_cached = chunks == 1 and not request.negative_prompt
        steps = self.steps_of(request)
        start = self._start(request, steps)
        control = request.controlnet
        return Denoising(
            steps,
            start.latents,
            start.generator,
            kind=_kind(request, chunks or 1),
            encoders=(*adapters, *skip, *weighted),
            # As in diffusers, the negative prompt takes all layers.
            negative_encoders=adapters if is_cached else (*adapters, *weighted),
            control=self._controlnets[control.name].look(request) if control else None,
            extra_channels=start.extra_channels,
            inpainting=start.inpainting,
            network_timesteps=self._network_timesteps(steps.timesteps),
            guidance_input=self._guidance_input(request),
        )

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """See ``Denoiser.predict``."""
        kind = cast(Kind, lanes[0].denoising.kind)
        self._adapters.use(kind.adapters, ("unet",))
        latents = torch.cat([lane.model_input for lane in lanes]).to(self._dtype)
        timesteps = torch.stack([lane.denoising.device_timestep for lane in lanes])
        conditions: dict[str, Any] = {
            "encoder_hidden_states": self._condition(0, lanes),
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

    def decode(self, latents: torch.Tensor) -> list[DecodedPicture]:
        """See ``Denoiser.decode``."""
        return self._decoder.decode(latents, self._decoded)

    def finish(self, decoded: DecodedPicture) -> Image.Image:
        """See ``Denoiser.finish``."""
        return picture_of(decoded)

    def _clip_token_ids(self) -> dict[str, TokenIds]:
        """The token ids of each tokenizer, if all text encoders are CLIP's."""
        return {
            name: TokenIds(tokenizer, self._device)
            for name in TOKENIZERS
            if (tokenizer := getattr(self._pipeline, name, None)) is not None
        }

    def _encode(self, prompts: Sequence[str], clip_skip: int, chunks: int) -> list[Conditioning]:
        """By the text encoders as they are now, without their last ``clip_skip`` layers.

        Weighted prompts have that many ``chunks``, plain ones 0. As ``encode_prompt`` does, but
        from token ids that do not wait for a copy. ``encode_prompt`` of diffusers 0.42 also cannot
        skip layers of a ``CLIPTextModel`` of transformers 5.
        """
        encoder = self._pipeline.text_encoder
        tokens = self._token_ids["tokenizer"].batch(prompts, chunks)
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        output = encoder(
            tokens.ids,
            attention_mask=tokens.mask if uses_mask else None,
            output_hidden_states=bool(clip_skip),
        )
        embeddings: torch.Tensor = output[0]
        if clip_skip:
            embeddings = encoder.final_layer_norm(output.hidden_states[-(clip_skip + 1)])
        return rows(tokens.joined(embeddings).to(encoder.dtype))

    def _make_room(self) -> None:
        """Move the network and the VAE off the GPU before the text encoders return to it.

        diffusers' hooks offload each part when the next one runs, and the rest at the end of a
        picture. In the step loop pictures do not end together, so those hooks do not suffice.
        """
        if self._offload == "model":
            getattr(self._pipeline, self.network).to("cpu")
            self._pipeline.vae.to("cpu")

    def _start(self, request: GenerationRequest, steps: Steps) -> Start:
        if request.image is not None:
            return self._image_starts.begin(request, steps)
        generator, noise = self._initial_noise.take(request.seed, self._latent_shape(request))
        return Start(noise * steps.init_noise_sigma, generator)

    def _latent_shape(self, request: GenerationRequest) -> tuple[int, ...]:
        scale = self._pipeline.vae_scale_factor
        channels = self._pipeline.vae.config.latent_channels
        return (1, channels, request.height // scale, request.width // scale)

    def _network_timesteps(self, timesteps: torch.Tensor) -> torch.Tensor | None:
        """See ``Denoising``."""
        return None

    def _guidance_input(self, request: GenerationRequest) -> torch.Tensor | None:
        """See ``Denoising``."""
        return None

    def _condition(self, index: int, lanes: Sequence[Lane]) -> torch.Tensor:
        """That tensor of the conditioning, with one row for each lane."""
        return self._stacked.of(f"condition {index}", [lane.conditioning[index] for lane in lanes])

    def _added_conditions(self, lanes: Sequence[Lane]) -> dict[str, torch.Tensor] | None:
        return None

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        unscaled: torch.Tensor = latents / self._pipeline.vae.config.scaling_factor
        return unscaled

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """``(pictures, 3, height, width)`` from -1 to 1."""
        vae = self._pipeline.vae
        image: torch.Tensor = vae.decode(self._unscaled(latents.to(vae.dtype)), return_dict=False)[
            0
        ]
        return image


def _kind(request: GenerationRequest, chunks: int) -> Kind:
    """Return the kind of a request; requests of equal kind share forward passes."""
    controlnet = request.controlnet.name if request.controlnet else None
    return Kind(adapters=request.adapters, controlnet=controlnet, chunks=chunks)


def _checked_chunks(field: str, tokens: TokenIds, text: str) -> int:
    chunks = tokens.count(text)
    if chunks > MAX_CHUNKS:
        reason = f"takes {chunks} chunks of {tokens.tokens_per_chunk} tokens, at most {MAX_CHUNKS}"
        raise InvalidRequestError(field, reason)
    return chunks


def rows(*batches: torch.Tensor) -> list[Conditioning]:
    """Split batches by prompt into copies; a view would keep the whole batch in memory."""
    return [tuple(row.clone() for row in rows) for rows in zip(*batches, strict=True)]
