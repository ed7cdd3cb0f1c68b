"""Classifier-free guidance of all jobs of a pass at once (Ho and Salimans, arXiv:2207.12598)."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def guided(
    predictions: torch.Tensor,
    lanes: Sequence[int],
    scales: torch.Tensor,
    rescales: torch.Tensor | None = None,
) -> torch.Tensor:
    """Combine the lanes of each job, negative prompt first.

    ``predictions`` is ``(lanes of all jobs, channels, height, width)``; ``lanes`` holds 1 or 2 for
    each job. ``scales`` and ``rescales`` are ``(jobs,)``; None rescales no job. Returns
    ``(jobs, channels, height, width)``.
    """
    if set(lanes) == {1}:
        return predictions
    negative, positive = _both_lanes(predictions, lanes)
    combined = torch.addcmul(negative, per_job(scales), positive - negative)
    if rescales is None:
        return combined
    return _rescaled(combined, positive, per_job(rescales))


def _both_lanes(
    predictions: torch.Tensor, lanes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The negative and the positive lane of each job; one lane counts as both."""
    if set(lanes) == {2}:
        return predictions[0::2], predictions[1::2]
    own = predictions.split_with_sizes(list(lanes))
    return torch.cat([rows[:1] for rows in own]), torch.cat([rows[-1:] for rows in own])


def _rescaled(
    combined: torch.Tensor, positive: torch.Tensor, rescales: torch.Tensor
) -> torch.Tensor:
    """Restore the contrast that guidance raises (Lin et al., arXiv:2305.08891, section 3.4).

    This is ``rescale_noise_cfg`` of diffusers.
    """
    pixels = (1, 2, 3)
    contrast = positive.std(pixels, keepdim=True) / combined.std(pixels, keepdim=True)
    return rescales * (combined * contrast) + (1 - rescales) * combined


def per_job(numbers: torch.Tensor) -> torch.Tensor:
    """``(jobs,)`` as ``(jobs, 1, 1, 1)``, to scale latents of all jobs."""
    return numbers.view(-1, 1, 1, 1)
