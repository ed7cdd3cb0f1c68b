"""The page at ``/ui`` in a real browser, against a real server."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, expect

from demo.judge import look_at
from demo.shapes import Scene
from predictor.edge.page_routes import CONTENT_SECURITY_POLICY
from predictor.ui.page_files import read_page_files
from tests.browser import Visit, browser, needs_chromium
from tests.serving import PREDICT, Server, picture_of

__all__ = ["browser"]

SCENE = Scene("red", "circle", "blue")
# Pictures that the demo model does not draw by itself: each pixel differs from its neighbours.
NOISE = Image.fromarray(
    np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8), "RGB"
)


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    """The page with a filled-in prompt, on a wide screen."""
    fragment = {"prompt": SCENE.prompt, "seed": 424242}
    with Visit.started(browser, server.url, fragment) as opened:
        opened.wait_until_described()
        yield opened


def png_of(picture: Image.Image) -> FilePayload:
    file = io.BytesIO()
    picture.save(file, "png")
    return {"name": "input.png", "mimeType": "image/png", "buffer": file.getvalue()}


def opened(file: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(file))
    picture.load()
    return picture


def test_the_page_and_its_files_have_a_strict_policy(client: httpx.Client) -> None:
    page = client.get("/ui")
    tags = Elements(page.text).found
    links = {one["href"] for tag, one in tags if tag == "link"}
    links |= {one["src"] for tag, one in tags if tag in ("script", "img") and one.get("src")}

    assert "default-src 'self';" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert len(links) >= 3
    names = [name for name in read_page_files() if name != "index.html"]
    for path in ("/ui", *(f"/{link}" for link in links), *(f"/ui/{name}" for name in names)):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b""), path


def test_the_page_has_no_inline_code_and_labels_every_control(client: httpx.Client) -> None:
    tags = Elements(client.get("/ui").text).found
    labelled = {one["for"] for tag, one in tags if tag == "label" and "for" in one}
    inside_labels = {"use-mask", "erase"}
    controls = [one for tag, one in tags if tag in ("input", "select", "textarea", "canvas")]

    assert [one for tag, one in tags if tag == "script" and "src" not in one] == []
    assert [tag for tag, one in tags if tag == "style" or {"style", "onclick"} & one.keys()] == []
    assert len(controls) > 20
    named = labelled | inside_labels
    bare = [one for one in controls if "aria-label" not in one and one.get("id") not in named]
    # The template of an adapter, which the page completes.
    assert [one["type"] for one in bare] == ["checkbox", "number"]


def test_other_paths_below_the_page(client: httpx.Client) -> None:
    slash, missing, written = (
        client.get("/ui/"),
        client.get("/ui/missing.js"),
        client.post("/ui"),
    )

    assert (slash.status_code, slash.headers["location"]) == (307, "../ui")
    assert missing.status_code == 404
    assert "/ui/missing.js does not exist; the server has " in missing.json()["error"]
    assert "GET /ui," in missing.json()["error"]
    assert (written.status_code, written.headers["allow"]) == (405, "GET, HEAD")


def test_a_setting_turns_the_page_off(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ui": False, "max_download_wait_seconds": 600}
    with Server.started(tmp_path, tmp_path / "log", **settings) as server:
        server.wait_for("/")
        statuses = [httpx.get(server.url + path).status_code for path in ("/ui", "/ui/main.js")]

    assert statuses == [404, 404]


@needs_chromium
def test_the_first_picture_shows_the_filled_in_prompt(visit: Visit, server: Server) -> None:
    expect(visit.control("Prompt")).to_have_value(SCENE.prompt)
    visit.page.keyboard.press("Control+Enter")
    visit.wait_for_pictures(1)

    assert look_at(opened(visit.newest_file())).shows(SCENE)
    expect(visit.page.get_by_role("img", name=SCENE.prompt)).to_be_visible()
    expect(visit.page.get_by_text("Done in")).to_be_visible()
    assert visit.console == []
    elsewhere = [one for one in visit.requested if not one.startswith((server.url, "blob:"))]
    assert elsewhere == []


@needs_chromium
def test_the_form_has_the_bounds_and_defaults_of_the_model(visit: Visit) -> None:
    width = visit.control("Width")
    expect(width).to_have_value("64")
    assert [width.get_attribute(name) for name in ("min", "max", "step")] == ["64", "2048", "8"]
    expect(visit.control("Scheduler")).to_have_value("unipc")
    assert visit.control("Scheduler").locator("option").count() > 10
    # The demo model has neither.
    expect(visit.page.get_by_text("ControlNet", exact=True)).to_be_hidden()
    expect(visit.page.get_by_text("Adapters (LoRA)")).to_be_hidden()


@needs_chromium
def test_the_same_seed_again_gives_the_same_bytes(visit: Visit) -> None:
    visit.control("Seed").fill("")
    visit.draw(1)
    first = visit.newest_file()
    visit.control("Prompt").fill("a green square on a white background")
    visit.button("Again with this seed").click()
    visit.wait_for_pictures(2)

    assert visit.newest_file() == first
    expect(visit.control("Prompt")).to_have_value(SCENE.prompt)
    expect(visit.control("Seed")).to_have_value(str(opened(first).info["seed"]))


@needs_chromium
def test_progress_is_shown_and_cancelling_stops_the_server(visit: Visit, server: Server) -> None:
    written = len(server.log.read_text())
    visit.control("Steps").fill("150")
    visit.control("Pictures").fill("16")
    visit.button("Draw").click()

    expect(visit.page.get_by_text(re.compile(r"^step [1-9]\d* of 2400$"))).to_be_visible()
    bar = visit.page.get_by_role("progressbar", name="Progress")
    assert bar.get_attribute("max") == "2400"
    visit.button("Cancel").click()
    expect(visit.page.get_by_text("Cancelled")).to_be_visible()
    expect(bar).to_be_hidden()
    server.wait_for_log(rf"(?s)\A.{{{written}}}.*the caller left at step")


@needs_chromium
def test_previews_are_shown_until_the_picture_is_done(visit: Visit) -> None:
    visit.control("Steps").fill("150")
    visit.control("Pictures").fill("16")
    visit.button("Draw").click()

    preview = visit.page.get_by_role("img", name=re.compile("^Preview after step"))
    expect(preview.first).to_be_visible()
    size = preview.first.evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert size == 64
    visit.button("Cancel").click()
    expect(preview).to_have_count(0)
    visit.control("Steps").fill("8")
    visit.control("Pictures").fill("1")
    visit.draw(1)
    expect(preview).to_have_count(0)
    assert visit.console == []


@needs_chromium
def test_a_mask_changes_only_the_painted_area(visit: Visit) -> None:
    visit.page.get_by_text("Start from a picture", exact=True).click()
    visit.control("Input picture").set_input_files(png_of(NOISE))
    expect(visit.control("Width")).to_have_value("")
    visit.control("Repaint only a part").check()
    mask = visit.page.get_by_label("Mask. Paint")
    mask.scroll_into_view_if_needed()
    box = mask.bounding_box()
    assert box
    # A dot with the default radius of 15 % in the middle.
    visit.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.draw(1)

    result = np.asarray(opened(visit.newest_file()).convert("RGB"), np.int16)
    changed = np.abs(result - np.asarray(NOISE, np.int16)).max(axis=2)
    rows, columns = np.mgrid[:64, :64]
    distance = np.hypot(rows - 31.5, columns - 31.5)
    radius = 0.15 * 64
    assert changed[distance > radius + 2].max() == 0
    assert np.median(changed[distance < radius - 2]) > 20


@needs_chromium
def test_the_keyboard_paints_a_mask_too(visit: Visit) -> None:
    visit.page.get_by_text("Start from a picture", exact=True).click()
    visit.control("Input picture").set_input_files(png_of(NOISE))
    visit.control("Repaint only a part").check()
    mask = visit.page.get_by_label("Mask. Paint")
    expect(mask).to_be_visible()
    mask.focus()
    for key in ("ArrowLeft", "ArrowLeft", " "):
        visit.page.keyboard.press(key)
    with visit.page.expect_request(lambda request: request.url.endswith(":predict")) as sent:
        visit.button("Draw").click()
    painted = opened(base64.b64decode(sent.value.post_data_json["mask_image"])).convert("L")

    assert painted.size == (64, 64)
    # The middle, moved to the left by two twentieths of the width.
    assert [painted.getpixel((x, 32)) for x in (26, 40, 60)] == [255, 0, 0]
    visit.wait_for_pictures(1)


@needs_chromium
@pytest.mark.parametrize("is_dropped", [True, False])
def test_the_parameters_of_a_picture_fill_the_form(
    browser: Browser, server: Server, client: httpx.Client, is_dropped: bool
) -> None:
    prompt = "a blue star, étoile bleue, 星"
    values = {"seed": 77, "num_inference_steps": 3, "guidance_scale": 2.25, "scheduler": "euler"}
    sizes = {"width": 128, "height": 64, "negative_prompt": "a circle", "clip_skip": 1}
    syntax = {"prompt_syntax": "weighted"}
    response = client.post(PREDICT, json={"prompt": prompt, **values, **sizes, **syntax})
    picture_of(response)
    # The policy would keep Playwright from creating the event.
    with Visit.started(browser, server.url, {}, bypass_csp=is_dropped) as visit:
        visit.wait_until_described()
        visit.control("Pictures").fill("3")
        if is_dropped:
            drop(visit, response.content)
        else:
            visit.page.get_by_text("More settings").click()
            file: FilePayload = {"name": "p.png", "mimeType": "image/png", "buffer": b""}
            file["buffer"] = response.content
            visit.control("Read the parameters of a picture").set_input_files(file)

        expect(visit.page.get_by_text("Parameters read.")).to_be_visible()
        shown = {
            "Prompt": prompt,
            "Negative prompt": "a circle",
            "Seed": "77",
            "Steps": "3",
            "Guidance": "2.25",
            "Scheduler": "euler",
            "Width": "128",
            "Height": "64",
            "CLIP skip": "1",
            "Prompt syntax": "weighted",
            "Pictures": "1",
        }
        for label, value in shown.items():
            expect(visit.control(label)).to_have_value(value)


@needs_chromium
def test_the_parameters_of_a_picture_of_a1111_fill_the_form(
    visit: Visit, client: httpx.Client
) -> None:
    fields = {"prompt": "a blue star", "seed": 77, "steps": 3, "cfg_scale": 2.25}
    made = client.post("/sdapi/v1/txt2img", json=fields).raise_for_status().json()
    picture: FilePayload = {"name": "p.png", "mimeType": "image/png", "buffer": b""}
    picture["buffer"] = base64.b64decode(made["images"][0])
    visit.page.get_by_text("More settings").click()
    visit.control("Read the parameters of a picture").set_input_files(picture)

    expect(visit.page.get_by_text("Parameters read.")).to_be_visible()
    shown = {"Prompt": "a blue star", "Seed": "77", "Steps": "3", "Guidance": "2.25"}
    for label, value in shown.items():
        expect(visit.control(label)).to_have_value(value)


def drop(visit: Visit, file: bytes) -> None:
    """Drop a file on the prompt."""
    transfer = visit.page.evaluate_handle(
        """encoded => {
          const bytes = Uint8Array.from(atob(encoded), one => one.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "p.png", { type: "image/png" }));
          return transfer;
        }""",
        base64.b64encode(file).decode(),
    )
    visit.control("Prompt").dispatch_event("drop", {"dataTransfer": transfer})


@needs_chromium
def test_a_picture_without_parameters_changes_nothing(visit: Visit) -> None:
    visit.page.get_by_text("More settings").click()
    visit.control("Read the parameters of a picture").set_input_files(png_of(NOISE))

    alert = visit.page.get_by_role("alert")
    expect(alert).to_contain_text("input.png has no parameters of this server.")
    expect(visit.control("Prompt")).to_have_value(SCENE.prompt)


@needs_chromium
@pytest.mark.parametrize(
    ("label", "field", "value"),
    [("Width", "width", 63), ("Steps", "num_inference_steps", 9999), ("Prompt", "prompt", " ")],
)
def test_an_error_is_the_servers_sentence_at_its_field(
    visit: Visit, client: httpx.Client, label: str, field: str, value: object
) -> None:
    said = client.post(PREDICT, json={"prompt": SCENE.prompt, field: value}).json()["error"]
    visit.control(label).fill(str(value))
    visit.button("Draw").click()

    expect(visit.page.get_by_role("alert")).to_contain_text(said)
    expect(visit.control(label)).to_have_attribute("aria-invalid", "true")
    visit.control(label).fill({"width": "64", "num_inference_steps": "1"}.get(field, "a star"))
    visit.draw(1)
    expect(visit.page.get_by_role("alert")).to_be_hidden()
    expect(visit.control(label)).not_to_have_attribute("aria-invalid", "true")


@needs_chromium
def test_an_error_that_ends_a_stream_has_the_advice_of_its_status(visit: Visit) -> None:
    data = '{"error":"the server shuts down","status":503,"retry_after":7}'
    event = f"event: error\ndata: {data}\n\n"
    visit.page.route(
        "**/*:predict",
        lambda route: route.fulfill(content_type="text/event-stream", body=event),
    )
    visit.button("Draw").click()

    alert = visit.page.get_by_role("alert")
    expect(alert).to_contain_text("the server shuts down")
    expect(alert).to_contain_text("Try again in 7 seconds.")


@needs_chromium
def test_the_page_is_dark_for_a_browser_that_prefers_it(browser: Browser, server: Server) -> None:
    def colours(scheme: str) -> list[int]:
        with Visit.started(browser, server.url, {}, color_scheme=scheme) as visit:
            found: list[str] = visit.page.evaluate(
                """() => {
                  const { backgroundColor, color } = getComputedStyle(document.body);
                  return [backgroundColor, color];
                }"""
            )
        return [sum(map(int, re.findall(r"\d+", one)[:3])) for one in found]

    (light, on_light), (dark, on_dark) = colours("light"), colours("dark")

    assert light > 600 > 200 > on_light
    assert dark < 200 < 600 < on_dark


@needs_chromium
def test_a_phone_shows_the_whole_form(browser: Browser, server: Server) -> None:
    size: Any = {"width": 390, "height": 844}
    with Visit.started(browser, server.url, {"prompt": SCENE.prompt}, viewport=size) as visit:
        visit.wait_until_described()
        visit.page.get_by_text("Start from a picture", exact=True).click()
        visit.draw(1)
        controls = visit.page.locator("input:visible, select:visible, textarea:visible, button")
        boxes = [box for one in controls.all() if (box := one.bounding_box())]

        assert len(boxes) > 15
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
        # The newest picture has come into sight.
        expect(visit.page.get_by_role("img", name=SCENE.prompt)).to_be_in_viewport()
