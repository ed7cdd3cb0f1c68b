"""What a request's noise is drawn by."""

from __future__ import annotations

import torch

from predictor.types import GenerationRequest


def generator_for(request: GenerationRequest) -> torch.Generator:
    """Begun at the request's seed; on the CPU, so that every device is given the same noise."""
    return torch.Generator("cpu").manual_seed(request.seed)
