"""What travels between the stages: a validated request in, a picture out. No HTTP, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

from PIL import Image

# As hubs name what a pipeline does.
Task = Literal["text-to-image", "image-to-image", "inpainting"]

# What a safety layer does about what it finds, from the mildest on.
SafetyAction = Literal["flag", "blur", "block"]
# The one layer that looks at prompts; the others look at pictures.
PROMPT_LAYER = "block_list"
# As diffusers' Stable Diffusion has them.
DEFAULT_STRENGTH: dict[Task, float] = {"image-to-image": 0.8, "inpainting": 1.0}


@dataclass(frozen=True)
class InputImage:
    """A picture that a request brings, RGB or L; equal to another where the pixels are.

    ``sha256`` is the digest of its mode, size and pixels, in hexadecimal.
    """

    image: Image.Image = field(compare=False, repr=False)
    sha256: str

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """The picture with its digest."""
        digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
        digest.update(image.tobytes())
        return cls(image, digest.hexdigest())

    def parameters(self) -> dict[str, Any]:
        """What an answer says of it: not the picture, but enough to know it again."""
        return {"sha256": self.sha256, "width": self.image.width, "height": self.image.height}


@dataclass(frozen=True)
class Adapter:
    """A LoRA of the model's ``adapters/`` folder, and how far it counts."""

    name: str
    scale: float = 1.0

    def parameters(self) -> dict[str, Any]:
        """As on the wire."""
        return asdict(self)


@dataclass(frozen=True)
class ControlNetInput:
    """A ControlNet of the model's ``controlnets/`` folder, what it sees, and how far it counts."""

    name: str
    image: InputImage
    scale: float = 1.0

    def parameters(self) -> dict[str, Any]:
        """As on the wire, but for the picture."""
        return {"name": self.name, "image": self.image.parameters(), "scale": self.scale}


@dataclass(frozen=True)
class GenerationRequest:
    """One picture to make; every field is set and within the limits.

    ``width`` and ``height`` are in pixels; ``scheduler`` is a name of
    ``predictor.pipelines.schedulers``. With ``image`` it is image to image, with
    ``mask_image`` too inpainting; ``strength`` is 0 to 1 there and None otherwise.
    ``adapters`` stand in the order of their names, each once.
    ``denoising_end`` is the part of the way, above 0 and up to 1, after which a refiner takes over;
    None where there is none.
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

    @property
    def task(self) -> Task:
        """What is asked for."""
        if self.image is None:
            return "text-to-image"
        return "image-to-image" if self.mask_image is None else "inpainting"

    @property
    def steps_taken(self) -> int:
        """How many of the steps are taken: the strength leaves the first ones out."""
        steps = self.num_inference_steps
        return steps if self.strength is None else int(steps * self.strength)

    def parameters(self) -> dict[str, Any]:
        """The effective parameters by their names on the wire, as JSON has them."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: _as_json(value) for name, value in values.items() if value not in (None, ())}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(one) for one in value]
    return value.parameters() if hasattr(value, "parameters") else value


@dataclass(frozen=True)
class SafetyVerdict:
    """A safety layer that found something, and what it does about it; never what it found."""

    layer: str
    action: SafetyAction


@dataclass(frozen=True)
class GenerationResult:
    """A finished picture with what the engine and the safety layers have to say about it.

    ``image`` is None where a safety layer blocks it.
    ``seconds`` is the time in the pipeline, ``queue_seconds`` the wait before it;
    ``first_step_seconds`` is the time from the arrival to the end of the first denoising step.
    """

    request: GenerationRequest
    image: Image.Image | None
    seconds: float
    queue_seconds: float = 0.0
    first_step_seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    safety: tuple[SafetyVerdict, ...] = ()


@dataclass(frozen=True)
class GenerationDefaults:
    """What a request may leave out; ``denoising_end`` is None where there is no refiner."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    denoising_end: float | None = None


@dataclass(frozen=True)
class ModelProfile:
    """What the protocol must know of the loaded model.

    ``size_multiple`` is the number of pixels that width and height must be a multiple of.
    ``adapters`` and ``controlnets`` are the names of what lies beside the model.
    ``unused_fields`` are those of a request that this model could not follow, each with the reason,
    ``most_steps`` bounds the steps of some schedulers, ``max_sequence_length`` is the number of
    tokens that a T5 encoder reads; None where there is no such encoder.
    """

    revision: str
    defaults: GenerationDefaults
    size_multiple: int
    schedulers: tuple[str, ...]
    tasks: tuple[Task, ...] = ("text-to-image",)
    adapters: tuple[str, ...] = ()
    controlnets: tuple[str, ...] = ()
    has_refiner: bool = False
    family: str = "unknown"
    unused_fields: Mapping[str, str] = field(default_factory=dict)
    most_steps: Mapping[str, int] = field(default_factory=dict)
    max_sequence_length: int | None = None

    def default_request(self, prompt: str) -> GenerationRequest:
        """What a request with a prompt alone asks for, with seed 0.

        A model that only works on pictures gets grey ones.
        """
        request = GenerationRequest(prompt, negative_prompt="", seed=0, **asdict(self.defaults))
        task = self.tasks[0]
        if "text-to-image" in self.tasks:
            return request
        size = (request.width, request.height)
        return replace(
            request,
            image=InputImage.of(Image.new("RGB", size, "grey")),
            mask_image=InputImage.of(Image.new("L", size, 255)) if task == "inpainting" else None,
            strength=DEFAULT_STRENGTH[task],
        )
