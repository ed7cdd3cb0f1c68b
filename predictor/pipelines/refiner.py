"""SDXL's base and refiner as an ensemble of expert denoisers (eDiff-I, arXiv 2211.01324).

The result matches diffusers' two pipelines run in sequence: the base with ``denoising_end=x`` and
``output_type="latent"``, then the refiner with ``denoising_start=x`` and the base's latents. Both
use the same number of steps and share one generator.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import torch

from predictor.engine.denoising import Denoising, Steps
from predictor.pipelines.plans import Plans, Run
from predictor.pipelines.stable_diffusion import (
    Kind,
    StableDiffusionDenoiser,
    WeightedPrompts,
)
from predictor.pipelines.stable_diffusion_xl import StableDiffusionXLDenoiser
from predictor.pipelines.whole import DiffusersPipeline
from predictor.requests import GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.interfaces import Conditioning, Lane

KIND = Kind(expert="refiner")
ENCODERS = "refiner"

# Aesthetic scores from 0 to 10 that condition the refiner; diffusers' defaults.
_AESTHETIC_SCORE = 6.0
_NEGATIVE_AESTHETIC_SCORE = 2.5


class Refiner(StableDiffusionXLDenoiser):
    """The parts of ``StableDiffusionXLImg2ImgPipeline`` that continue from latents."""

    def __init__(self, loaded: DiffusersPipeline, base: DiffusersPipeline) -> None:
        super().__init__(loaded)
        # The base's adapters, so that a shared text encoder runs without them for the refiner.
        self._adapters = base.adapters
        base_scheduler: Any = base.diffusers.scheduler
        # Base and refiner must use the same noise levels.
        self._plans = Plans(
            type(base_scheduler).from_config(
                base_scheduler.config,
                prediction_type=self._pipeline.scheduler.config.get("prediction_type", "epsilon"),
            )
        )
        self._most_timesteps: int = base_scheduler.config.num_train_timesteps

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        """See ``Denoiser.encode``; uses only the second text encoder."""
        weighted = [one for one in _parts(encoders) if isinstance(one, WeightedPrompts)]
        return super().encode(prompts, tuple(weighted))

    def join(self, begun: Denoising, request: GenerationRequest) -> None:
        """Take over the steps of ``begun`` after ``denoising_end``: none, some or all of them."""
        rest = self._rest(begun.timesteps, request)
        if rest == 0:
            return
        chunks = self.chunks_of(request)
        refining = Denoising(
            self._last_steps(rest, request),
            begun.latents,
            begun.generator,
            kind=KIND._replace(chunks=chunks or 1),
            encoders=(ENCODERS, WeightedPrompts(chunks)) if chunks else ENCODERS,
            weights_dtype=begun.weights_dtype,
        )
        begun.hand_over_after(begun.steps - rest, refining)

    def prepare_after(self, timesteps: torch.Tensor, request: GenerationRequest) -> None:
        """Compute in advance what ``join`` needs after a base with these timesteps."""
        rest = self._rest(timesteps, request)
        if rest:
            self._last_steps(rest, request)

    def _rest(self, timesteps: torch.Tensor, request: GenerationRequest) -> int:
        """How many of the base's passes the refiner takes over."""
        assert request.denoising_end is not None
        return int((timesteps < _cutoff(self._most_timesteps, request.denoising_end)).sum())

    def _last_steps(self, rest: int, request: GenerationRequest) -> Steps:
        if self._plans.order(request.scheduler) == 2 and rest % 2 == 0:
            # Do not split a step of two passes between base and refiner.
            rest += 1
        run = Run(request.scheduler, request.num_inference_steps)
        start = len(self._plans.steps(run).timesteps) - rest
        return self._plans.steps(run._replace(first=start))

    def _time_ids(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """Original size, crop and aesthetic score; a negative lane has the low score."""
        if not self._pipeline.config.requires_aesthetics_score:
            return super()._time_ids(lanes)
        cropped = self._sizes(lanes)[:4]
        scores = {True: _NEGATIVE_AESTHETIC_SCORE, False: _AESTHETIC_SCORE}
        ids = [self._uploaded_ids((*cropped, scores[lane.is_negative])) for lane in lanes]
        return self._stacked.of("time ids", ids)


class RefinedDenoiser:
    """A ``Denoiser`` that runs the base first and the refiner for the last steps of a picture."""

    guidance_is_input = False

    def __init__(self, base: StableDiffusionDenoiser, refiner: Refiner) -> None:
        self._base = base
        self._refiner = refiner
        self.decode = base.decode
        self.finish = base.finish
        self.warnings = base.warnings

    def encode(self, prompts: Sequence[str], encoders: Hashable = ()) -> list[Conditioning]:
        """See ``Denoiser.encode``."""
        expert = self._refiner if ENCODERS in _parts(encoders) else self._base
        return expert.encode(prompts, encoders)

    def prepare(self, request: GenerationRequest) -> None:
        """See ``Denoiser.prepare``."""
        self._base.prepare(request)
        if _is_refined(request):
            with suppress(Exception):  # ``begin`` fails in the same way
                self._refiner.prepare_after(self._base.steps_of(request).timesteps, request)
                self._refiner.prepare_prompts(request)

    def begin(self, request: GenerationRequest) -> Denoising:
        """See ``Denoiser.begin``."""
        begun = self._base.begin(request)
        if _is_refined(request):
            self._refiner.join(begun, request)
        return begun

    def predict(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """See ``Denoiser.predict``."""
        kind = cast(Kind, lanes[0].denoising.kind)
        expert = self._refiner if kind.expert == KIND.expert else self._base
        return expert.predict(lanes)


def _parts(encoders: Hashable) -> tuple[object, ...]:
    return encoders if isinstance(encoders, tuple) else (encoders,)


def _is_refined(request: GenerationRequest) -> bool:
    return request.denoising_end is not None and request.denoising_end < 1


def _cutoff(most_timesteps: int, denoising_end: float) -> int:
    """Return the last timestep of the base, computed as in diffusers; the refiner runs the rest."""
    return round(most_timesteps - denoising_end * most_timesteps)
