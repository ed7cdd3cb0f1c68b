"""The tasks that a loaded pipeline serves, and the pipeline over the same weights for each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

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

# For each task: diffusers' pipelines by family name, and the class that converts between them.
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
# Their UNets may be plain ones, which serve all tasks.
_MAYBE_PLAIN = (StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline)


def tasks_of(pipeline: DiffusionPipeline) -> tuple[Task, ...]:
    """Return the tasks that the checkpoint serves: at least one, text to image first.

    A checkpoint for a single image task (an inpainting UNet, a refiner, an editing model) serves
    only that task. For a class unknown to diffusers' auto pipelines, the arguments decide.
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


def tasks_with(parameter: str, pipeline: DiffusionPipeline) -> tuple[Task, ...]:
    """Return those of ``tasks_of`` whose pipeline accepts a parameter in its ``__call__``."""
    return tuple(
        task
        for task in tasks_of(pipeline)
        if parameter in inspect.signature(_class_for(task, pipeline).__call__).parameters
    )


def pipeline_for(task: Task, pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Return a pipeline for one of ``tasks_of`` over the same weights, if needed a new one."""
    if _class_for(task, pipeline) is type(pipeline):
        return pipeline
    made = _MAKERS[task].from_pipe(pipeline)  # type: ignore[attr-defined]
    made.set_progress_bar_config(disable=True)
    return made


def _class_for(task: Task, pipeline: DiffusionPipeline) -> Any:
    """Return the class that serves the task: the pipeline's own if diffusers lists no other."""
    own = type(pipeline)
    return _PIPELINES[task].get(_family(own) or "", own)


def _family(own: type) -> str | None:
    """Return the family name that diffusers' auto pipelines list the class under."""
    listed = (known.items() for known in _PIPELINES.values())
    return next((name for known in listed for name, one in known if one is own), None)
