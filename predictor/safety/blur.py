"""A picture that nobody can make out, and nobody can bring back."""

from __future__ import annotations

from PIL import Image

# All that is left of a picture is the mean colour of so many fields along its longer side.
_FIELDS = 8


def blurred(picture: Image.Image) -> Image.Image:
    """The picture at its size, made again from a few mean colours alone.

    A filter of Gauss can be undone in part; averages cannot.
    """
    longer = max(picture.size)
    fields = tuple(max(1, round(side * _FIELDS / longer)) for side in picture.size)
    means = picture.resize((fields[0], fields[1]), Image.Resampling.BOX)
    return means.resize(picture.size, Image.Resampling.BICUBIC)
