"""The tasks that a loaded pipeline serves, and the pipeline over the same weights for each."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from predictor.pipelines.image_to_image import INPAINTING_CHANNELS
from predictor.requests import Task

# For each task, the names in diffusers of its pipelines by family, and of the class that converts
# between them.
_TABLES: dict[Task, tuple[str, str]] = {
    "text-to-image": ("AUTO_TEXT2IMAGE_PIPELINES_MAPPING", "AutoPipelineForText2Image"),
    "image-to-image": ("AUTO_IMAGE2IMAGE_PIPELINES_MAPPING", "AutoPipelineForImage2Image"),
    "inpainting": ("AUTO_INPAINT_PIPELINES_MAPPING", "AutoPipelineForInpainting"),
}
# The rows of diffusers' tables for the most common models. The module with all rows imports every
# pipeline of diffusers, half a second of a start.
COMMON_FAMILIES: dict[str, dict[Task, str]] = {
    "stable-diffusion": {
        "text-to-image": "StableDiffusionPipeline",
        "image-to-image": "StableDiffusionImg2ImgPipeline",
        "inpainting": "StableDiffusionInpaintPipeline",
    },
    "stable-diffusion-xl": {
        "text-to-image": "StableDiffusionXLPipeline",
        "image-to-image": "StableDiffusionXLImg2ImgPipeline",
        "inpainting": "StableDiffusionXLInpaintPipeline",
    },
}
# Their UNets may be plain ones, which serve all tasks.
_MAYBE_PLAIN = ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline")


def tasks_of(pipeline: DiffusionPipeline) -> tuple[Task, ...]:
    """Return the tasks that the checkpoint serves: at least one, text to image first.

    A checkpoint for a single image task (an inpainting UNet, a refiner, an editing model) serves
    only that task. For a class unknown to diffusers' auto pipelines, the arguments decide.
    """
    own = type(pipeline)
    unet = getattr(pipeline, "unet", None)
    if unet is not None and unet.config.get("in_channels") == INPAINTING_CHANNELS:
        return ("inpainting",)
    family = _family(own)
    if own is family.get("text-to-image") or own.__name__ in _MAYBE_PLAIN:
        return tuple(family)
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
    _, maker = _TABLES[task]
    made: DiffusionPipeline = getattr(diffusers, maker).from_pipe(pipeline)
    made.set_progress_bar_config(disable=True)
    return made


def _class_for(task: Task, pipeline: DiffusionPipeline) -> Any:
    """Return the class that serves the task: the pipeline's own if diffusers lists no other."""
    own = type(pipeline)
    return _family(own).get(task, own)


def _family(own: type) -> dict[Task, type]:
    """Return the pipelines by task of the family that diffusers lists the class under, if any."""
    for names in COMMON_FAMILIES.values():
        if own.__name__ in names.values():
            return {task: getattr(diffusers, name) for task, name in names.items()}
    tables = listed_pipelines()
    rows = (row for table in tables.values() for row in table.items())
    family = next((name for name, one in rows if one is own), None)
    return {task: table[family] for task, table in tables.items() if family in table}


def listed_pipelines() -> dict[Task, Mapping[str | None, type]]:
    """Return diffusers' own tables: for each task, the pipelines by the name of their family."""
    module = importlib.import_module("diffusers.pipelines.auto_pipeline")
    return {task: getattr(module, table) for task, (table, _) in _TABLES.items()}
