"""The defaults, tasks and bounds that the loaded model gives a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from PIL import Image

from predictor.requests.generation import DEFAULT_STRENGTH, GenerationRequest, InputImage, Task


@dataclass(frozen=True)
class GenerationDefaults:
    """The values of fields that a request omits; ``denoising_end`` is None without a refiner."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    denoising_end: float | None = None


@dataclass(frozen=True)
class ModelProfile:
    """Defaults, tasks and bounds of one loaded model.

    Width and height must be multiples of ``size_multiple`` pixels. ``adapters`` and ``controlnets``
    are the names that a request may use, ``embeddings`` those that a prompt may contain.
    ``unused_fields`` maps each request field that the pipeline cannot use to the reason.
    ``most_steps`` limits the steps of some schedulers.
    ``max_sequence_length`` is the number of tokens that the T5 encoder reads, None without one.
    ``max_clip_skip`` is the largest ``clip_skip``, None if the model does not support it.
    ``rescaled_tasks`` are the tasks for which it supports ``guidance_rescale``. ``takes_true_cfg``
    is True if it takes a negative prompt only with ``true_cfg_scale`` above 1, and
    ``reads_weighted_prompts`` if it supports the weighted prompt syntax.
    """

    revision: str
    defaults: GenerationDefaults
    size_multiple: int
    schedulers: tuple[str, ...]
    tasks: tuple[Task, ...] = ("text-to-image",)
    adapters: tuple[str, ...] = ()
    controlnets: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    has_refiner: bool = False
    family: str = "unknown"
    unused_fields: Mapping[str, str] = field(default_factory=dict)
    most_steps: Mapping[str, int] = field(default_factory=dict)
    max_sequence_length: int | None = None
    max_clip_skip: int | None = None
    rescaled_tasks: tuple[Task, ...] = ()
    takes_true_cfg: bool = False
    reads_weighted_prompts: bool = False

    def default_request(self, prompt: str) -> GenerationRequest:
        """The request that a prompt alone stands for, with seed 0.

        A model that requires an input image gets a grey one.
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
