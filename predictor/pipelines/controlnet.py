"""ControlNets in the step loop: they embed a control image and add residuals to the UNet.

The result matches ``__call__`` of diffusers' ControlNet pipelines; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.image_processor import VaeImageProcessor

from predictor.engine.transfers import host_memory, upload, upload_numbers
from predictor.errors import GenerationFailedError
from predictor.pipelines.prepared import Prepared
from predictor.requests import GenerationRequest

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from predictor.engine.interfaces import Lane


class Control(NamedTuple):
    """The input of one picture: ``features`` are ``(1, channels, height, width)`` of latents.

    ``scale`` and ``negative_scale`` are ``(1, 1, 1, 1)`` on the device.
    """

    features: torch.Tensor
    scale: torch.Tensor
    negative_scale: torch.Tensor


class ControlNet:
    """A loaded ControlNet; it takes ownership of ``model`` and modifies it."""

    def __init__(self, model: ControlNetModel, vae_scale_factor: int) -> None:
        self._model: Any = model
        self._processor = VaeImageProcessor(
            vae_scale_factor=vae_scale_factor, do_convert_rgb=True, do_normalize=False
        )
        self._is_bgr = model.config.controlnet_conditioning_channel_order == "bgr"
        # The control image is embedded once, not at each step, so the model must not embed it.
        self._embedding = model.controlnet_cond_embedding
        model.controlnet_cond_embedding = torch.nn.Identity()
        model.register_to_config(controlnet_conditioning_channel_order="rgb")
        self._pixels = Prepared(self._host_pixels)

    def prepare(self, request: GenerationRequest) -> None:
        """Convert the control image in advance; any thread may call this."""
        self._pixels.prepare(request)

    def look(self, request: GenerationRequest) -> Control:
        """Embed the request's control image."""
        assert request.controlnet is not None
        features = self._embedding(upload(self._pixels.take(request), self._model.device))
        scale = request.controlnet.scale
        # diffusers applies pooled residuals to the positive prompt only ("guess mode").
        negative_scale = 0.0 if self._model.config.global_pool_conditions else scale
        scales = upload_numbers([scale, negative_scale], self._model.device, self._model.dtype)
        return Control(features, *scales.view(2, 1, 1, 1, 1))

    def _host_pixels(self, request: GenerationRequest) -> torch.Tensor:
        """The control image in the size of the picture, on the host."""
        assert request.controlnet is not None
        pixels = self._processor.preprocess(
            request.controlnet.image.image, height=request.height, width=request.width
        )
        if self._is_bgr:
            pixels = pixels.flip(1)
        host = host_memory(pixels.shape, self._model.device, self._model.dtype)
        return host.copy_(pixels)

    def residuals(
        self,
        lanes: Sequence[Lane],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditions: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Run one pass over all lanes and return keyword arguments for the UNet's ``forward``.

        ``conditions`` are passed to the UNet too. The ControlNet sees only the picture's channels
        of ``latents``; those of an inpainting UNet also include the mask.
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
        """Return the scale of each lane, as ``(lanes, 1, 1, 1)``."""
        controls = [(lane.denoising.control, lane.is_negative) for lane in lanes]
        return torch.cat(
            [one.negative_scale if is_negative else one.scale for one, is_negative in controls]
        )


@dataclass(frozen=True)
class ControlNets:
    """The ControlNets of one model by name; ``unusable`` maps a name to the reason."""

    usable: Mapping[str, ControlNet] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, usable or not, sorted."""
        return tuple(sorted([*self.usable, *self.unusable]))

    def __getitem__(self, name: str) -> ControlNet:
        """Return the ControlNet of that name.

        Raises:
            GenerationFailedError: it is unusable.
        """
        if name in self.unusable:
            raise GenerationFailedError(f"controlnet.name: {name!r} {self.unusable[name]}")
        return self.usable[name]
