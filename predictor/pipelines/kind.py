"""What the lanes of one forward pass have in common."""

from __future__ import annotations

from typing import NamedTuple

from predictor.types import Adapter


class Kind(NamedTuple):
    """Lanes of one kind can share a forward pass; see ``Denoising.kind``."""

    expert: str = "base"
    adapters: tuple[Adapter, ...] = ()
    controlnet: str | None = None
