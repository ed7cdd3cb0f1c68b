"""What a request may ask for: every bound, each refusal naming field, value and bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from predictor.errors import InvalidRequestError
from predictor.requests import Adapter, ControlNetInput, GenerationRequest, ModelProfile
from predictor.settings import Settings

MIN_SIDE = 64
# Seeds stay exact in a JSON parser that reads numbers as doubles (RFC 8259, section 6).
MAX_SEED = 2**53 - 1
# 1 is what a ControlNet was trained at; far above 2 pictures fall apart.
MAX_CONTROLNET_SCALE = 10
# Either way: a negative scale takes away what the adapter adds. Pictures break up far below it.
MAX_ADAPTER_SCALE = 5


@dataclass(frozen=True)
class Limits:
    """The bounds of one model under the operator's settings."""

    settings: Settings
    profile: ModelProfile

    def check_used(self, given: Mapping[str, Any]) -> None:
        """Refuse a field that the caller set, and that this model could not follow.

        The value that it has anyway may be given.

        Raises:
            InvalidRequestError: names the field and says why.
        """
        anyway = {"negative_prompt": ""} | asdict(self.profile.defaults)
        for field, reason in self.profile.unused_fields.items():
            if field in given and given[field] != anyway.get(field):
                raise InvalidRequestError(field, reason)

    def check(self, request: GenerationRequest) -> None:
        """Refuse what lies out of bounds.

        Raises:
            InvalidRequestError: for the first field that does.
        """
        self._check_prompts(request)
        self.check_size(request.width, request.height)
        _check_range(
            "num_inference_steps",
            request.num_inference_steps,
            1,
            self.settings.max_num_inference_steps,
        )
        _check_range("guidance_scale", request.guidance_scale, 0, self.settings.max_guidance_scale)
        _check_range("seed", request.seed, 0, MAX_SEED)
        self._check_scheduler(request.scheduler, request.num_inference_steps)
        self._check_task(request)
        self._check_adapters(request.adapters)
        self._check_controlnet(request.controlnet)
        self._check_refiner(request)

    def check_image_count(self, count: int) -> None:
        """Refuse more pictures in one request than ``max_images_per_request``."""
        most = self.settings.max_images_per_request
        if count > most:
            raise InvalidRequestError(
                "num_images_per_prompt", f"{count} pictures in one request, at most {most}"
            )

    def check_size(self, width: int, height: int) -> None:
        """Refuse a size in pixels that the model or the settings do not allow."""
        self.check_side("width", width)
        self.check_side("height", height)
        pixels = width * height
        if pixels > self.settings.max_pixels:
            raise InvalidRequestError(
                "width x height",
                f"{width} x {height} is {pixels} pixels, at most {self.settings.max_pixels}",
            )

    def _check_prompts(self, request: GenerationRequest) -> None:
        if not request.prompt.strip():
            raise InvalidRequestError("prompt", "is empty")
        most = self.settings.max_prompt_length
        for field in ("prompt", "negative_prompt"):
            length = len(getattr(request, field))
            if length > most:
                raise InvalidRequestError(field, f"{length} characters, at most {most}")

    def check_side(self, field: str, value: int) -> None:
        """Refuse a width or height in pixels, as ``field`` says, out of bounds by itself."""
        _check_range(field, value, MIN_SIDE, self.settings.max_side)
        multiple = self.profile.size_multiple
        if value % multiple:
            below = value - value % multiple
            raise InvalidRequestError(
                field,
                f"{value} is not a multiple of {multiple}; the nearest are {below} "
                f"and {below + multiple}",
            )

    def _check_scheduler(self, name: str, steps: int) -> None:
        if name not in self.profile.schedulers:
            known = ", ".join(self.profile.schedulers)
            raise InvalidRequestError("scheduler", f"{name!r} is not one of {known}")
        most = self.profile.most_steps.get(name, steps)
        if steps > most:
            raise InvalidRequestError(
                "num_inference_steps", f"{steps} is more than the {most} of the scheduler {name!r}"
            )

    def _check_task(self, request: GenerationRequest) -> None:
        if request.image is None:
            for field in ("mask_image", "strength"):
                if getattr(request, field) is not None:
                    raise InvalidRequestError(field, "is of no use without image")
        tasks = self.profile.tasks
        if request.task not in tasks:
            # The field that is one too many, or else the one that is missing.
            mask_decides = request.mask_image is not None or (
                request.image is not None and tasks == ("inpainting",)
            )
            raise InvalidRequestError(
                "mask_image" if mask_decides else "image",
                f"{request.task} is not what this model does, but {', '.join(tasks)}",
            )
        if request.strength is not None:
            _check_range("strength", request.strength, 0, 1)
        if request.steps_taken < 1:
            steps = request.num_inference_steps
            least = math.ceil(1000 / steps) / 1000
            raise InvalidRequestError(
                "strength", f"{request.strength} of {steps} steps leaves none; at least {least}"
            )

    def _check_adapters(self, adapters: tuple[Adapter, ...]) -> None:
        for index, adapter in enumerate(adapters):
            where = f"adapters[{index}]"
            self._check_name(f"{where}.name", adapter.name, self.profile.adapters)
            if adapter.name in {other.name for other in adapters[:index]}:
                raise InvalidRequestError(f"{where}.name", f"{adapter.name!r} is given twice")
            _check_range(f"{where}.scale", adapter.scale, -MAX_ADAPTER_SCALE, MAX_ADAPTER_SCALE)

    def _check_controlnet(self, controlnet: ControlNetInput | None) -> None:
        if controlnet is not None:
            self._check_name("controlnet.name", controlnet.name, self.profile.controlnets)
            _check_range("controlnet.scale", controlnet.scale, 0, MAX_CONTROLNET_SCALE)

    def _check_name(self, field: str, name: str, there: tuple[str, ...]) -> None:
        if name not in there:
            known = f"there are {', '.join(there)}" if there else "there are none beside the model"
            raise InvalidRequestError(field, f"{name!r} is not known; {known}")

    def _check_refiner(self, request: GenerationRequest) -> None:
        end = request.denoising_end
        if end is None:
            return
        if not self.profile.has_refiner:
            raise InvalidRequestError("denoising_end", "there is no refiner beside the model")
        # Diffusers takes 0 for 1. Written so that NaN is refused.
        if not 0 < end <= 1:
            raise InvalidRequestError("denoising_end", f"{end} is not above 0 and at most 1")
        if request.mask_image is not None and end != 1:
            raise InvalidRequestError(
                "denoising_end", f"{end}, and no refiner goes on with inpainting: leave it out"
            )


def _check_range(field: str, value: float, least: float, most: float) -> None:
    # Written so that NaN, which compares false with everything, is refused.
    if not least <= value <= most:
        raise InvalidRequestError(field, f"{value} is not between {least} and {most}")
