"""The clean sample that a denoiser predicts in a forward pass, often written as x0.

It is linear in the sample before the step and in the prediction. A scheduler's ``prediction_type``
says what the network predicts: noise (Ho et al., arXiv:2006.11239), v (Salimans and Ho,
arXiv:2202.00512), the clean sample, or the velocity of rectified flow (Liu et al.,
arXiv:2209.03003).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch


class CleanWeights(NamedTuple):
    """The weights of the sample and of the prediction; their sum is the clean sample.

    They are NaN where the prediction says nothing about it.
    """

    sample: float
    prediction: float

    def clean(self, sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The clean sample of one picture, ``(1, channels, height, width)``."""
        return torch.add(sample * self.sample, prediction, alpha=self.prediction)


def clean_weights(scheduler: Any, level: tuple[float, float]) -> CleanWeights:
    """The weights at a level: those of the clean sample and of the noise that make a sample."""
    signal, noise = level
    if hasattr(scheduler, "precondition_outputs"):
        return _preconditioned(scheduler, noise)
    match _prediction_type(scheduler):
        case "epsilon" if signal:
            return CleanWeights(1 / signal, -noise / signal)
        case "v_prediction":
            # v is defined for samples of variance 1.
            length = math.hypot(signal, noise)
            return CleanWeights(signal / length**2, -noise / length)
        case "sample":
            return CleanWeights(0.0, 1.0)
        case "flow_prediction":
            return CleanWeights(1 / (signal + noise), -noise / (signal + noise))
    return CleanWeights(math.nan, math.nan)


def _prediction_type(scheduler: Any) -> str:
    """Schedulers that do nothing but flow matching have no such entry."""
    default = "flow_prediction" if hasattr(scheduler, "scale_noise") else "epsilon"
    return str(getattr(scheduler, "config", {}).get("prediction_type", default))


def _preconditioned(scheduler: Any, sigma: float) -> CleanWeights:
    """As EDM's schedulers compute it (Karras et al., arXiv:2206.00364)."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    level = torch.tensor(sigma, dtype=torch.float64)
    return CleanWeights(
        float(scheduler.precondition_outputs(one, zero, level)),
        float(scheduler.precondition_outputs(zero, one, level)),
    )
