"""A picture as a link: its meaning, its caching and its errors."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from demo.judge import look_at
from demo.shapes import Scene
from predictor.requests import Limits
from predictor.requests.model_profile import GenerationDefaults, ModelProfile
from predictor.settings import Settings
from predictor.wire_formats import Message
from predictor.wire_formats.picture_link import LinkForm, PictureLink
from tests.predictor.metric_samples import samples
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

LINK = f"/v1/models/{MODEL_NAME}/picture"
CIRCLE = Scene("red", "circle", "blue")
PROFILE = ModelProfile("r1", GenerationDefaults(64, 64, 3, 3.0, "ddim"), 8, ("ddim",))
QUICK = {"prompt": "a red star", "seed": "1", "steps": "2"}


def made_pictures(client: httpx.Client) -> float:
    found = samples(client.get("/metrics").text, "diffusion_megapixels_total")
    return sum(one.value for one in found)


def test_a_link_is_the_picture_of_predict(client: httpx.Client) -> None:
    fields = {"prompt": CIRCLE.prompt, "seed": 7, "guidance_scale": 2.5, "size": "64x64"}

    linked = picture_of(client.get(LINK, params={name: str(one) for name, one in fields.items()}))
    posted = picture_of(client.post(PREDICT, json=fields))

    assert look_at(linked).shows(CIRCLE)
    difference = np.asarray(linked, dtype=int) - np.asarray(posted, dtype=int)
    assert np.abs(difference).max() <= 2


def test_a_browsers_image_element_gets_a_png(client: httpx.Client) -> None:
    accept = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"

    answer = client.get(LINK, params=QUICK, headers={"accept": accept})

    assert answer.headers["content-type"] == "image/png"
    assert picture_of(answer).format == "PNG"


def test_the_template_of_ray_serve_is_served(client: httpx.Client) -> None:
    fields = {"prompt": "a red star", "img_size": "96", "steps": "2"}

    alone = client.get("/imagine", params=fields)
    named = client.get("/imagine", params=fields | {"model": MODEL_NAME})

    assert picture_of(alone).size == picture_of(named).size == (96, 96)


def test_a_link_with_a_seed_is_cached_and_revalidated_without_a_picture(
    client: httpx.Client,
) -> None:
    first = client.get(LINK, params=QUICK)
    before = made_pictures(client)
    tag = first.headers["etag"]

    same = client.get(LINK, params=QUICK, headers={"if-none-match": f'"x", W/{tag}'})

    assert tag.startswith('"')
    assert first.headers["cache-control"] == "max-age=3600"
    assert (same.status_code, same.content) == (304, b"")
    assert "content-type" not in same.headers
    assert (same.headers["etag"], same.headers["cache-control"]) == (tag, "max-age=3600")
    assert made_pictures(client) == before


@pytest.mark.parametrize(
    "change", [{"seed": "2"}, {"prompt": "a star"}, {"steps": "3"}, {"output_format": "webp"}]
)
def test_another_picture_has_another_tag(client: httpx.Client, change: dict[str, str]) -> None:
    tag = client.head(LINK, params=QUICK).headers["etag"]

    other = client.get(LINK, params=QUICK | change, headers={"if-none-match": tag})

    assert other.status_code == 200
    assert other.headers["etag"] != tag


def test_a_link_without_a_seed_is_not_cached(client: httpx.Client) -> None:
    for params in ({"prompt": "a star", "steps": "1"}, QUICK | {"seed": "-1"}):
        answer = client.get(LINK, params=params, headers={"if-none-match": "*"})

        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers


def test_a_disconnected_browser_frees_the_engine(server: Server) -> None:
    written = len(server.log.read_text())
    endless = {"prompt": "a star", "steps": "150", "size": "512x512"}

    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(base_url=server.url, timeout=1) as leaver,
    ):
        leaver.get(LINK, params=endless)

    server.wait_for_log(rf"(?s)\A.{{{written}}}.*the caller left at step \d+ of 1[45]\d")


@pytest.mark.parametrize(
    "change", [{"safety_checker": "blur"}, {"block_list": "blur"}, {"dtype": "bfloat16"}]
)
def test_a_setting_that_changes_the_picture_changes_the_tag(change: dict[str, str]) -> None:
    def tag(settings: Settings) -> str:
        wire_format = PictureLink()
        message = Message(wire_format, b"prompt=a+star&seed=1")
        limits = Limits(settings, PROFILE)
        call = wire_format.decode(message.parse(message.document(), limits), limits)
        assert isinstance(call.form, LinkForm)
        return call.form.etag

    settings = Settings(model_dir="/nowhere")

    assert tag(settings) == tag(settings.model_copy())
    assert tag(settings) != tag(settings.model_copy(update=change))


def test_head_makes_no_picture(client: httpx.Client) -> None:
    before = made_pictures(client)

    answer = client.head(LINK, params=QUICK)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["etag"]
    assert "content-length" not in answer.headers
    assert made_pictures(client) == before


@pytest.mark.parametrize(
    ("path", "query", "error"),
    [
        (LINK, "", "prompt: is missing"),
        (LINK, "prompt=a&size=63x63", "size: 63 is not between 64 and 2048"),
        (LINK, "prompt=a&seed=x", 'seed: must be an integer, not "x"'),
        (LINK, "prompt=a&prompt=b", "prompt: is given twice"),
        (LINK, "prompt=a&guidence_scale=2", "did you mean 'guidance_scale'?"),
        (LINK, "prompt=a&n=2", "n: a link leads to one picture"),
        (LINK, "prompt=%ff", "the query is not valid UTF-8"),
        (LINK, "prompt=a&img_size=64", "img_size: unknown parameter"),
        ("/imagine", "prompt=a&img_size=64&width=64", "width: is given twice"),
        ("/imagine", "prompt=a&img_size=63", "img_size: 63 is not between"),
        ("/imagine", "prompt=a&img_size=big", "img_size: must be an integer"),
    ],
)
def test_a_wrong_query_is_refused(client: httpx.Client, path: str, query: str, error: str) -> None:
    answer = client.get(f"{path}?{query}")

    assert answer.status_code == 400
    assert error in answer.json()["error"]


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    assert client.get("/v1/models/other/picture?prompt=a").status_code == 404
    assert client.get("/imagine?prompt=a&model=other").status_code == 404
