"""What the step loop shares between flow-matching transformers: Stable Diffusion 3 and FLUX.

Rectified flow (Liu et al., arXiv:2209.03003) starts from plain noise. Some schedulers shift its
noise levels with the number of image tokens (Esser et al., arXiv:2403.03206, section 5.3.2), so
that a plan depends on the size of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from predictor.engine.denoising import Steps
from predictor.pipelines.cuda_graphs import Pass
from predictor.pipelines.padded_tokens import PaddedTokens
from predictor.pipelines.plans import Run
from predictor.pipelines.signature import parameters
from predictor.pipelines.stable_diffusion import Kind, StableDiffusionDenoiser
from predictor.pipelines.token_ids import TokenIds
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.interfaces import Lane

# The number of tokens of the smallest and the largest picture in training, in diffusers' pipelines.
_LEAST_TOKENS, _MOST_TOKENS = 256, 4096
_LEAST_SHIFT = 0.5


class TransformerPass(Pass):
    """A pass of a transformer; ``added`` and ``positions`` have the names of its arguments."""

    @property
    def sample(self) -> torch.Tensor:
        """The latents as the transformer takes them, with the same numbers in the same order."""
        return self.latents

    def run(self, network: Any, residuals: Mapping[str, Any] | None = None) -> torch.Tensor:
        """See ``Pass.run``; the prediction has the shape of the latents."""
        prediction: torch.Tensor = network(
            hidden_states=self.sample,
            timestep=self.timesteps,
            encoder_hidden_states=self.hidden_states,
            **(self.added or {}),
            **(self.positions or {}),
            **(residuals or {}),
            return_dict=False,
        )[0]
        return prediction.reshape_as(self.latents)


class FlowMatchingDenoiser(StableDiffusionDenoiser):
    """The base of the denoisers of flow-matching transformers.

    ``most_shift`` applies to the largest picture, unless the scheduler's configuration sets it. The
    last of ``tokenizers`` is that of T5.
    """

    network = "transformer"
    most_shift: ClassVar[float]
    tokenizers: ClassVar[tuple[str, ...]]

    def __init__(self, loaded: DiffusersPipeline) -> None:
        super().__init__(loaded)
        own = parameters(self._pipeline)["max_sequence_length"].default
        self._t5_tokens: int = loaded.profile.max_sequence_length or own
        self._padded = {
            name: PaddedTokens(tokenizer, self._window(name), self._device)
            for name in self.tokenizers
            if (tokenizer := getattr(self._pipeline, name, None)) is not None
        }
        self._scheduler_config: Any = self._pipeline.scheduler.config

    def prepare_prompts(self, request: GenerationRequest) -> None:
        """See ``StableDiffusionDenoiser.prepare_prompts``."""
        for tokens in self._padded.values():
            tokens.prepare(request.prompt)
            tokens.prepare(request.negative_prompt)

    def _clip_token_ids(self) -> dict[str, TokenIds]:
        return {}  # see ``_padded``

    def _window(self, tokenizer: str) -> int:
        """The number of tokens of a prompt."""
        is_t5 = tokenizer == self.tokenizers[-1]
        return self._t5_tokens if is_t5 else int(self._pipeline.tokenizer_max_length)

    def steps_of(self, request: GenerationRequest) -> Steps:
        """See ``StableDiffusionDenoiser.steps_of``."""
        return self._plans.steps(self._run(request))

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """See ``Denoiser.predict``."""
        kind = cast(Kind, lanes[0].denoising.kind)
        self._adapters.use(kind.adapters, (self.network,))
        latents = torch.cat([lane.model_input for lane in lanes]).to(self._dtype)
        return self._graphs.run(
            self._pipeline.transformer, self._pass(lanes, latents), is_adapted=bool(kind.adapters)
        )

    def _pass(self, lanes: Sequence[Lane], latents: torch.Tensor) -> TransformerPass:
        """The arguments for these latents of all lanes."""
        raise NotImplementedError

    def _run(self, request: GenerationRequest) -> Run:
        """The passes that the request takes; ``strength`` skips the first ones."""
        steps, strength = request.num_inference_steps, request.strength
        # Rounded as in diffusers, unlike the steps of a UNet.
        skipped = 0 if strength is None else int(max(steps - min(steps * strength, steps), 0))
        first = skipped * self._plans.order(request.scheduler) if skipped else 0
        return Run(request.scheduler, steps, first, mu=self._mu(request))

    def _mu(self, request: GenerationRequest) -> float | None:
        """The logarithm of the shift for the size of the picture; None without such a shift."""
        config = self._scheduler_config
        if not config.get("use_dynamic_shifting"):
            return None
        side = self._pipeline.vae_scale_factor * self._patch_size
        return float(
            calculate_shift(
                (request.height // side) * (request.width // side),
                config.get("base_image_seq_len", _LEAST_TOKENS),
                config.get("max_image_seq_len", _MOST_TOKENS),
                config.get("base_shift", _LEAST_SHIFT),
                config.get("max_shift", self.most_shift),
            )
        )

    @property
    def _patch_size(self) -> int:
        """The side of an image token, in latents."""
        return 2

    def _timesteps(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """``(lanes,)``, on the device."""
        return torch.stack([lane.denoising.device_timestep for lane in lanes])

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        return super()._unscaled(latents) + (self._pipeline.vae.config.shift_factor or 0.0)
