"""The program of a reader process: parses bodies and decodes pictures, within limits.

The server keeps the small part of a body; pictures stay here until it asks for them. The kernel
enforces the limits on memory and CPU time, because no library here can (``setrlimit(2)``).
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

from predictor.errors import InvalidRequestError
from predictor.intake.frames import receive, send
from predictor.requests import InputImages
from predictor.requests.fields import FIELDS
from predictor.wire_formats import WIRE_FORMATS

logger = logging.getLogger(__name__)

# Beyond the pixels: the interpreter, the body, its base64 and the resized pictures.
_BASE_BYTES = 256 * 2**20
# The decoder of WebP holds a picture four times, with four bytes per pixel.
_BYTES_PER_PIXEL = 16
_CPU_SECONDS = 10

# 16 prompts and negative prompts of 4096 characters, with escapes, take less.
_MAX_DOCUMENT_BYTES = 2**20
# An error quotes the name.
_MAX_NAME_LENGTH = 256
# Shorter strings stay in the document.
_LONG = 1024

_PICTURE_FIELDS = {field.name for field in FIELDS if field.has_picture}


def memory_bytes(max_pixels: int) -> int:
    """The most memory of one reader process, for pictures of up to ``max_pixels``."""
    return _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels


class Reader:
    """Answers the messages about one body after another."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._images = InputImages(0)
        self._bytes = 0

    def answer(self, header: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer to one message; an invalid request is an answer too."""
        try:
            return self._answer(header, content)
        except InvalidRequestError as error:
            return {"field": error.field, "reason": error.reason}, b""
        except MemoryError:
            reason = f"reading it takes more than {self._bytes // 2**20} MiB of memory"
            return {"field": header.get("field", ""), "reason": reason}, b""
        except Exception:
            logger.exception("reading a body failed")
            return {"failed": True}, b""

    def _answer(self, header: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        if header["ask"] == "document":
            self._begin(header["max_pixels"])
            if not content:
                return {}, b""
            document = WIRE_FORMATS[header["wire_format"]].document(content, header["headers"])
            return {}, self._detached_document(document)
        field, text = header["field"], content.decode()
        text = self._texts.get(text, text)
        if header["ask"] == "size":
            return {"size": self._images.size(field, text)}, b""
        read = {
            "picture": self._images.picture,
            "mask": self._images.mask,
            "transparency": self._images.transparency,
        }
        picture = read[header["ask"]](field, text, (header["width"], header["height"]))
        return {"mode": picture.image.mode, "sha256": picture.sha256}, picture.image.tobytes()

    def _begin(self, max_pixels: int) -> None:
        self._texts = {}
        self._images = InputImages(max_pixels)
        self._bytes = memory_bytes(max_pixels)
        _limit(resource.RLIMIT_DATA, self._bytes)
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + _CPU_SECONDS)

    def _detached_document(self, document: dict[str, Any]) -> bytes:
        """The body as JSON, with a key in place of each picture.

        Raises:
            InvalidRequestError: it is too large for its purpose.
        """
        _check_names(document)
        for holder in _holders(document):
            for name in _PICTURE_FIELDS & holder.keys():
                holder[name] = self._detached(holder[name])
        small = json.dumps(document).encode()
        if len(small) > _MAX_DOCUMENT_BYTES:
            raise InvalidRequestError(
                "", f"the body without its pictures is longer than {_MAX_DOCUMENT_BYTES} bytes"
            )
        return small

    def _detached(self, value: Any) -> Any:
        """The value of a picture field, with keys in place of long strings."""
        if isinstance(value, dict):
            return {name: self._detached(inner) for name, inner in value.items()}
        if not isinstance(value, str) or len(value) <= _LONG:
            return value
        key = f"picture {len(self._texts)}"
        self._texts[key] = value
        return key


def _holders(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of a body that may have picture fields."""
    instances = document.get("instances")
    for holder in [document, *(instances if isinstance(instances, list) else [])]:
        if isinstance(holder, dict):
            yield holder
            if isinstance(parameters := holder.get("parameters"), dict):
                yield parameters


def _check_names(document: dict[str, Any]) -> None:
    """Refuse a body with longer names than any request has."""
    stack: list[Any] = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if any(len(name) > _MAX_NAME_LENGTH for name in value):
                raise InvalidRequestError(
                    "", f"the body has a name of more than {_MAX_NAME_LENGTH} characters"
                )
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _limit(kind: int, amount: int) -> None:
    _, hard = resource.getrlimit(kind)
    soft = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(kind, (soft, hard))


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer messages until the server ends."""
    reader = Reader()
    while True:
        try:
            header, content = receive(requests)
            send(answers, *reader.answer(header, content))
        except (EOFError, BrokenPipeError):
            return


if __name__ == "__main__":
    _limit(resource.RLIMIT_CORE, 0)
    # Nothing that a library prints may end up between the answers.
    answer_stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answer_stream)
