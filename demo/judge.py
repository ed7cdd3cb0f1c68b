"""Recognise what a 64x64 picture shows: two colours and the best-fitting shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.shapes import COLOURS, SHAPES, SIZE, Placement, Scene, mask

_FRAME = 6
_LEAST_OVERLAP = 0.75

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sighting:
    """The recognised scene, and the intersection over union with the shape's template."""

    colour: str
    shape: str
    background: str
    overlap: float

    def shows(self, scene: Scene) -> bool:
        """Whether colour, shape and background match ``scene``, with enough overlap."""
        seen = Scene(self.colour, self.shape, self.background)
        return seen == scene and self.overlap >= _LEAST_OVERLAP


def look_at(picture: Image.Image) -> Sighting:
    """Judge a 64x64 RGB picture."""
    names = _nearest_colours(picture)
    frame = np.ones((SIZE, SIZE), dtype=bool)
    frame[_FRAME:-_FRAME, _FRAME:-_FRAME] = False
    background = _dominant(names[frame])
    inside = (names != background) & ~frame
    if not inside.any():
        return Sighting("nothing", "nothing", background, 0.0)
    shape, overlap = _best_shape(inside)
    return Sighting(_dominant(names[inside]), shape, background, overlap)


def _nearest_colours(picture: Image.Image) -> NDArray[np.str_]:
    """The name of the nearest known colour for each pixel, by distance in RGB."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    distances = ((pixels[:, :, None] - palette) ** 2).sum(axis=-1)
    return np.array(list(COLOURS))[distances.argmin(axis=-1)]


def _dominant(names: NDArray[np.str_]) -> str:
    return str(Counter(names.ravel().tolist()).most_common(1)[0][0])


def _best_shape(inside: Mask) -> tuple[str, float]:
    """The shape whose template overlaps best when centred on the centre of mass."""
    centre = _centre_of_mass(inside)
    overlaps = {
        shape: max(
            _overlap(inside, shifted)
            for template in _templates(shape)
            for shifted in _shifts(template, centre)
        )
        for shape in SHAPES
    }
    best = max(overlaps, key=overlaps.__getitem__)
    return best, overlaps[best]


@cache
def _templates(shape: str) -> tuple[Mask, ...]:
    placements = (Placement(radius=radius) for radius in np.arange(14, 27, 0.5))
    return tuple(np.asarray(mask(shape, placement)) > 127 for placement in placements)


def _shifts(template: Mask, centre: tuple[int, int]) -> Iterator[Mask]:
    y, x = (goal - own for goal, own in zip(centre, _centre_of_mass(template), strict=True))
    for nudge_y in (-1, 0, 1):
        for nudge_x in (-1, 0, 1):
            yield np.roll(template, (y + nudge_y, x + nudge_x), axis=(0, 1))


def _centre_of_mass(inside: Mask) -> tuple[int, int]:
    rows, columns = np.nonzero(inside)
    return round(float(rows.mean())), round(float(columns.mean()))


def _overlap(left: Mask, right: Mask) -> float:
    return float((left & right).sum() / (left | right).sum())
