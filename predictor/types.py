"""What travels between the stages: a validated request in, a picture out. No HTTP, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class GenerationRequest:
    """One picture to make; every field is set and within the limits.

    ``width`` and ``height`` are in pixels; ``scheduler`` is a name of ``predictor.schedulers``.
    """

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str

    def parameters(self) -> dict[str, Any]:
        """The effective parameters by their names on the wire."""
        return asdict(self)


@dataclass(frozen=True)
class GenerationResult:
    """A finished picture with what the engine has to say about it.

    ``seconds`` is the time in the pipeline, ``queue_seconds`` the wait before it;
    ``first_step_seconds`` is the time from the arrival to the end of the first denoising step.
    """

    request: GenerationRequest
    image: Image.Image
    seconds: float
    queue_seconds: float = 0.0
    first_step_seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class GenerationDefaults:
    """What a request may leave out."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str


@dataclass(frozen=True)
class ModelProfile:
    """What the protocol must know of the loaded model.

    ``size_multiple`` is the number of pixels that width and height must be a multiple of.
    """

    revision: str
    defaults: GenerationDefaults
    size_multiple: int
    schedulers: tuple[str, ...]

    def default_request(self, prompt: str) -> GenerationRequest:
        """What a request with a prompt alone asks for, with seed 0."""
        return GenerationRequest(prompt, negative_prompt="", seed=0, **asdict(self.defaults))
