"""What the lanes of one forward pass must have in common, beside their shape."""

from __future__ import annotations

from typing import NamedTuple

from predictor.types import Adapter


class Kind(NamedTuple):
    """Which UNet, with which LoRAs, steered by which ControlNet."""

    expert: str = "base"
    adapters: tuple[Adapter, ...] = ()
    controlnet: str | None = None
