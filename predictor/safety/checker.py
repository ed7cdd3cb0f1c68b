"""The checkpoint's safety checker, which runs on each finished picture."""

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

# diffusers logs that it returns a black image, which does not apply here.
logging.getLogger(StableDiffusionSafetyChecker.__module__).setLevel(logging.ERROR)


def has_checker(configs: Configs) -> bool:
    """Whether the model's index names a safety checker."""
    return _class_name(configs) is not None


class SafetyChecker:
    """A ``SafetyLayer`` that compares a picture's CLIP embedding with the checkpoint's concepts."""

    name = "safety_checker"

    def __init__(self, action: SafetyAction, configs: Configs, placement: Placement) -> None:
        """Load ``safety_checker/`` and ``feature_extractor/`` of the published folder.

        Raises:
            Exception: they do not load completely.
        """
        self.action = action
        self._placement = placement
        class_name = _class_name(configs)
        if class_name != _KNOWN:
            raise ValueError(f"it is a {class_name}, but only {_KNOWN} is supported")
        self._extract = load_processor(configs.folder / "feature_extractor")
        self._model = load_weights(
            StableDiffusionSafetyChecker, configs.folder / self.name, placement
        )
        self._model.visual_projection.register_forward_hook(_reject_nan)

    @torch.inference_mode()
    def fires_at(self, subject: Image.Image) -> bool:
        """Whether the picture is close to one of the concepts."""
        pixels = self._extract(subject, return_tensors="pt").pixel_values
        pixels = pixels.to(self._placement.device, self._placement.dtype)
        # The checker blackens the images that it receives, so pass a placeholder.
        _, fired = self._model(images=torch.zeros(1), clip_input=pixels)
        return bool(fired[0])


def _reject_nan(module: Any, inputs: Any, embedding: torch.Tensor) -> None:
    """Reject NaN, which is close to no concept and would pass as harmless."""
    if not torch.isfinite(embedding).all():
        raise ArithmeticError("the safety checker returned NaN or infinity")


def _class_name(configs: Configs) -> str | None:
    _, class_name = configs.index.get("safety_checker") or (None, None)
    return class_name
