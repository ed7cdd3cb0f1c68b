"""What a pipeline's own ``__call__`` takes, held against the fields of a request."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from predictor.errors import ModelLoadError

_NOT_TAKEN = "this model's pipeline does not take it"
_FIELDS = ("negative_prompt", "width", "height", "num_inference_steps", "guidance_scale")
# What pipelines of moving pictures and of sound are told the length by.
_NO_PICTURES = {
    "num_frames": "video",
    "video_length": "video",
    "audio_length_in_s": "audio",
    "audio_end_in_s": "audio",
}


def parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """Of the pipeline's ``__call__``."""
    return inspect.signature(type(pipeline).__call__).parameters


def default_of(pipeline: Any, name: str) -> float | None:
    """The number that ``__call__`` takes where it is told none; None where it has no such."""
    parameter = parameters(pipeline).get(name)
    value = parameter.default if parameter else None
    return value if isinstance(value, int | float) else None


def check_makes_pictures(pipeline: Any) -> None:
    """Refuse a pipeline that does not turn a prompt into a picture.

    Raises:
        ModelLoadError: says what it makes, or what it lacks.
    """
    name, taken = type(pipeline).__name__, parameters(pipeline)
    made = next((kind for parameter, kind in _NO_PICTURES.items() if parameter in taken), None)
    if made:
        raise ModelLoadError(f"{name} makes {made}: only pipelines that make pictures are served")
    if "prompt" not in taken:
        raise ModelLoadError(f"{name} takes no prompt: only pipelines that take one are served")


def unused_fields(pipeline: Any) -> dict[str, str]:
    """The fields of a request that would change nothing, each with the reason."""
    taken = parameters(pipeline)
    unused = {field: _NOT_TAKEN for field in _FIELDS if field not in taken}
    if "guidance_scale" in taken and default_of(pipeline, "guidance_scale") is None:
        unused["guidance_scale"] = _NOT_TAKEN
    # Where this is named beside it, ``guidance_scale`` is an input of the transformer.
    true_guidance = default_of(pipeline, "true_cfg_scale")
    if true_guidance is not None and true_guidance <= 1:
        unused["negative_prompt"] = "this model takes its guidance as an input, without one"
    if true_guidance is not None and not pipeline.transformer.config.get("guidance_embeds"):
        unused["guidance_scale"] = "this model was distilled to need none"
    return unused
