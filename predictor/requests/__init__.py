"""What a request is and may be: the table of fields, the limits, and what the fields mean.

A protocol hands over one mapping of field values for each prompt. It gets back one
``GenerationRequest`` for each picture. No HTTP, no torch.
"""

from predictor.requests.generation import (
    DEFAULT_STRENGTH,
    PROMPT_LAYER,
    Adapter,
    ControlNetInput,
    GenerationRequest,
    GenerationResult,
    InputImage,
    Preview,
    SafetyVerdict,
    Task,
)
from predictor.requests.input_images import InputImages, PictureSource
from predictor.requests.limits import CallLimits, Limits
from predictor.requests.meaning import generation_requests
from predictor.requests.model_profile import GenerationDefaults, ModelProfile
from predictor.settings import SafetyAction

__all__ = [
    "DEFAULT_STRENGTH",
    "PROMPT_LAYER",
    "Adapter",
    "CallLimits",
    "ControlNetInput",
    "GenerationDefaults",
    "GenerationRequest",
    "GenerationResult",
    "InputImage",
    "InputImages",
    "Limits",
    "ModelProfile",
    "PictureSource",
    "Preview",
    "SafetyAction",
    "SafetyVerdict",
    "Task",
    "generation_requests",
]
