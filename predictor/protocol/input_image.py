"""Pictures that a request brings, as base64 or a data URI; nothing is fetched from a URL."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io

from PIL import Image

from predictor.errors import InvalidRequestError
from predictor.types import InputImage


def read_image(field: str, text: str) -> InputImage:
    """Decode the picture in ``field`` as RGB.

    Raises:
        InvalidRequestError: it is no picture.
    """
    try:
        content = base64.b64decode(text.rpartition(",")[2], validate=True)
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (binascii.Error, OSError) as error:
        raise InvalidRequestError(field, f"is no picture: {error}") from None
    return InputImage(image, hashlib.sha256(image.tobytes()).hexdigest())
