"""Pictures in a request, as base64 or a data URI, and the size that they give the result.

Nothing is fetched from a URL.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

from PIL import Image, ImageOps, UnidentifiedImageError

from predictor.errors import InvalidRequestError
from predictor.requests.fields import MIN_SIDE
from predictor.requests.generation import InputImage
from predictor.requests.limits import Limits

# Pillow's formats that callers send and that bounded native code reads. Excluded on purpose: EPS
# starts Ghostscript; ICO and ICNS hold a second file whose size is not in their header; QOI and PPM
# are decoded pixel by pixel in Python; TGA accepts any bytes. JPEG opens MPO too.
READABLE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

# Pillow's 8-bit modes that it converts to RGB itself.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}

# Longer than any panorama; a filter for one long side alone would take gigabytes.
MAX_SIDE = 32_768
# Longer side by shorter side.
MAX_ASPECT = 100
# Rows that are placed over a background at once.
_STRIP = 256

# Bounded, because a pattern must not search through megabytes of base64.
_URL = re.compile(r"(?!data:)[a-z][a-z0-9+.-]{0,31}:", re.IGNORECASE)
_DATA_URI = re.compile(r"data:[^,]{0,255};base64,", re.IGNORECASE)


class PictureSource(Protocol):
    """The pictures of one call: ``InputImages``, or those of another process."""

    def size(self, field: str, text: str) -> tuple[int, int]:
        """See ``InputImages.size``."""

    def picture(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.picture``."""

    def mask(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.mask``."""

    def transparency(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """See ``InputImages.transparency``."""


class InputImages:
    """The pictures of one call; a picture that several instances share is decoded once.

    ``max_pixels`` limits width x height, read from the header before any pixel is decoded.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        # Keep only the last one: all pictures of a call could fill the memory.
        self._last: tuple[str, Image.Image] | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._made: dict[tuple[str, str, tuple[int, int]], InputImage] = {}

    def size(self, field: str, text: str) -> tuple[int, int]:
        """Width and height of the picture in ``field``, upright, in pixels.

        Raises:
            InvalidRequestError: it is not a picture, or it is too large.
        """
        if text not in self._sizes:
            self._sizes[text] = self._opened(field, text).size
        return self._sizes[text]

    def picture(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """The picture as RGB of ``size``; transparent areas lie over white.

        Raises:
            InvalidRequestError: as for ``size``.
        """
        return self._at_size("RGB", field, text, size)

    def mask(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """The picture's luminance as L of ``size``; transparent areas are black.

        Raises:
            InvalidRequestError: as for ``size``; or it is entirely black.
        """
        mask = self._at_size("L", field, text, size)
        if mask.image.getextrema() == (0, 0):
            raise InvalidRequestError(field, "is entirely black; white marks the area to repaint")
        return mask

    def transparency(self, field: str, text: str, size: tuple[int, int]) -> InputImage:
        """The picture's transparency as L of ``size``: transparent areas are white.

        Raises:
            InvalidRequestError: as for ``size``; or it is entirely opaque.
        """
        mask = self._at_size("transparency", field, text, size)
        if mask.image.getextrema() == (0, 0):
            raise InvalidRequestError(
                field, "is entirely opaque; transparency marks the area to repaint"
            )
        return mask

    def _at_size(self, mode: str, field: str, text: str, size: tuple[int, int]) -> InputImage:
        key = (mode, text, size)
        if key not in self._made:
            opened = self._opened(field, text)
            image = _transparency(opened) if mode == "transparency" else _flattened(opened, mode)
            resized = _resized(image, size)
            # Colour profiles and texts of the file, which nothing reads.
            resized.info = {}
            self._made[key] = InputImage.of(resized)
        return self._made[key]

    def _opened(self, field: str, text: str) -> Image.Image:
        if self._last is None or self._last[0] != text:
            self._last = None
            self._last = (text, _open(field, _content(field, text), self._max_pixels))
        return self._last[1]


def _content(field: str, text: str) -> bytes:
    """The bytes of base64 (RFC 4648, section 4) or of a data URI with it (RFC 2397).

    Line breaks and the whitespace around them are skipped, as ``base64`` without ``-w0`` breaks
    lines. A space within a line is an error: it was a plus sign before a form decoded it.
    """
    text = text.lstrip()
    if _URL.match(text):
        raise InvalidRequestError(
            field, "is a URL, and nothing is fetched: send the picture itself as base64"
        )
    encoded = text[found.end() :] if (found := _DATA_URI.match(text)) else text
    try:
        lines = encoded.encode("ascii").splitlines()
        return base64.b64decode(b"".join(line.strip() for line in lines), validate=True)
    except ValueError:
        raise InvalidRequestError(field, "is neither base64 nor a base64 data URI") from None


def _open(field: str, content: bytes, max_pixels: int) -> Image.Image:
    """The first frame, upright, with 8 bits per channel."""
    try:
        with Image.open(io.BytesIO(content), formats=READABLE_FORMATS) as image:
            _check_size(field, image.size, max_pixels)
            # Without these, Pillow copies a picture that is upright already.
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _in_eight_bits(field, image)
    except (InvalidRequestError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidRequestError(field, f"has more than {max_pixels} pixels") from None
    except UnidentifiedImageError:
        known = ", ".join(READABLE_FORMATS)
        raise InvalidRequestError(
            field, f"is not a picture in one of the formats {known}"
        ) from None
    except Exception as error:
        # A broken file can make Pillow's readers raise any exception.
        kind = type(error).__name__
        raise InvalidRequestError(field, f"is damaged or cut off ({kind})") from None


def _check_size(field: str, size: tuple[int, int], max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise InvalidRequestError(
            field, f"{size[0]} x {size[1]} is {pixels} pixels, at most {max_pixels}"
        )
    if max(size) > MAX_SIDE:
        raise InvalidRequestError(field, f"a side has {max(size)} pixels, at most {MAX_SIDE}")
    if max(size) > MAX_ASPECT * min(size):
        raise InvalidRequestError(
            field, f"{size[0]} x {size[1]} is too narrow; at most {MAX_ASPECT} to 1"
        )


def _in_eight_bits(field: str, image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow alone would clip it to white."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.mode not in _MODES:
        raise InvalidRequestError(
            field, f"has pixels in mode {image.mode}; send 8 or 16 bits per channel"
        )
    return image


def _flattened(image: Image.Image, mode: str) -> Image.Image:
    """Convert to ``mode``: RGB over white or L over black."""
    if not image.has_transparency_data:
        return image.convert(mode)
    flat = Image.new(mode, image.size)
    # In strips: three more copies of a large picture would take half a gigabyte.
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        strip = image.crop(box).convert("RGBA")
        background = Image.new("RGBA", strip.size, "white" if mode == "RGB" else "black")
        flat.paste(Image.alpha_composite(background, strip).convert(mode), box)
    return flat


def _transparency(image: Image.Image) -> Image.Image:
    """White where the picture is transparent, as L."""
    flat = Image.new("L", image.size)
    # In strips, as in ``_flattened``.
    for top in range(0, image.height if image.has_transparency_data else 0, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        alpha = image.crop(box).convert("RGBA").getchannel("A")
        flat.paste(ImageOps.invert(alpha), box)
    return flat


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """With the filter that diffusers uses."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def size_from_image(
    own: tuple[int, int], given: Mapping[str, Any], limits: Limits
) -> dict[str, int]:
    """The sides of the result that ``given`` omits, for an input image of the size ``own``.

    One given side sets the other by the picture's aspect ratio. Without any, the result has the
    picture's own size, scaled into the limits and rounded down to the model's multiple.

    Raises:
        InvalidRequestError: no size within the limits has the picture's aspect ratio.
    """
    width, height = own
    if "width" in given and "height" in given:
        return {}
    # Integers, as a given side that is out of bounds can exceed a float. ``Limits`` refuses it.
    if "width" in given:
        return {"height": _rounded(given["width"] * height // width, limits)}
    if "height" in given:
        return {"width": _rounded(given["height"] * width // height, limits)}
    scale = _scale(width, height, limits)
    # Compensate for rounding errors of the scale: 64 must not become 56.
    sides = (int(side * scale + 1e-6) for side in own)
    return {
        name: _rounded(side, limits) for name, side in zip(("width", "height"), sides, strict=True)
    }


def _scale(width: int, height: int, limits: Limits) -> float:
    settings = limits.settings
    most = min(
        settings.max_side / max(width, height), math.sqrt(settings.max_pixels / (width * height))
    )
    least = MIN_SIDE / min(width, height)
    if least > most:
        raise InvalidRequestError(
            "image",
            f"{width} x {height} is too narrow to be scaled into the limits; give width and height",
        )
    return max(min(1.0, most), least)


def _rounded(side: int, limits: Limits) -> int:
    multiple = limits.profile.size_multiple
    return max(MIN_SIDE, side // multiple * multiple)
