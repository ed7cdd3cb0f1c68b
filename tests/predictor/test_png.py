"""PNG files: Pillow reads the same pixels and text from both encoders."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from predictor import images as png

SIZES = [(1, 1), (1, 7), (7, 1), (64, 64), (33, 65), (257, 129)]


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def gradient(width: int, height: int) -> Image.Image:
    ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3)
    return Image.fromarray((ramp // 5 % 256).astype(np.uint8))


@pytest.fixture(params=["isal", "pillow"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both encoders; outside the tests, the installed packages decide."""
    if request.param == "pillow":
        monkeypatch.setattr(png, "isal_zlib", None)
    elif png.isal_zlib is None:
        pytest.skip("the isal wheel is not installed")


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("draw", [noise, gradient])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pillow_reads_the_same_pixels(
    draw: Callable[[int, int], Image.Image], size: tuple[int, int]
) -> None:
    picture = draw(*size)

    read = Image.open(io.BytesIO(png.encode_png(picture, PngInfo())))
    read.load()

    assert (read.format, read.mode, read.size) == ("PNG", "RGB", size)
    assert np.array_equal(read, picture)
    assert read.info == {}


@pytest.mark.usefixtures("encoder")
def test_the_text_is_kept() -> None:
    text = PngInfo()
    text.add_itxt("prompt", "ein Stern, 星, \N{WHITE STAR}")
    text.add_itxt("seed", "7")

    read = Image.open(io.BytesIO(png.encode_png(noise(9, 5), text)))

    assert read.info == {"prompt": "ein Stern, 星, \N{WHITE STAR}", "seed": "7"}
