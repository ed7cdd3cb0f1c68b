"""A scheduler's run as a table of numbers.

A step of a diffusers scheduler is linear in the sample, the prediction, the noise that it draws and
the tensors that it keeps for later steps. A small matrix per step therefore replaces the scheduler,
and one batched product advances many pictures, each with its own scheduler and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from predictor.engine.clean_sample import CleanWeights

# The most tensors that a scheduler may keep between two steps.
MAX_KEPT = 4
ROWS = 1 + MAX_KEPT
COLUMNS = ROWS + 2

# Whether a step draws noise, and in which dtype: that of the weights, or float32.
Draw: TypeAlias = Literal["none", "weights", "float32"]


@dataclass(eq=False)
class Plan:
    """The steps of one scheduler, with one entry for each forward pass.

    ``timesteps`` is on the CPU. A sample times its ``input_scales`` is the denoiser's input.
    ``updates`` is ``(passes, ROWS, COLUMNS)`` in float32: its rows are the new sample and the new
    kept tensors; its columns are the sample, the kept tensors, the prediction and the noise.
    ``levels`` are the weights of a clean sample and of noise that make a sample of that pass.
    ``clean`` are those that make the clean sample, which the denoiser predicts in that pass.
    """

    timesteps: torch.Tensor
    input_scales: tuple[float, ...]
    updates: torch.Tensor
    draws: tuple[Draw, ...]
    levels: tuple[tuple[float, float], ...]
    clean: tuple[CleanWeights, ...]
    init_noise_sigma: float

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A sample of the first pass, from a clean sample and noise of variance 1."""
        signal, level = self.levels[0]
        return signal * clean + level * noise

    def scaled(self, sample: torch.Tensor, step: int) -> torch.Tensor:
        """The denoiser's input."""
        return sample * self.input_scales[step]

    def clean_weights(self, step: int) -> CleanWeights:
        """The weights for the clean sample that the denoiser predicts in that pass."""
        return self.clean[step]

    @cached_property
    def table(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One row per pass of what a turn uploads, without the guidance scale.

        The input scale, the level after the step (a clean sample after the last), the update.
        """
        after = [*self.levels[1:], (1.0, 0.0)]
        scalars = np.column_stack([self.input_scales, after])
        updates = self.updates.flatten(1).numpy()
        return np.concatenate([scalars, updates], axis=1).astype(np.float32)
