"""Compares pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image


def largest_difference(left: Image.Image, right: Image.Image) -> int:
    """Return the largest difference of any pixel and channel, from 0 to 255."""
    pixels = [np.asarray(picture, dtype=np.int16) for picture in (left, right)]
    return int(np.abs(pixels[0] - pixels[1]).max())
