"""What a loaded pipeline can do, and the pipeline over the same weights that does it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
)
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)

from predictor.pipelines.image_to_image import INPAINTING_CHANNELS
from predictor.requests import Task

# By task: diffusers' pipelines by the name of their family, and what makes one from another.
_PIPELINES: dict[Task, Mapping[str, type]] = {
    "text-to-image": AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
    "image-to-image": AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    "inpainting": AUTO_INPAINT_PIPELINES_MAPPING,
}
_MAKERS: dict[Task, type] = {
    "text-to-image": AutoPipelineForText2Image,
    "image-to-image": AutoPipelineForImage2Image,
    "inpainting": AutoPipelineForInpainting,
}
# Their UNets may be those of plain checkpoints, which can do everything.
_MAYBE_PLAIN = (StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline)


def tasks_of(pipeline: DiffusionPipeline) -> tuple[Task, ...]:
    """The tasks that the checkpoint serves; at least one, text to image first where it is there.

    A checkpoint for one task on pictures (an inpainting UNet, a refiner, an editing model) serves
    that alone. A class that diffusers' auto pipelines do not know is judged by its arguments.
    """
    own = type(pipeline)
    unet = getattr(pipeline, "unet", None)
    if unet is not None and unet.config.get("in_channels") == INPAINTING_CHANNELS:
        return ("inpainting",)
    if own in _PIPELINES["text-to-image"].values() or own in _MAYBE_PLAIN:
        family = _family(own)
        return tuple(task for task, known in _PIPELINES.items() if family in known)
    arguments = inspect.signature(own.__call__).parameters
    if "mask_image" in arguments:
        return ("inpainting",)
    return ("image-to-image",) if "image" in arguments else ("text-to-image",)


def pipeline_for(task: Task, pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline of one of ``tasks_of``, over the same weights; often ``pipeline`` itself."""
    known = _PIPELINES[task].get(_family(type(pipeline)) or "")
    if known is None or known is type(pipeline):
        return pipeline
    made = _MAKERS[task].from_pipe(pipeline)  # type: ignore[attr-defined]
    made.set_progress_bar_config(disable=True)
    return made


def _family(own: type) -> str | None:
    """The name under which diffusers' auto pipelines list the class."""
    listed = (known.items() for known in _PIPELINES.values())
    return next((name for known in listed for name, one in known if one is own), None)
