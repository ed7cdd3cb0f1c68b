"""Image to image and inpainting over HTTP: their meaning and their errors."""

from __future__ import annotations

import base64
import io
import re
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.judge import look_at
from demo.shapes import SIZE, Placement, Scene, draw
from tests.predictor.pictures import largest_difference
from tests.predictor.test_refusals import refusal
from tests.serving import PREDICT, Server, picture_of

CIRCLE = Scene("red", "circle", "blue")
STAR = Scene("yellow", "star", "black")
# A place where the model would not put it by itself.
PICTURE = draw(CIRCLE, Placement(x=26, y=36, radius=18))
MASK = Image.new("L", (SIZE, SIZE))
MASK.paste(255, (8, 8, 56, 56))


def as_text(image: Image.Image, file_format: str = "PNG") -> str:
    stream = io.BytesIO()
    image.save(stream, file_format)
    return base64.b64encode(stream.getvalue()).decode()


def ask(client: httpx.Client, **body: Any) -> Image.Image:
    return picture_of(client.post(PREDICT, json=body))


def share_of_equal_pixels(left: Image.Image, right: Image.Image) -> float:
    """Return the fraction of pixels that are nearly equal."""
    pixels = [np.asarray(picture, dtype=np.int16) for picture in (left, right)]
    return float((np.abs(pixels[0] - pixels[1]).max(axis=-1) < 60).mean())


def test_a_higher_strength_follows_the_prompt_more(client: httpx.Client) -> None:
    body = {"prompt": STAR.prompt, "image": as_text(PICTURE), "seed": 1}

    kept = ask(client, **body, strength=0.15)
    followed = ask(client, **body, strength=0.9)
    by_default = ask(client, **body)

    assert look_at(kept).background == "blue"
    assert share_of_equal_pixels(kept, PICTURE) > 0.8
    assert look_at(followed).shows(STAR)
    assert look_at(by_default).shows(STAR)
    assert share_of_equal_pixels(followed, PICTURE) < 0.3


@pytest.mark.parametrize("strength", [None, 0.8])
def test_inpainting_draws_the_prompt_only_inside_the_mask(
    client: httpx.Client, strength: float | None
) -> None:
    scene = Scene("yellow", "star", "blue")

    made = ask(
        client,
        prompt=scene.prompt,
        image=as_text(PICTURE),
        mask_image=as_text(MASK),
        strength=strength,
        seed=2,
    )

    outside = np.asarray(MASK) == 0
    assert (np.asarray(made)[outside] == np.asarray(PICTURE)[outside]).all()
    assert look_at(made).shows(scene)


def test_a_grey_mask_blends_both(client: httpx.Client) -> None:
    grey = MASK.point(lambda value: min(value, 160))
    body = {"prompt": STAR.prompt, "image": as_text(PICTURE), "seed": 3}

    full = ask(client, **body, mask_image=as_text(MASK))
    mixed = ask(client, **body, mask_image=as_text(grey))

    assert largest_difference(mixed, Image.composite(full, PICTURE, grey)) <= 2


def test_the_same_seed_gives_the_same_picture_alone_and_in_a_batch(client: httpx.Client) -> None:
    image, mask = as_text(PICTURE), as_text(MASK)
    bodies: list[dict[str, Any]] = [
        {"prompt": STAR.prompt, "image": image, "seed": 4},
        {"prompt": STAR.prompt, "image": image, "mask_image": mask, "seed": 4},
        {"prompt": STAR.prompt, "seed": 4},
    ]
    alone = [ask(client, **body) for body in bodies]

    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: ask(client, **body), bodies))

    for one, other in zip(alone, together, strict=True):
        assert largest_difference(one, other) <= 2
    assert share_of_equal_pixels(alone[0], alone[1]) < 1


def test_every_picture_of_a_call_has_its_own_task_and_seed(client: httpx.Client) -> None:
    response = client.post(
        PREDICT,
        json={
            "instances": [
                {"prompt": STAR.prompt, "num_images_per_prompt": 2},
                {"prompt": STAR.prompt, "mask_image": as_text(MASK), "output_format": "webp"},
            ],
            "parameters": {"image": as_text(PICTURE), "seed": 5, "num_inference_steps": 8},
        },
    )

    assert response.status_code == 200, response.text
    predictions = response.json()["predictions"]
    assert [one["seed"] for one in predictions] == [5, 6, 5]
    assert [one["strength"] for one in predictions] == [0.8, 0.8, 1.0]
    assert ["mask_image" in one for one in predictions] == [False, False, True]
    assert [one["input_image"]["width"] for one in predictions] == [64, 64, 64]
    assert len({one["image"]["b64"] for one in predictions}) == 3


def test_the_size_defaults_to_that_of_the_input(client: httpx.Client) -> None:
    body = {"prompt": STAR.prompt, "image": as_text(PICTURE.resize((131, 70)))}

    assert ask(client, **body, num_inference_steps=2).size == (128, 64)
    assert ask(client, **body, num_inference_steps=2, width=64).size == (64, 64)
    assert ask(client, **body, num_inference_steps=2, width=64, height=96).size == (64, 96)


def test_progress_counts_the_steps_that_strength_keeps(client: httpx.Client) -> None:
    response = client.post(
        PREDICT,
        json={
            "prompt": STAR.prompt,
            "image": as_text(PICTURE),
            "num_inference_steps": 60,
            "strength": 0.5,
        },
        headers={"accept": "text/event-stream"},
    )

    totals = {int(steps) for steps in re.findall(r'"steps":(\d+)}', response.text)}
    assert totals == {30}
    assert "event: result" in response.text


REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("a URL", {"image": "https://example.com/a.png"}, ["image", "URL", "nothing is fetched"]),
    ("a path", {"image": "/etc/passwd"}, ["image", "neither base64"]),
    ("no base64", {"image": "a picture"}, ["image", "neither base64"]),
    ("no picture", {"image": "aGVsbG8="}, ["image", "is not a picture", "PNG"]),
    ("another format", {"image": as_text(PICTURE, "EPS")}, ["image", "is not a picture"]),
    ("half a picture", {"image": as_text(PICTURE)[:400]}, ["image", "damaged or cut off"]),
    ("a number", {"image": 3}, ["image", "3", "string"]),
    ("too narrow", {"image": as_text(Image.new("L", (900, 2)))}, ["image", "900 x 2", "narrow"]),
    ("a bad mask", {"mask_image": "aGVsbG8="}, ["mask_image", "is not a picture"]),
    ("an empty mask", {"mask_image": as_text(Image.new("L", (8, 8)))}, ["mask_image", "black"]),
    ("no strength left", {"strength": 0.04}, ["strength", "0.04", "20 steps", "0.05"]),
    ("strength over one", {"strength": 1.5}, ["strength", "1.5", "0 and 1"]),
    ("strength as a word", {"strength": "much"}, ["strength", '"much"']),
    ("a width alone", {"width": 100}, ["width", "100", "96", "104"]),
    ("a huge width", {"width": 10**9, "height": 64}, ["width", "2048"]),
    (
        "mask alone",
        {"image": None, "mask_image": as_text(MASK)},
        ["mask_image", "requires `image`"],
    ),
    ("strength alone", {"image": None, "strength": 0.5}, ["strength", "requires `image`"]),
]


@pytest.mark.parametrize(
    ("parameters", "expected"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_an_invalid_picture_is_a_400_that_names_the_field(
    client: httpx.Client, parameters: dict[str, Any], expected: list[str]
) -> None:
    body = {"prompt": STAR.prompt, "image": as_text(PICTURE), **parameters}
    good = {"prompt": STAR.prompt}

    flat = refusal(client.post(PREDICT, json=body))
    listed = refusal(client.post(PREDICT, json={"instances": [good, body]}))

    assert [word for word in expected if word not in flat] == []
    assert listed == f"instances[1].{flat}"


def bomb(side: int) -> str:
    """A valid PNG of ``side`` x ``side`` black pixels in a thousandth of their bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side), 1))
    content = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    return base64.b64encode(content).decode()


def peak_bytes(server: Server) -> int:
    """Return the peak memory of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# Above our limit, above the limit of Pillow's warning, and above that of its error.
@pytest.mark.parametrize("side", [8_000, 12_000, 20_000])
@pytest.mark.parametrize("field", ["image", "mask_image"])
def test_a_decompression_bomb_is_rejected_without_taking_memory(
    client: httpx.Client, server: Server, side: int, field: str
) -> None:
    text = bomb(side)
    body = {"prompt": STAR.prompt, "image": as_text(PICTURE), field: text}
    refusal(client.post(PREDICT, json=body | {field: "aGVsbG8="}))
    before = peak_bytes(server)

    error = refusal(client.post(PREDICT, json=body))

    assert error.startswith(f"{field}: ")
    assert "33554432" in error
    # Decoded, it would take at least a byte per pixel.
    assert peak_bytes(server) - before < side * side / 4


def test_probes_are_answered_while_pictures_are_decoded(client: httpx.Client) -> None:
    gradient = Image.linear_gradient("L").resize((5_000, 5_000))
    two = {"image": as_text(gradient, "JPEG"), "mask_image": as_text(gradient.rotate(90), "JPEG")}
    # Of different sizes, so that each is decoded; the last one makes the request invalid.
    instances: list[dict[str, Any]] = [
        {"prompt": STAR.prompt, "width": 64, "height": 64 + 8 * index} for index in range(3)
    ]
    instances[-1]["strength"] = 0.0
    body = {"instances": instances, "parameters": two}

    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(lambda: client.post(PREDICT, json=body))
        probes = 0
        while not asked.done():
            assert client.get("/v2/health/live").status_code == 200
            probes += 1
            time.sleep(0.01)

    assert "instances[2].strength" in refusal(asked.result())
    # If the event loop decoded them, only two or three probes would be answered, before and after.
    assert probes > 8
