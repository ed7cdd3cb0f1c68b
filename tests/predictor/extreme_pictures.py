"""Files at the edge of what the server accepts, and files made to exhaust it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

from predictor.requests.input_images import MAX_SIDE

MAX_PIXELS = 33_554_432
LARGE = (8192, 4096)


def file_of(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def gradient(mode: str, size: tuple[int, int] = LARGE) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


# Each has as many pixels as ``max_image_pixels`` allows.
ACCEPTED: dict[str, Callable[[], bytes]] = {
    "the widest PNG": lambda: file_of(Image.new("RGBA", (MAX_SIDE, 1024)), "PNG"),
    "the tallest PNG": lambda: file_of(Image.new("LA", (1024, MAX_SIDE)), "PNG"),
    "a PNG with an alpha channel": lambda: file_of(gradient("RGBA"), "PNG", compress_level=1),
    "a turned PNG": lambda: file_of(gradient("RGBA"), "PNG", compress_level=1, exif=turned()),
    "a PNG with 16 bits": lambda: file_of(gradient("L").convert("I;16"), "PNG"),
    "a progressive JPEG": lambda: file_of(gradient("RGB"), "JPEG", progressive=True),
    "a progressive CMYK JPEG": lambda: file_of(gradient("CMYK"), "JPEG", progressive=True),
    "a lossless WebP": lambda: file_of(
        Image.new("RGBA", LARGE, (9, 90, 200, 100)), "WEBP", lossless=True, method=0, exif=turned()
    ),
    "a lossy WebP": lambda: file_of(gradient("RGBA"), "WEBP", method=0, quality=20),
    "an AVIF": lambda: file_of(gradient("RGBA"), "AVIF", speed=10, subsampling="4:4:4"),
    "a GIF": lambda: file_of(gradient("P"), "GIF"),
    "a TIFF": lambda: file_of(gradient("RGBA"), "TIFF", compression="tiff_lzw", exif=turned()),
    "a BMP": lambda: file_of(Image.new("1", LARGE), "BMP"),
}


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A small PNG with additional chunks in front of its pixels."""
    plain = file_of(Image.new("RGB", (64, 64)), "PNG")
    header, rest = plain[:33], plain[33:]
    return header + b"".join(chunk(*one) for one in chunks) + rest


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def interlaced_png() -> bytes:
    """Grey pixels of 0, in the seven passes of Adam7 (PNG specification, 8.2)."""
    width, height = LARGE
    passes = [(8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)]
    rows = b"".join(bytes(1 + width // across) * (height // down) for across, down in passes)
    header = struct.pack(">II5B", width, height, 8, 0, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


ACCEPTED["an interlaced PNG"] = interlaced_png


def exif_bomb(entries: int = 4000, length: int = 1_000_000) -> bytes:
    """A directory whose entries all point to the same bytes; a reader copies each (TIFF 6.0)."""
    start = 8 + 2 + 12 * entries + 4
    fields = b"".join(
        struct.pack("<HHII", 0xC000 + index, 7, length, start) for index in range(entries)
    )
    directory = struct.pack("<H", entries) + fields + struct.pack("<I", 0)
    return b"II*\0\x08\0\0\0" + directory + bytes(length)


def endless_jpeg(scans: int = 300) -> bytes:
    """A progressive JPEG that repeats its last scan; each costs a pass over all pixels."""
    plain = file_of(gradient("L"), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * scans + plain[-2:]


TEXT_BOMB = b"Comment\0\0" + zlib.compress(bytes(2**20 - 10), 9)

HOSTILE: dict[str, Callable[[], bytes]] = {
    "a line of a single pixel": lambda: file_of(Image.new("L", (1, MAX_PIXELS)), "PNG"),
    "compressed texts": lambda: png(*[(b"zTXt", TEXT_BOMB)] * 200),
    "a compressed colour profile": lambda: png(
        (b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000), 9))
    ),
    "EXIF that copies itself": lambda: png((b"eXIf", exif_bomb())),
    "many chunks": lambda: png(*[(b"prIv", b"")] * 200_000),
}
