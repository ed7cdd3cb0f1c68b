"""Input pictures of a request: which files and pixel formats are read, and which are refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, features

from predictor.errors import InvalidRequestError
from predictor.requests import (
    GenerationDefaults,
    GenerationRequest,
    InputImage,
    Limits,
    ModelProfile,
    Task,
    generation_requests,
)
from predictor.requests.input_images import READABLE_FORMATS, InputImages, size_from_image
from predictor.settings import Settings

MAX_PIXELS = 10_000
RED, BLUE = (220, 30, 30), (40, 70, 220)


def halves(left: Any = RED, right: Any = BLUE, mode: str = "RGB") -> Image.Image:
    """Two squares, 32x16 together, so that a rotation shows."""
    image = Image.new(mode, (32, 16), left)
    image.paste(right, (16, 0, 32, 16))
    return image


def file_of(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def as_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def read(content: bytes, size: tuple[int, int] = (32, 16)) -> Image.Image:
    return InputImages(MAX_PIXELS).picture("image", as_text(content), size).image


def read_mask(content: bytes) -> Image.Image:
    return InputImages(MAX_PIXELS).mask("mask_image", as_text(content), (32, 16)).image


def refusal(text: str) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        InputImages(MAX_PIXELS).picture("image", text, (32, 16))
    assert caught.value.field == "image"
    return caught.value.reason


def shows(image: Image.Image, left: Any = RED, right: Any = BLUE, within: int = 0) -> bool:
    seen = [image.getpixel((8, 8)), image.getpixel((24, 8))]
    return image.mode == "RGB" and all(
        abs(a - b) <= within
        for one, expected in zip(seen, (left, right), strict=True)
        for a, b in zip(one, expected, strict=True)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("file_format", [*READABLE_FORMATS, "MPO"])
def test_every_readable_format_is_read(file_format: str) -> None:
    assert features.check("webp")
    assert features.check("avif")

    # Lossy formats blur edges and round colours.
    assert shows(read(file_of(halves(), file_format)), within=12)


@pytest.mark.parametrize("file_format", ["TGA", "PPM", "ICO", "EPS", "JPEG2000", "PCX"])
def test_other_formats_are_refused(file_format: str) -> None:
    reason = refusal(as_text(file_of(halves(), file_format)))

    assert "PNG" in reason
    assert file_format not in reason.split(", ")


def test_a_data_uri_is_read() -> None:
    text = f"data:image/png;base64,{as_text(file_of(halves()))}"

    assert shows(InputImages(MAX_PIXELS).picture("image", text, (32, 16)).image)


@pytest.mark.parametrize(
    "prefix", ["", "\n", "data:image/png;base64,", " data:image/png;base64,\n"]
)
@pytest.mark.parametrize("separator", ["\n", "\r\n", "\n    "])
def test_base64_may_have_line_breaks(prefix: str, separator: str) -> None:
    lines = base64.encodebytes(file_of(halves())).decode().splitlines()
    assert len(lines) > 1
    text = f"{prefix}{separator.join(lines)}{separator}"

    assert shows(InputImages(MAX_PIXELS).picture("image", text, (32, 16)).image)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" https://example.com/a.png", "nothing is fetched"),
        ("http://169.254.169.254/latest/meta-data", "nothing is fetched"),
        ("HTTPS://example.com/a.png", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("//example.com/a.png", "neither base64"),
        ("data:image/png,%89PNG", "neither base64"),
        ("data:image/png;base64,***", "neither base64"),
        ("kein Bild", "neither base64"),
        ("Bild über base64", "neither base64"),
        ("", "is not a picture"),
        (as_text(b"GIF89a"), "is not a picture"),
        (as_text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "is not a picture"),
    ],
)
def test_a_value_that_is_not_a_picture_is_refused_with_the_reason(text: str, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize("file_format", READABLE_FORMATS)
def test_a_truncated_file_is_refused(file_format: str) -> None:
    content = file_of(Image.radial_gradient("L").resize((64, 48)).convert("RGB"), file_format)

    reason = refusal(as_text(content[: len(content) // 2]))

    assert "damaged or cut off" in reason or "is not a picture" in reason


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied(file_format: str, orientation: int) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = halves().transpose(turned) if turned is not None else halves()
    content = file_of(stored, file_format, exif=exif)

    assert InputImages(MAX_PIXELS).size("image", as_text(content)) == (32, 16)
    assert shows(read(content), within=12)


@pytest.mark.parametrize(
    ("image", "left", "right"),
    [
        (halves(0, 255, "L"), (0, 0, 0), (255, 255, 255)),
        (halves(0, 1, "1"), (0, 0, 0), (255, 255, 255)),
        (halves(0, 65535, "I;16"), (0, 0, 0), (255, 255, 255)),
        (halves(257, 257 * 128, "I;16"), (1, 1, 1), (128, 128, 128)),
        (halves().quantize(4), RED, BLUE),
        (halves((*RED, 255), (*BLUE, 0), "RGBA"), RED, (255, 255, 255)),
        (halves((0, 255), (0, 0), "LA"), (0, 0, 0), (255, 255, 255)),
        (halves((*RED, 255), (*BLUE, 128), "RGBA"), RED, (147, 162, 237)),
    ],
    ids=["grey", "one bit", "16 bits", "16 bits, dark", "palette", "alpha", "grey+alpha", "half"],
)
def test_every_pixel_format_becomes_rgb_over_white(
    image: Image.Image, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    assert shows(read(file_of(image)), left, right)


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = halves(0, 1, "P")
    image.putpalette([*RED, *BLUE])

    assert shows(read(file_of(image, transparency=1)), RED, (255, 255, 255))


def test_cmyk_becomes_rgb() -> None:
    content = file_of(halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "JPEG", quality=100)

    assert shows(read(content), (255, 0, 0), (0, 0, 255), within=3)


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_without_a_known_range_are_refused(mode: str) -> None:
    content = file_of(Image.new(mode, (32, 16)), "TIFF")

    assert f"in mode {mode}" in refusal(as_text(content))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(file_format: str) -> None:
    content = file_of(
        halves(), file_format, save_all=True, append_images=[halves(BLUE, RED)], lossless=True
    )

    with Image.open(io.BytesIO(content)) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert shows(read(content), within=3)


def test_a_picture_is_resized_and_compared_by_its_pixels() -> None:
    images = InputImages(MAX_PIXELS)
    png, gif = as_text(file_of(halves())), as_text(file_of(halves(), "GIF"))

    picture = images.picture("image", png, (64, 64))

    assert picture.image.size == (64, 64)
    assert picture == InputImages(MAX_PIXELS).picture("image", gif, (64, 64))
    assert picture != images.picture("image", png, (32, 16))
    assert picture.parameters() == {"sha256": picture.sha256, "width": 64, "height": 64}
    # The same bytes in rows of another length are another picture.
    assert InputImage.of(Image.new("RGB", (8, 16))) != InputImage.of(Image.new("RGB", (16, 8)))


def test_a_picture_shared_by_instances_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    original = Image.open

    def counted(*arguments: Any, **options: Any) -> Image.Image:
        opened.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(Image, "open", counted)
    images = InputImages(MAX_PIXELS)
    picture, mask = as_text(file_of(halves())), as_text(file_of(halves("white", "black")))
    for _ in range(3):
        images.size("image", picture)
        images.picture("image", picture, (32, 16))
        images.mask("mask_image", mask, (32, 16))

    assert len(opened) == 2


def test_a_mask_marks_white_and_opaque_pixels() -> None:
    coloured = read_mask(file_of(halves("white", "black")))
    grey = read_mask(file_of(halves((200, 255), (255, 0), "LA")))

    assert (coloured.mode, coloured.getpixel((8, 8)), coloured.getpixel((24, 8))) == ("L", 255, 0)
    assert (grey.getpixel((8, 8)), grey.getpixel((24, 8))) == (200, 0)


@pytest.mark.parametrize(
    "mask", [Image.new("L", (8, 8)), Image.new("LA", (8, 8), (255, 0))], ids=["black", "clear"]
)
def test_a_mask_that_marks_nothing_is_refused(mask: Image.Image) -> None:
    with pytest.raises(InvalidRequestError, match="mask_image: is entirely black"):
        read_mask(file_of(mask))


@pytest.mark.parametrize("file_format", READABLE_FORMATS)
def test_too_many_pixels_are_refused_before_decoding(
    file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = as_text(file_of(Image.new("RGB", (200, 51)), file_format))

    def decode(*_: Any) -> None:
        raise AssertionError("pixels are decoded")

    with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        monkeypatch.setattr(type(opened), "load", decode)
    assert "10200 pixels, at most 10000" in refusal(text)


# Pillow itself warns about the first and refuses the second, independent of our bound.
@pytest.mark.parametrize("side", [9_500, 20_000])
def test_a_decompression_bomb_is_refused(side: int) -> None:
    header = file_of(Image.new("1", (8, 8)), "BMP")
    sized = header[:18] + side.to_bytes(4, "little") * 2 + header[26:]

    assert "more than 10000 pixels" in refusal(as_text(sized))


@pytest.mark.parametrize(
    ("own", "given", "settled"),
    [
        ((128, 96), {}, (128, 96)),
        ((100, 71), {}, (96, 64)),
        ((4000, 3000), {}, (1448, 1080)),
        ((8000, 800), {}, (2048, 200)),
        ((32, 16), {}, (128, 64)),
        ((128, 96), {"width": 256}, (256, 192)),
        ((128, 96), {"height": 192}, (256, 192)),
        ((128, 96), {"width": 64, "height": 512}, (64, 512)),
    ],
)
def test_the_size_follows_the_picture(
    own: tuple[int, int], given: dict[str, int], settled: tuple[int, int]
) -> None:
    size = given | size_from_image(own, given, limits())

    assert (size["width"], size["height"]) == settled
    limits().check(GenerationRequest("any", "", 0, *settled, 20, 7.5, "unipc"))


@pytest.mark.parametrize("given", [{"width": 10**400}, {"height": 2056}, {"width": 100}])
def test_a_side_out_of_bounds_is_named(given: dict[str, int]) -> None:
    (field,) = given
    picture = as_text(file_of(Image.new("RGB", (64, 64))))

    with pytest.raises(InvalidRequestError, match=f"^{field}: "):
        generation_requests(
            {"prompt": "any", "image": picture} | given, limits(), InputImages(MAX_PIXELS)
        )


def test_a_picture_too_narrow_for_any_size_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="image: 4000 x 10 is too narrow"):
        size_from_image((4000, 10), {}, limits())


def limits() -> Limits:
    defaults = GenerationDefaults(512, 512, 20, 7.5, "unipc")
    tasks: tuple[Task, ...] = ("text-to-image", "image-to-image")
    profile = ModelProfile("r1", defaults, 8, ("unipc",), tasks=tasks)
    return Limits(Settings(model_dir=Path("/")), profile)
