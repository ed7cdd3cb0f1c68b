"""The clients in README's "Use it from" make pictures with the settings as written there."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
from PIL import Image
from playwright.sync_api import Browser

from demo.judge import look_at
from demo.shapes import Scene
from tests.browser import Visit, browser, needs_chromium
from tests.contract.test_documents import LOCAL, README, curl_blocks, run_as_written
from tests.serving import Server

__all__ = ["browser"]

CLIENTS = README.partition("### Use it from\n")[2].partition("\n## ")[0]
CIRCLE = Scene("red", "circle", "blue")


def shown(file: bytes) -> Scene | None:
    with Image.open(io.BytesIO(file)) as opened:
        seen = look_at(opened.convert("RGB"))
    return next((one for one in (CIRCLE, Scene("red", "star", "blue")) if seen.shows(one)), None)


def test_curl_gets_the_picture(server: Server, tmp_path: Path) -> None:
    (block,) = curl_blocks(CLIENTS)

    run_as_written(block, server, tmp_path)

    assert shown((tmp_path / "link.png").read_bytes()) == Scene("red", "star", "blue")


def test_open_webui_gets_pictures_with_these_settings(server: Server) -> None:
    """Open WebUI with the engine OpenAI sends these fields, and merges further ones as JSON."""
    rows = dict(re.findall(r"^\| ([\w ]+?) \| `([^`]+)` \|$", CLIENTS, re.MULTILINE))
    assert rows["Image Generation Engine"] == "OpenAI"

    answer = httpx.post(
        rows["API Base URL"].replace(LOCAL, server.url) + "/images/generations",
        json={
            "model": rows["Model"],
            "prompt": "a red circle on a blue background",
            "n": 1,
            "size": rows["Image Size"],
            "response_format": "b64_json",
            "num_inference_steps": 1,
        },
        headers={"authorization": "Bearer any"},
        timeout=60,
    )

    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as picture:
        assert picture.format == "PNG", "it stores a bare base64 as PNG"
        assert f"{picture.width}x{picture.height}" == rows["Image Size"]


@needs_chromium
def test_an_image_element_of_another_page_is_a_picture(browser: Browser, server: Server) -> None:
    (element,) = re.findall(rf'^<img src="{LOCAL}.+>$', CLIENTS, re.MULTILINE)
    page = browser.new_page()
    page.set_content(element.replace(LOCAL, server.url))

    image = page.locator("img")
    width = image.evaluate("image => image.decode().then(() => image.naturalWidth)")
    page.close()

    assert width == 64


@needs_chromium
def test_the_page_draws_the_prompt_in_its_address(browser: Browser, server: Server) -> None:
    (fragment,) = re.findall(rf"^{LOCAL}/ui#(.+)$", CLIENTS, re.MULTILINE)

    with Visit.started(browser, server.url, dict(parse_qsl(fragment))) as visit:
        visit.wait_until_described()
        visit.draw(1)
        file = visit.newest_file()

    assert shown(file) == CIRCLE
