"""Which request fields a pipeline's ``__call__`` accepts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from predictor.errors import ModelLoadError

_NOT_TAKEN = "this model's pipeline does not accept it"
_FIELDS = ("negative_prompt", "width", "height", "num_inference_steps", "guidance_scale")
# The parameters with which video and audio pipelines take the length.
_NO_PICTURES = {
    "num_frames": "video",
    "video_length": "video",
    "audio_length_in_s": "audio",
    "audio_end_in_s": "audio",
}


def parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the pipeline's ``__call__``."""
    return inspect.signature(type(pipeline).__call__).parameters


def default_of(pipeline: Any, name: str) -> float | None:
    """Return the numeric default of a parameter of ``__call__``, or None if it has none."""
    parameter = parameters(pipeline).get(name)
    value = parameter.default if parameter else None
    return value if isinstance(value, int | float) else None


def check_makes_pictures(pipeline: Any) -> None:
    """Reject a pipeline that does not turn a prompt into a picture.

    Raises:
        ModelLoadError: the pipeline makes video or audio, or does not accept a prompt.
    """
    name, taken = type(pipeline).__name__, parameters(pipeline)
    made = next((kind for parameter, kind in _NO_PICTURES.items() if parameter in taken), None)
    if made:
        raise ModelLoadError(
            f"{name} makes {made}; only pipelines that make pictures are supported"
        )
    if "prompt" not in taken:
        raise ModelLoadError(
            f"{name} does not accept a prompt; only text-to-image pipelines are supported"
        )


def takes_true_cfg(pipeline: Any) -> bool:
    """Whether a negative prompt has an effect only if ``true_cfg_scale`` is set.

    With that parameter, ``guidance_scale`` is an input of the transformer.
    """
    scale = default_of(pipeline, "true_cfg_scale")
    return scale is not None and scale <= 1


def unused_fields(pipeline: Any) -> dict[str, str]:
    """Return the request fields that would have no effect, each with the reason."""
    taken = parameters(pipeline)
    unused = {field: _NOT_TAKEN for field in _FIELDS if field not in taken}
    if "guidance_scale" in taken and default_of(pipeline, "guidance_scale") is None:
        unused["guidance_scale"] = _NOT_TAKEN
    if takes_true_cfg(pipeline):
        unused["negative_prompt"] = (
            "this model takes guidance as an input, not from a second prompt; set true_cfg_scale "
            "above 1 to add it"
        )
    if default_of(pipeline, "true_cfg_scale") is not None and not pipeline.transformer.config.get(
        "guidance_embeds"
    ):
        unused["guidance_scale"] = "this model was distilled to work without guidance"
    return unused
