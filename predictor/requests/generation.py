"""The types that pass between the stages: a request in, a picture out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from PIL import Image

from predictor.settings import SafetyAction
from predictor.stages import StageTime

# The names that model hubs use.
Task = Literal["text-to-image", "image-to-image", "inpainting"]

# ``weighted`` is described in ``requests/prompt_syntax.py``.
PromptSyntax = Literal["plain", "weighted"]

# The only layer that checks prompts; the others check pictures.
PROMPT_LAYER = "block_list"
# The defaults of diffusers' Stable Diffusion pipelines.
DEFAULT_STRENGTH: dict[Task, float] = {"image-to-image": 0.8, "inpainting": 1.0}


@dataclass(frozen=True)
class InputImage:
    """A picture in a request, RGB or L; two are equal if their pixels are.

    ``sha256`` is the hexadecimal digest of mode, size and pixels.
    """

    image: Image.Image = field(compare=False, repr=False)
    sha256: str

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """Compute the digest of a picture."""
        digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
        digest.update(image.tobytes())
        return cls(image, digest.hexdigest())

    def parameters(self) -> dict[str, Any]:
        """Digest and size: enough for an answer to identify the picture."""
        return {"sha256": self.sha256, "width": self.image.width, "height": self.image.height}


@dataclass(frozen=True)
class Adapter:
    """A LoRA from the model's ``adapters/`` folder and its weight."""

    name: str
    scale: float = 1.0

    def parameters(self) -> dict[str, Any]:
        """As in a request."""
        return asdict(self)


@dataclass(frozen=True)
class ControlNetInput:
    """A ControlNet from the model's ``controlnets/`` folder, its input and its weight."""

    name: str
    image: InputImage
    scale: float = 1.0

    def parameters(self) -> dict[str, Any]:
        """As in a request, with digest and size in place of the picture."""
        return {"name": self.name, "image": self.image.parameters(), "scale": self.scale}


@dataclass(frozen=True)
class GenerationRequest:
    """One picture to generate; every field is set and within the limits.

    ``fields.FIELDS`` describes the fields. ``strength`` is set if ``image`` is, else None.
    ``adapters`` are sorted by name, and each occurs once. ``denoising_end`` is None if the model
    has no refiner. For ``true_cfg_scale`` see ``cfg_scale``.
    """

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    image: InputImage | None = None
    mask_image: InputImage | None = None
    strength: float | None = None
    adapters: tuple[Adapter, ...] = ()
    controlnet: ControlNetInput | None = None
    denoising_end: float | None = None
    clip_skip: int | None = None
    guidance_rescale: float | None = None
    true_cfg_scale: float | None = None
    prompt_syntax: PromptSyntax | None = None

    def cfg_scale(self, *, guidance_is_input: bool) -> float:
        """The scale of classifier-free guidance; above 1, the negative prompt takes a lane too.

        ``guidance_is_input``: the network takes ``guidance_scale`` as an input, which replaces
        classifier-free guidance. ``true_cfg_scale`` then adds it for a negative prompt.
        """
        if not guidance_is_input:
            return self.guidance_scale
        return (self.true_cfg_scale or 1.0) if self.negative_prompt else 1.0

    @property
    def is_weighted(self) -> bool:
        """Whether the prompts have brackets and weights to interpret."""
        return self.prompt_syntax == "weighted"

    @property
    def task(self) -> Task:
        """What the pipeline has to do."""
        return task_of(has_image=self.image is not None, has_mask=self.mask_image is not None)

    @property
    def steps_taken(self) -> int:
        """The number of denoising steps that run."""
        return steps_taken(self.num_inference_steps, self.strength)

    def parameters(self) -> dict[str, Any]:
        """The effective parameters as JSON values, by field name."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: _as_json(value) for name, value in values.items() if value not in (None, ())}


def task_of(*, has_image: bool, has_mask: bool) -> Task:
    """The task of a request with or without these fields."""
    if not has_image:
        return "text-to-image"
    return "inpainting" if has_mask else "image-to-image"


def steps_taken(num_inference_steps: int, strength: float | None) -> int:
    """The number of denoising steps that run: a strength below 1 skips the first ones."""
    return num_inference_steps if strength is None else int(num_inference_steps * strength)


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(one) for one in value]
    return value.parameters() if hasattr(value, "parameters") else value


@dataclass(frozen=True)
class SafetyVerdict:
    """A safety layer that fired, and its action. The finding is never disclosed."""

    layer: str
    action: SafetyAction


@dataclass(frozen=True)
class Preview:
    """What the denoiser believes the picture is after ``step`` of ``steps`` forward passes.

    ``index`` counts the previews that the picture should have; a dropped one leaves a gap.
    """

    image: Image.Image
    index: int
    step: int
    steps: int


@dataclass(frozen=True)
class GenerationResult:
    """A finished picture with the reports of the engine and the safety layers.

    ``image`` is None if a safety layer blocks it. ``seconds`` is the time in the pipeline and
    ``queue_seconds`` the wait before it. ``first_step_seconds`` is the time from arrival to the end
    of the first denoising step. ``stages`` are those of this picture, in order.
    """

    request: GenerationRequest
    image: Image.Image | None
    seconds: float
    queue_seconds: float = 0.0
    first_step_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    safety: tuple[SafetyVerdict, ...] = ()
    stages: tuple[StageTime, ...] = ()
