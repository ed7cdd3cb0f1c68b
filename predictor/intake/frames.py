"""Messages between the server and a reader process: a JSON header and bytes."""

from __future__ import annotations

import struct
from typing import IO, Any

import orjson

# The lengths of the header and of the bytes.
_LENGTHS = struct.Struct(">IQ")


def send(stream: IO[bytes], header: dict[str, Any], content: bytes = b"") -> None:
    """Write one message.

    Raises:
        OSError: the other side has ended.
    """
    packed = orjson.dumps(header)
    stream.write(_LENGTHS.pack(len(packed), len(content)))
    stream.write(packed)
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Wait for one message: its header and its bytes.

    Raises:
        EOFError: the other side has ended.
    """
    header_length, content_length = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    header: dict[str, Any] = orjson.loads(_exactly(stream, header_length))
    return header, _exactly(stream, content_length)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content
