"""Encodes pictures as PNG, JPEG or WebP files that contain their generation parameters.

PNG uses ISA-L's deflate if the ``isal`` wheel is installed, else Pillow's.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any, Literal, get_args

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]  # mypy has no optional modules

OutputFormat = Literal["png", "jpeg", "webp"]

# Media types (RFC 2046, RFC 9649) to formats.
FORMATS: dict[str, OutputFormat] = {f"image/{name}": name for name in get_args(OutputFormat)}
# Not registered, but many clients send it.
FORMATS["image/jpg"] = "jpeg"

_LOSSY_QUALITY = 92

# The most characters of JSON in EXIF. In JPEG, EXIF is one segment of at most 65,533 bytes (ITU-T
# T.81, B.1.1.4), and its own structure takes less than 533. WebP has no limit below 4 GiB.
_MAX_EXIF_LENGTH: dict[OutputFormat, int] = {"jpeg": 65_000}

# Level 1 takes a quarter of the time of Pillow's default; files grow by a few percent.
_LEVEL = 1

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bit depth 8, colour type 2 (RGB), deflate, the five row filters, not interlaced.
_RGB8 = (8, 2, 0, 0, 0)
_UP_FILTER = 2


def encode_image(
    image: Image.Image,
    output_format: OutputFormat,
    metadata: dict[str, Any] | None,
    quality: int | None = None,
) -> bytes:
    """Encode an RGB picture; ``metadata`` goes into PNG text chunks, or EXIF in other formats.

    ``quality``, 0 to 100, is for JPEG and WebP; None for 92.
    """
    if output_format == "png":
        return encode_png(image, _png_text(metadata or {}))
    stream = io.BytesIO()
    exif = _exif(metadata, _MAX_EXIF_LENGTH.get(output_format)) if metadata else b""
    lossy = _LOSSY_QUALITY if quality is None else quality
    image.save(stream, output_format, quality=lossy, exif=exif)
    return stream.getvalue()


def _png_text(metadata: dict[str, Any]) -> PngInfo:
    """One international text chunk per field, in UTF-8 (PNG specification, 11.3.3.4)."""
    text = PngInfo()
    for name, value in metadata.items():
        content = value if isinstance(value, str) else json.dumps(value)
        # The specification forbids this one character.
        text.add_itxt(name, content.replace("\0", "\N{REPLACEMENT CHARACTER}"))
    return text


def _exif(metadata: dict[str, Any], most: int | None) -> bytes:
    """One JSON document as the user comment, in EXIF 2.3's ASCII encoding (tag 0x9286)."""
    exif = Image.Exif()
    fields = exif.get_ifd(ExifTags.IFD.Exif)
    comment = json.dumps(metadata) if most is None else _fitting_json(metadata, most)
    fields[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + comment.encode("ascii")
    return exif.tobytes()


def _fitting_json(metadata: dict[str, Any], most: int) -> str:
    """The metadata as JSON of at most ``most`` characters.

    If it is longer, its longest texts are cut and end with an ellipsis, and ``shortened`` is true.
    """
    document = json.dumps(metadata)
    longest = most
    while len(document) > most and longest:
        longest = longest * 9 // 10
        document = json.dumps(_with_texts_cut(metadata, longest) | {"shortened": True})
    return document if len(document) <= most else json.dumps({"shortened": True})


def _with_texts_cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[:longest]}…"
    if isinstance(value, dict):
        return {name: _with_texts_cut(one, longest) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_texts_cut(one, longest) for one in value]
    return value


def encode_png(image: Image.Image, text: PngInfo) -> bytes:
    """Encode an RGB picture with text chunks."""
    if isal_zlib is None:
        return encode_with_pillow(image, text)
    header = struct.pack(">II5B", *image.size, *_RGB8)
    pixels = isal_zlib.compress(_filtered_rows(image), _LEVEL)
    chunks = [(b"IHDR", header), *(chunk[:2] for chunk in text.chunks)]
    chunks += [(b"IDAT", pixels), (b"IEND", b"")]
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def encode_with_pillow(image: Image.Image, text: PngInfo) -> bytes:
    """The same picture and text; several times slower."""
    stream = io.BytesIO()
    image.save(stream, "png", compress_level=_LEVEL, pnginfo=text)
    return stream.getvalue()


def _filtered_rows(image: Image.Image) -> bytes:
    """Each row as the filter type and its difference from the row above (PNG, 9.2)."""
    pixels = np.asarray(image)
    height, width, channels = pixels.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = _UP_FILTER
    rows[:, 1:] = pixels.reshape(height, -1)
    # Unsigned bytes wrap around, as the arithmetic modulo 256 of the specification requires.
    rows[1:, 1:] -= pixels.reshape(height, -1)[:-1]
    return rows.tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data, checksum (PNG specification, 5.3)."""
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
