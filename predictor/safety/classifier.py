"""An additional check of pictures with any image classification model of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from predictor.errors import ModelLoadError
from predictor.requests import SafetyAction
from predictor.safety.weights import Placement, load_processor, load_weights


class SafetyClassifier:
    """A ``SafetyLayer`` for pictures that fires if the chosen labels reach a threshold."""

    name = "safety_classifier"

    def __init__(
        self,
        action: SafetyAction,
        folder: Path,
        labels: Sequence[str],
        threshold: float,
        placement: Placement,
    ) -> None:
        """Load the model and its image processor from ``folder``.

        Raises:
            ModelLoadError: there are no labels, or the model does not have one of them.
            Exception: the model does not load completely.
        """
        self.action = action
        self._threshold = threshold
        self._placement = placement
        self._process = load_processor(folder)
        self._model = load_weights(AutoModelForImageClassification, folder, placement)
        config = self._model.config
        self._chosen = _indices(config.id2label, labels)
        # Whether each label has an independent probability, as in transformers' pipeline.
        self._are_independent = (
            config.problem_type == "multi_label_classification" or config.num_labels == 1
        )

    @torch.inference_mode()
    def fires_at(self, subject: Image.Image) -> bool:
        """Whether the probability of the chosen labels reaches the threshold."""
        pixels = self._process(subject, return_tensors="pt").pixel_values
        pixels = pixels.to(self._placement.device, self._placement.dtype)
        logits: torch.Tensor = self._model(pixel_values=pixels).logits[0].float()
        if not torch.isfinite(logits).all():
            # NaN reaches no threshold and would pass as harmless.
            raise ArithmeticError("the safety classifier returned NaN or infinity")
        return self._probability(logits) >= self._threshold

    def _probability(self, logits: torch.Tensor) -> float:
        if self._are_independent:
            return float(logits.sigmoid()[self._chosen].max())
        return float(logits.softmax(0)[self._chosen].sum())


def _indices(names: Mapping[int, str], labels: Sequence[str]) -> list[int]:
    """Return the indices of the labels among the model's outputs."""
    known = ", ".join(dict.fromkeys(names.values()))
    if not labels:
        raise ModelLoadError(f"safety_classifier_labels is empty: choose at least one of: {known}")
    for label in labels:
        if label not in names.values():
            raise ModelLoadError(f"safety_classifier_labels: {label!r} is not one of: {known}")
    return [index for index, name in names.items() if name in labels]
