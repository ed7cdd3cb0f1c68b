"""The parts of a diffusers pipeline that settings are about, whatever its family calls them."""

from __future__ import annotations

from typing import Any

from predictor.errors import ModelLoadError


def denoiser_of(pipeline: Any) -> Any:
    """The network that runs at every step.

    Raises:
        ModelLoadError: there is none.
    """
    for name in ("unet", "transformer"):
        part = getattr(pipeline, name, None)
        if part is not None:
            return part
    raise ModelLoadError(f"{type(pipeline).__name__} has no unet and no transformer")


def vae_of(pipeline: Any) -> Any | None:
    """What decodes latents to pictures."""
    return getattr(pipeline, "vae", None)
