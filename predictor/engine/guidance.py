"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598).

With guidance a picture has two lanes, the negative prompt first, else one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# Of a tensor ``(pictures, channels, height, width)``.
_PIXELS = (1, 2, 3)


def weights_of(
    scales: np.ndarray[Any, np.dtype[np.float32]], lanes: np.ndarray[Any, np.dtype[np.int32]]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The weights of the first and of the last lane of each picture, ``(pictures, 2)``.

    Their weighted sum is the guided prediction.
    """
    used = np.where(lanes == 1, np.float32(1), scales)
    return np.stack([1 - used, used], axis=1)


def guided(predictions: torch.Tensor, scale: float, rescale: float) -> torch.Tensor:
    """Combine the lanes of one picture, ``(lanes, channels, height, width)``."""
    if len(predictions) == 1:
        return predictions
    negative, positive = predictions[:1], predictions[1:]
    combined = negative + scale * (positive - negative)
    if not rescale:
        return combined
    return combined * (rescale * _contrast(positive, combined) + (1 - rescale))


def rescaled(pairs: torch.Tensor, scales: torch.Tensor, rescales: torch.Tensor) -> torch.Tensor:
    """Scale both lanes so that guidance no longer raises the contrast.

    This is ``rescale_noise_cfg`` of diffusers (Lin et al., arXiv:2305.08891, section 3.4). It is
    the same for the lanes as for their weighted sum. ``pairs`` is ``(pictures, 2, channels, height,
    width)``, with one lane twice where a picture has no other; the numbers are ``(pictures,)``.
    """
    negative, positive = pairs.unbind(1)
    combined = torch.addcmul(negative, per_picture(scales), positive - negative)
    share = per_picture(rescales)
    factor = share * _contrast(positive, combined) + (1 - share)
    return pairs * factor.unsqueeze(1)


def _contrast(positive: torch.Tensor, combined: torch.Tensor) -> torch.Tensor:
    return positive.std(_PIXELS, keepdim=True) / combined.std(_PIXELS, keepdim=True)


def per_picture(numbers: torch.Tensor) -> torch.Tensor:
    """``(pictures,)`` as ``(pictures, 1, 1, 1)``, to scale latents of all pictures."""
    return numbers.view(-1, 1, 1, 1)
