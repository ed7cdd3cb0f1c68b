"""Pictures to files: PNG, JPEG or WebP, with what made the picture written inside."""

from __future__ import annotations

import io
import json
from typing import Any, Literal, get_args

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from predictor.png import encode_png

OutputFormat = Literal["png", "jpeg", "webp"]

# Media types (RFC 2046, RFC 9649) to the formats they ask for.
FORMATS: dict[str, OutputFormat] = {f"image/{name}": name for name in get_args(OutputFormat)}

_LOSSY_QUALITY = 92


def encode_image(
    image: Image.Image, output_format: OutputFormat, metadata: dict[str, Any] | None
) -> bytes:
    """Encode an RGB picture; ``metadata`` goes into PNG text chunks, or EXIF for the others."""
    if output_format == "png":
        return encode_png(image, _png_text(metadata or {}))
    stream = io.BytesIO()
    exif = _exif(metadata) if metadata else b""
    image.save(stream, output_format, quality=_LOSSY_QUALITY, exif=exif)
    return stream.getvalue()


def _png_text(metadata: dict[str, Any]) -> PngInfo:
    """One international text chunk a field: prompts are UTF-8 (PNG specification, 11.3.3.4)."""
    text = PngInfo()
    for name, value in metadata.items():
        text.add_itxt(name, value if isinstance(value, str) else json.dumps(value))
    return text


def _exif(metadata: dict[str, Any]) -> bytes:
    """One JSON document as the user comment, in EXIF 2.3's ASCII encoding (tag 0x9286)."""
    exif = Image.Exif()
    fields = exif.get_ifd(ExifTags.IFD.Exif)
    fields[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + json.dumps(metadata).encode("ascii")
    return exif.tobytes()
