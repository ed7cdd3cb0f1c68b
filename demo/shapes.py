"""What the demo model can draw: prompts, matching pictures, and templates to recognise shapes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE = 64
_OVERSAMPLING = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "orange": (250, 140, 20),
    "yellow": (245, 225, 40),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "purple": (140, 40, 170),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}

SHAPES = ("circle", "square", "triangle", "star")


@dataclass(frozen=True)
class Scene:
    """The content of one picture: a coloured shape on a background of another colour."""

    colour: str
    shape: str
    background: str

    @property
    def prompt(self) -> str:
        """The full prompt that the model is trained to follow."""
        return f"{_article(self.colour)} {self.shape} on {_article(self.background)} background"


@dataclass(frozen=True)
class Placement:
    """The position and size of a shape, in pixels of a 64x64 picture."""

    x: float = SIZE / 2
    y: float = SIZE / 2
    radius: float = 20.0

    @classmethod
    def random(cls, rng: random.Random) -> Placement:
        """A placement near the centre, with the whole shape inside the picture."""
        return cls(
            x=SIZE / 2 + rng.uniform(-3, 3),
            y=SIZE / 2 + rng.uniform(-3, 3),
            radius=rng.uniform(18, 23),
        )


def all_scenes() -> Iterator[Scene]:
    """Every combination of two different colours and a shape, in a fixed order."""
    for colour in COLOURS:
        for shape in SHAPES:
            for background in COLOURS:
                if background != colour:
                    yield Scene(colour, shape, background)


def draw(scene: Scene, placement: Placement) -> Image.Image:
    """Draw the scene as an antialiased 64x64 RGB picture."""
    canvas = Image.new("RGB", (SIZE * _OVERSAMPLING,) * 2, COLOURS[scene.background])
    _paint(ImageDraw.Draw(canvas), scene.shape, placement, COLOURS[scene.colour])
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def mask(shape: str, placement: Placement) -> Image.Image:
    """The shape's template: a 64x64 ``L`` picture, 255 inside and 0 outside."""
    canvas = Image.new("L", (SIZE * _OVERSAMPLING,) * 2, 0)
    _paint(ImageDraw.Draw(canvas), shape, placement, 255)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _paint(
    pen: ImageDraw.ImageDraw, shape: str, at: Placement, fill: int | tuple[int, int, int]
) -> None:
    x, y, radius = (value * _OVERSAMPLING for value in (at.x, at.y, at.radius))
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "square":
        half = radius * 0.88
        pen.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    else:
        pen.polygon(_corners(shape, x, y, radius), fill=fill)


def _corners(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    count, inner = {"triangle": (3, 1.0), "star": (10, 0.42)}[shape]
    corners = []
    for index in range(count):
        reach = radius * 1.15 * (inner if index % 2 and shape == "star" else 1.0)
        angle = 2 * math.pi * index / count - math.pi / 2
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners
