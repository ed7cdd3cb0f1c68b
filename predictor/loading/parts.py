"""The parts of a diffusers pipeline that settings are about, whatever its family calls them."""

from __future__ import annotations

from typing import Any


def denoiser_of(pipeline: Any) -> Any | None:
    """The network that runs at every step; None where the pipeline calls it by an unknown name."""
    parts = (getattr(pipeline, name, None) for name in ("unet", "transformer"))
    return next((part for part in parts if part is not None), None)


def vae_of(pipeline: Any) -> Any | None:
    """What decodes latents to pictures."""
    return getattr(pipeline, "vae", None)
