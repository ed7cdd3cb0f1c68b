"""Checks a request against its bounds; each error names the field, the value and the bound."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from predictor.errors import InvalidRequestError
from predictor.requests.fields import FIELDS, MAX_SEED, Bounds, RequestField
from predictor.requests.generation import GenerationRequest, steps_taken, task_of
from predictor.requests.model_profile import ModelProfile
from predictor.requests.prompt_syntax import sections
from predictor.requests.sampler_names import nearest_schedulers
from predictor.requests.validation import shortened
from predictor.settings import Settings

# ControlNets are trained at 1; far above 2 pictures fall apart.
MAX_CONTROLNET_SCALE = 10
# A negative scale removes what the adapter adds. Pictures break up long before -5 and 5.
MAX_ADAPTER_SCALE = 5
# Of a word in a prompt, in either direction; pictures break up above 2.
MAX_WEIGHT = 10


@dataclass(frozen=True)
class CallLimits:
    """The bounds of a whole call, which do not depend on the model."""

    settings: Settings

    def check_image_count(self, count: int) -> None:
        """Refuse more pictures in one call than ``max_images_per_request``.

        Raises:
            InvalidRequestError: names ``num_images_per_prompt``.
        """
        most = self.settings.max_images_per_request
        if count > most:
            raise InvalidRequestError(
                "num_images_per_prompt", f"{count} pictures in one request, at most {most}"
            )


@dataclass(frozen=True)
class Limits(CallLimits):
    """The bounds of one model under the operator's settings."""

    profile: ModelProfile

    def check(self, request: GenerationRequest) -> None:
        """Refuse a request of the server itself that is out of bounds.

        Raises:
            InvalidRequestError: names the first such field.
        """
        self.check_values(request.parameters())

    def check_values(self, values: Mapping[str, Any], given: Container[str] = ()) -> None:
        """Refuse effective field values that are out of bounds.

        Fields in ``given`` are checked first, so that the error names a field that the caller set
        rather than one that follows from it.

        Raises:
            InvalidRequestError: names the first such field.
        """
        self._check_task(values)
        for field in sorted(FIELDS, key=lambda field: field.name not in given):
            if field.name in values:
                self._check_field(field, values)
        self._check_weights(values)
        self._check_rescale(values)
        self._check_true_cfg(values)
        self._check_pixels(values["width"], values["height"])
        self._check_last_seed(values["seed"], values.get("num_images_per_prompt", 1))
        self._check_steps(values)
        self._check_adapters(values.get("adapters", ()))
        self._check_controlnet(values.get("controlnet"))
        self._check_refiner(values)

    def bounds_of(self, field: RequestField) -> Bounds | None:
        """The bounds of a field; None if it has none."""
        return field.bounds(self.settings, self.profile) if field.bounds else None

    def _check_field(self, field: RequestField, values: Mapping[str, Any]) -> None:
        value = values[field.name]
        self._check_support(field, values)
        if field.choices and value not in (known := field.choices(self.profile)):
            nearest = nearest_schedulers(value, known)
            advice = f"; nearest: {', '.join(nearest)}" if nearest else ""
            raise InvalidRequestError(
                field.name, f"{shortened(value)} is not one of {', '.join(known)}{advice}"
            )
        bounds = self.bounds_of(field)
        if bounds and isinstance(value, str):
            _check_length(field.name, value, bounds)
        elif bounds:
            _check_number(field.name, value, bounds)

    def _check_support(self, field: RequestField, values: Mapping[str, Any]) -> None:
        value, reason = values[field.name], field.reason_against(self.profile)
        if reason is None or (field.name == "negative_prompt" and _has_true_cfg(values)):
            return
        # A caller may send the value that an unused field has anyway.
        anyway = {"negative_prompt": "", "prompt_syntax": "plain"} | asdict(self.profile.defaults)
        if value == anyway.get(field.name):
            return
        raise InvalidRequestError(field.name, reason)

    def _check_task(self, values: Mapping[str, Any]) -> None:
        has_image, has_mask = "image" in values, "mask_image" in values
        for field in ("mask_image", "strength"):
            if field in values and not has_image:
                raise InvalidRequestError(field, "requires `image`")
        task, tasks = task_of(has_image=has_image, has_mask=has_mask), self.profile.tasks
        if task not in tasks:
            # Name the field that the model does not support, or else the missing one.
            mask_decides = has_mask or (has_image and tasks == ("inpainting",))
            raise InvalidRequestError(
                "mask_image" if mask_decides else "image",
                f"this model does not support {task}; it supports {', '.join(tasks)}",
            )

    def _check_weights(self, values: Mapping[str, Any]) -> None:
        if values.get("prompt_syntax") != "weighted":
            return
        for field in ("prompt", "negative_prompt"):
            for part in (part for section in sections(values[field]) for part in section):
                # Written so that NaN is refused.
                if not abs(part.weight) <= MAX_WEIGHT:
                    raise InvalidRequestError(
                        field,
                        f"the weight {part.weight:g} of {shortened(part.text)} is not between "
                        f"-{MAX_WEIGHT} and {MAX_WEIGHT}",
                    )

    def _check_rescale(self, values: Mapping[str, Any]) -> None:
        task = task_of(has_image="image" in values, has_mask="mask_image" in values)
        tasks = self.profile.rescaled_tasks
        if "guidance_rescale" in values and task not in tasks:
            raise InvalidRequestError(
                "guidance_rescale", f"not for {task}; this model supports it for {', '.join(tasks)}"
            )

    def _check_true_cfg(self, values: Mapping[str, Any]) -> None:
        if _has_true_cfg(values) and not values["negative_prompt"]:
            raise InvalidRequestError("true_cfg_scale", "requires `negative_prompt`")

    def _check_pixels(self, width: int, height: int) -> None:
        pixels = width * height
        if pixels > self.settings.max_pixels:
            raise InvalidRequestError(
                "width x height",
                f"{width} x {height} is {pixels} pixels, at most {self.settings.max_pixels}",
            )

    def _check_last_seed(self, seed: int, pictures: int) -> None:
        """Check the last seed: each further picture takes the next one."""
        _check_number("seed", seed + pictures - 1, Bounds(0, MAX_SEED))

    def _check_steps(self, values: Mapping[str, Any]) -> None:
        steps, strength = values["num_inference_steps"], values.get("strength")
        scheduler = values["scheduler"]
        most = self.profile.most_steps.get(scheduler, steps)
        if steps > most:
            raise InvalidRequestError(
                "num_inference_steps", f"{steps} exceeds the {most} of the scheduler {scheduler}"
            )
        if steps_taken(steps, strength) < 1:
            least = math.ceil(1000 / steps) / 1000
            raise InvalidRequestError(
                "strength", f"{strength} of {steps} steps leaves none; at least {least}"
            )

    def _check_adapters(self, adapters: Sequence[Mapping[str, Any]]) -> None:
        bounds = Bounds(-MAX_ADAPTER_SCALE, MAX_ADAPTER_SCALE)
        names = [adapter["name"] for adapter in adapters]
        for index, adapter in enumerate(adapters):
            where, name = f"adapters[{index}]", adapter["name"]
            _check_name(f"{where}.name", name, self.profile.adapters)
            if name in names[:index]:
                raise InvalidRequestError(f"{where}.name", f"{shortened(name)} is given twice")
            _check_number(f"{where}.scale", adapter["scale"], bounds)

    def _check_controlnet(self, controlnet: Mapping[str, Any] | None) -> None:
        if controlnet is not None:
            _check_name("controlnet.name", controlnet["name"], self.profile.controlnets)
            bounds = Bounds(0, MAX_CONTROLNET_SCALE)
            _check_number("controlnet.scale", controlnet["scale"], bounds)

    def _check_refiner(self, values: Mapping[str, Any]) -> None:
        end = values.get("denoising_end", 1)
        if "mask_image" in values and end != 1:
            raise InvalidRequestError(
                "denoising_end",
                f"{end} is not possible with `mask_image`: the refiner does not support "
                "inpainting; omit it",
            )


def _has_true_cfg(values: Mapping[str, Any]) -> bool:
    return bool(values.get("true_cfg_scale", 1) > 1)


def _check_number(field: str, value: float, bounds: Bounds) -> None:
    shown = shortened(value)
    # Written so that NaN, which compares false with everything, is refused.
    if bounds.is_open and not bounds.least < value <= bounds.most:
        raise InvalidRequestError(
            field, f"{shown} is not above {bounds.least} and at most {bounds.most}"
        )
    if not bounds.least <= value <= bounds.most:
        reason = f"{shown} is not between {bounds.least} and {bounds.most}"
        exception = f"; {bounds.exception}" if bounds.exception else ""
        raise InvalidRequestError(field, reason + exception)
    if bounds.multiple > 1 and value % bounds.multiple:
        below = int(value - value % bounds.multiple)
        raise InvalidRequestError(
            field,
            f"{shown} is not a multiple of {bounds.multiple}; the nearest are {below} and "
            f"{below + bounds.multiple}",
        )


def _check_length(field: str, value: str, bounds: Bounds) -> None:
    if bounds.least and not value.strip():
        raise InvalidRequestError(field, "is empty")
    if len(value) > bounds.most:
        raise InvalidRequestError(field, f"{len(value)} characters, at most {bounds.most}")


def _check_name(field: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        names = f"the model has {', '.join(known)}" if known else "the model has none"
        raise InvalidRequestError(field, f"{shortened(name)} is not known; {names}")
