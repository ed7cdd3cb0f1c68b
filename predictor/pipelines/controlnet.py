"""ControlNets in the step loop: what one sees of a picture to follow, and adds to the UNet.

With the UNet they do what ``__call__`` of diffusers' ControlNet pipelines does; the tests hold them
to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers import ControlNetModel
from diffusers.image_processor import VaeImageProcessor

from predictor.errors import GenerationFailedError
from predictor.requests import GenerationRequest

if TYPE_CHECKING:
    from predictor.engine.interfaces import Lane


class Control(NamedTuple):
    """What steers one picture: ``features`` are ``(1, channels, height, width)`` of the latents."""

    features: torch.Tensor
    scale: float


class ControlNet:
    """A loaded ControlNet; the model becomes its own."""

    def __init__(self, model: ControlNetModel, vae_scale_factor: int) -> None:
        self._model: Any = model
        self._processor = VaeImageProcessor(
            vae_scale_factor=vae_scale_factor, do_convert_rgb=True, do_normalize=False
        )
        self._is_bgr = model.config.controlnet_conditioning_channel_order == "bgr"
        # The picture is embedded once, not at each step: the model finds that done.
        self._embedding = model.controlnet_cond_embedding
        model.controlnet_cond_embedding = torch.nn.Identity()
        model.register_to_config(controlnet_conditioning_channel_order="rgb")

    def look(self, request: GenerationRequest) -> Control:
        """Resize the request's control image to the picture's size and embed it."""
        assert request.controlnet is not None
        pixels = self._processor.preprocess(
            request.controlnet.image.image, height=request.height, width=request.width
        )
        if self._is_bgr:
            pixels = pixels.flip(1)
        features = self._embedding(pixels.to(self._model.device, self._model.dtype))
        return Control(features, request.controlnet.scale)

    def residuals(
        self,
        lanes: Sequence[Lane],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditions: Mapping[str, Any],
    ) -> dict[str, Any]:
        """One pass over all lanes; what it gives in the words of the UNet's ``forward``.

        ``conditions`` are what the UNet takes too. Of ``latents`` only the picture's own channels
        are seen: an inpainting UNet has the mask's behind them.
        """
        down, middle = self._model(
            latents[:, : self._model.config.in_channels],
            timesteps,
            controlnet_cond=torch.cat([lane.denoising.control.features for lane in lanes]),
            conditioning_scale=self._scales(lanes),
            return_dict=False,
            **conditions,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    def _scales(self, lanes: Sequence[Lane]) -> torch.Tensor:
        """One for each lane, as ``(lanes, 1, 1, 1)``."""
        # Diffusers steers with pooled residuals only where there is a prompt ("guess mode").
        is_pooled = self._model.config.global_pool_conditions
        scales = [
            0.0 if is_pooled and lane.is_negative else lane.denoising.control.scale
            for lane in lanes
        ]
        shaped = torch.tensor(scales, dtype=self._model.dtype).view(-1, 1, 1, 1)
        return shaped.to(self._model.device)


@dataclass(frozen=True)
class ControlNets:
    """Those beside one model, by name; ``unusable`` says why some of them cannot be used."""

    usable: Mapping[str, ControlNet] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in order."""
        return tuple(sorted([*self.usable, *self.unusable]))

    def __getitem__(self, name: str) -> ControlNet:
        """The one of that name.

        Raises:
            GenerationFailedError: it cannot be used.
        """
        if name in self.unusable:
            raise GenerationFailedError(f"controlnet.name: {name!r} {self.unusable[name]}")
        return self.usable[name]
