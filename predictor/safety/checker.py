"""The safety checker that a checkpoint brings, asked once the picture is made."""

from __future__ import annotations

import logging
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image

from predictor.checkpoint.configs import Configs
from predictor.requests import SafetyAction
from predictor.safety.weights import Placement, load_processor, load_weights

_KNOWN = StableDiffusionSafetyChecker.__name__

# It tells of a black picture, which nobody gets here.
logging.getLogger(StableDiffusionSafetyChecker.__module__).setLevel(logging.ERROR)


def has_checker(configs: Configs) -> bool:
    """Whether the model's index names a safety checker."""
    return _class_name(configs) is not None


class SafetyChecker:
    """A ``SafetyLayer`` over pictures: how near CLIP finds one to the checkpoint's concepts."""

    name = "safety_checker"

    def __init__(self, action: SafetyAction, configs: Configs, placement: Placement) -> None:
        """Load ``safety_checker/`` and ``feature_extractor/`` of the published folder.

        Raises:
            Exception: they cannot be loaded whole.
        """
        self.action = action
        self._placement = placement
        class_name = _class_name(configs)
        if class_name != _KNOWN:
            raise ValueError(f"it is a {class_name}, and only a {_KNOWN} is known")
        self._extract = load_processor(configs.folder / "feature_extractor")
        self._model = load_weights(
            StableDiffusionSafetyChecker, configs.folder / self.name, placement
        )
        self._model.visual_projection.register_forward_hook(_refuse_nan)

    @torch.inference_mode()
    def fires_at(self, subject: Image.Image) -> bool:
        """Whether the picture is near to one of the concepts."""
        pixels = self._extract(subject, return_tensors="pt").pixel_values
        pixels = pixels.to(self._placement.device, self._placement.dtype)
        # It would blacken what it is given, so that is not the picture.
        _, fired = self._model(images=torch.zeros(1), clip_input=pixels)
        return bool(fired[0])


def _refuse_nan(module: Any, inputs: Any, embedding: torch.Tensor) -> None:
    """NaN is near to no concept: it would pass for harmless."""
    if not torch.isfinite(embedding).all():
        raise ArithmeticError("the safety checker came to NaN or infinity")


def _class_name(configs: Configs) -> str | None:
    _, class_name = configs.index.get("safety_checker") or (None, None)
    return class_name
