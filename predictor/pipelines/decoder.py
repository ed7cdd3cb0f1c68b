"""Decodes latents and copies the pictures to the host while the engine's thread continues."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image

from predictor.engine.transfers import download


class DecodedPicture(NamedTuple):
    """One picture on the host, complete once ``arrived`` has passed; on a CPU it always is.

    ``pixels`` is ``(height, width, 3)`` of uint8. ``is_finite`` is one boolean.
    """

    pixels: torch.Tensor
    is_finite: torch.Tensor
    arrived: torch.cuda.Event | None


class Decoder:
    """On a GPU, decodes in a stream of its own and copies in another.

    The next picture can then decode while one is copied. ``has_stream`` is False if there is not
    enough memory to decode while steps run.
    """

    def __init__(self, device: torch.device, *, has_stream: bool) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream = torch.cuda.Stream(device) if has_stream else None  # type: ignore[no-untyped-call]

    def decode(
        self, latents: torch.Tensor, to_image: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[DecodedPicture]:
        """Decode by ``to_image``, which returns ``(pictures, 3, height, width)`` from -1 to 1."""
        stream = self._stream
        if stream is not None:
            # Steps continue meanwhile and must not reuse the memory of these latents.
            stream.wait_stream(torch.cuda.current_stream(self._device))
            latents.record_stream(stream)
        with torch.cuda.stream(stream):
            image = to_image(latents)
            pixels, is_finite = _pixels(image), torch.isfinite(image).flatten(1).all(dim=1)
            if image.device.type == "cuda":
                return self._copied(pixels, is_finite)
        return _separate(pixels, is_finite, None)

    def _copied(self, pixels: torch.Tensor, is_finite: torch.Tensor) -> list[DecodedPicture]:
        """Copy what the current stream computes."""
        decoded = torch.cuda.Event()  # type: ignore[no-untyped-call]
        decoded.record()
        self._copies.wait_event(decoded)
        # ``picture_of`` sleeps until then; without ``blocking``, its thread would poll.
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        pixels.record_stream(self._copies)
        is_finite.record_stream(self._copies)
        with torch.cuda.stream(self._copies):
            copied = download(pixels), download(is_finite)
            arrived.record()
        return _separate(*copied, arrived)


def picture_of(decoded: DecodedPicture) -> Image.Image:
    """Wait for the picture.

    Raises:
        ArithmeticError: the decoded image holds NaN or infinity, which PIL would show as black.
    """
    if decoded.arrived is not None:
        decoded.arrived.synchronize()
    if not decoded.is_finite:
        raise ArithmeticError("the picture came out as NaN or infinity")
    return Image.fromarray(decoded.pixels.numpy())


def _pixels(image: torch.Tensor) -> torch.Tensor:
    """``(pictures, height, width, 3)``, rounded as diffusers' ``VaeImageProcessor`` rounds."""
    scaled = (image * 0.5 + 0.5).clamp(0, 1).float() * 255
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _separate(
    pixels: torch.Tensor, is_finite: torch.Tensor, arrived: torch.cuda.Event | None
) -> list[DecodedPicture]:
    return [DecodedPicture(*one, arrived) for one in zip(pixels, is_finite, strict=True)]
