"""OpenAI's Images API with OpenAI's client: meaning, fields, errors, streams."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import httpx2
import numpy as np
import openai
import pytest
from openai.types.image_edit_params import ImageEditParamsStreaming
from openai.types.image_generate_params import ImageGenerateParamsStreaming
from PIL import Image

from demo.judge import look_at
from demo.shapes import SIZE, Placement, Scene, draw
from modelstore import Marker
from predictor.edge.error_responses import response_to
from predictor.edge.progress import Progress
from predictor.edge.stream import stream
from predictor.errors import GenerationFailedError, OverloadedError
from predictor.request_context import RequestContext, enter_request
from predictor.requests.fields import CANONICAL
from predictor.wire_formats import error_form
from predictor.wire_formats.openai_fields import REFUSED, ImageFields, ImageOptions
from predictor.wire_formats.openai_responses import ImagesForm
from tests.predictor.metric_samples import samples
from tests.serving import MODEL_NAME, PREDICT, Server, picture_of

CIRCLE = Scene("red", "circle", "blue")
STAR = Scene("yellow", "star", "blue")
PICTURE = draw(CIRCLE, Placement(x=26, y=36, radius=18))
# Transparent where the picture may change.
TRANSPARENT = (8, 8, 56, 56)


@pytest.fixture(params=["/v1", "/openai/v1"], ids=["v1", "kserve prefix"])
def both(request: pytest.FixtureRequest, server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server, request.param) as opened:
        yield opened


@pytest.fixture
def api(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as opened:
        yield opened


def client_of(server: Server, prefix: str = "/openai/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + prefix, api_key="unused", max_retries=0)


def file_of(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def mask_of(box: tuple[int, int, int, int]) -> bytes:
    """A picture that is transparent in the box and opaque elsewhere."""
    mask = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    return file_of(mask)


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json
    picture = Image.open(io.BytesIO(base64.b64decode(b64_json)))
    picture.load()
    return picture


def only(answer: Any) -> Image.Image:
    (image,) = answer.data
    return opened(image.b64_json)


def same(left: Image.Image, right: Image.Image) -> bool:
    """Whether two pictures are equal, to within the rounding of different batches."""
    pixels = [np.asarray(one.convert("RGB"), dtype=np.int16) for one in (left, right)]
    return bool(np.abs(pixels[0] - pixels[1]).max() <= 2)


def test_a_generation_shows_the_prompt(both: openai.OpenAI) -> None:
    answer = both.images.generate(model=MODEL_NAME, prompt=CIRCLE.prompt, extra_body={"seed": 7})

    assert look_at(only(answer)).shows(CIRCLE)


def test_the_answer_has_every_field_of_openai(api: openai.OpenAI) -> None:
    answer = api.images.generate(
        prompt="a red star", n=2, size="96x64", quality="low", extra_body={"seed": 5}
    ).model_dump()

    assert [one["seed"] for one in answer["data"]] == [5, 6]
    assert [one["revised_prompt"] for one in answer["data"]] == [None, None]
    assert {opened(one["b64_json"]).size for one in answer["data"]} == {(96, 64)}
    assert answer["created"] > 1_700_000_000
    assert (answer["background"], answer["output_format"]) == ("opaque", "png")
    assert (answer["quality"], answer["size"]) == ("low", "96x64")
    # 10 bytes of text; two pictures of 6 x 4 squares.
    assert answer["usage"] | {"output_tokens_details": None} == {
        "input_tokens": 3,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
        "output_tokens": 48,
        "total_tokens": 51,
        "output_tokens_details": None,
    }


def test_the_same_request_by_predict_has_the_same_pixels(
    api: openai.OpenAI, client: httpx.Client
) -> None:
    fields = {
        "seed": 3,
        "steps": 5,
        "guidance_scale": 2.5,
        "negative_prompt": "a star",
        "scheduler": "euler",
    }
    ours = client.post(PREDICT, json={"prompt": CIRCLE.prompt, "size": "96x64"} | fields)

    theirs = api.images.generate(prompt=CIRCLE.prompt, size="96x64", extra_body=fields)

    assert same(only(theirs), picture_of(ours))


@pytest.mark.parametrize(
    ("quality", "steps"),
    [
        *(("auto", 20), ("standard", 20), ("low", 10), ("medium", 20)),
        *(("high", 30), ("hd", 30), ("xhigh", 40), ("max", 60)),
    ],
)
def test_the_quality_sets_the_steps(api: openai.OpenAI, quality: Any, steps: int) -> None:
    answer = api.images.generate(prompt="a red star", quality=quality)

    metadata = json.loads(only(answer).info["parameters"])
    assert metadata["num_inference_steps"] == steps


def test_given_steps_take_precedence_over_the_quality(api: openai.OpenAI) -> None:
    answer = api.images.generate(prompt="a star", quality="max", extra_body={"steps": 3})

    assert json.loads(only(answer).info["parameters"])["num_inference_steps"] == 3


def test_the_compression_makes_a_smaller_file(api: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"prompt": "a red star", "extra_body": {"seed": 1, "steps": 2}}

    fine, coarse = (
        api.images.generate(output_format="jpeg", output_compression=quality, **fields)
        for quality in (95, 10)
    )

    assert (only(fine).format, fine.output_format) == ("JPEG", "jpeg")
    assert len(coarse.data[0].b64_json or "") < len(fine.data[0].b64_json or "") / 2


def test_an_edit_with_a_mask_changes_only_the_transparent_area(both: openai.OpenAI) -> None:
    answer = both.images.edit(
        image=file_of(PICTURE),
        mask=mask_of(TRANSPARENT),
        prompt=STAR.prompt,
        extra_body={"seed": 2},
    )

    made = only(answer)
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    inside[TRANSPARENT[1] : TRANSPARENT[3], TRANSPARENT[0] : TRANSPARENT[2]] = True
    assert (np.asarray(made)[~inside] == np.asarray(PICTURE)[~inside]).all()
    assert look_at(made).shows(STAR)
    assert answer.usage
    assert answer.usage.input_tokens_details.image_tokens == 2 * (SIZE // 16) ** 2


def test_an_edit_without_a_mask_is_image_to_image(api: openai.OpenAI, client: httpx.Client) -> None:
    fields = {"prompt": STAR.prompt, "seed": 1, "strength": 0.6, "guidance_scale": 2.0}
    text = base64.b64encode(file_of(PICTURE)).decode()
    ours = client.post(PREDICT, json=fields | {"image": text})

    # A list of one file is sent as ``image[]``; numbers are sent as text.
    theirs = api.images.edit(
        image=[("in.png", file_of(PICTURE))],
        prompt=STAR.prompt,
        size="auto",
        extra_body={"seed": 1, "strength": 0.6, "guidance_scale": 2.0},
    )

    assert same(only(theirs), picture_of(ours))


def test_a_large_edit_is_read_in_another_process(api: openai.OpenAI) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    large = Image.fromarray(noise)

    answer = api.images.edit(
        image=file_of(large),
        mask=mask_of(TRANSPARENT),
        prompt=STAR.prompt,
        size="64x64",
        extra_body={"steps": 2},
    )

    outside = np.asarray(only(answer))[:8]
    expected = np.asarray(large.resize((64, 64), Image.Resampling.LANCZOS))[:8]
    assert (outside == expected).all()


def test_nested_fields_of_a_form_are_read(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        api.images.edit(
            image=file_of(PICTURE),
            prompt="a star",
            extra_body={"adapters": [{"name": "12", "scale": 0.5}]},
        )

    assert refused.value.param == "adapters[0].name"
    assert '"12" is not known' in refused.value.message


@pytest.mark.parametrize("operation", ["image_generation", "image_edit"])
def test_a_stream_ends_with_an_event_for_each_picture(api: openai.OpenAI, operation: str) -> None:
    fields: dict[str, Any] = {
        "prompt": CIRCLE.prompt,
        "n": 2,
        "extra_body": {"seed": 7, "steps": 10},
    }
    call: Any = api.images.generate
    if operation == "image_edit":
        call = api.images.edit
        fields["image"] = file_of(PICTURE)
    whole = call(**fields)

    events = [one.model_dump() for one in call(stream=True, partial_images=2, **fields)]

    assert [one["type"] for one in events] == [f"{operation}.completed"] * 2
    assert [one["seed"] for one in events] == [7, 8]
    for event, image in zip(events, whole.data, strict=True):
        assert same(opened(event["b64_json"]), opened(image.b64_json))
    assert (events[0]["size"], events[0]["quality"]) == ("64x64", "medium")
    assert (events[0]["output_format"], events[0]["background"]) == ("png", "opaque")
    assert events[0]["created_at"] >= whole.created
    total = sum(one["usage"]["total_tokens"] for one in events)
    assert total == whole.usage.total_tokens


@pytest.mark.parametrize("operation", ["image_generation", "image_edit"])
def test_a_stream_of_one_picture_has_previews(api: openai.OpenAI, operation: str) -> None:
    call: Any = api.images.generate
    fields: dict[str, Any] = {"prompt": CIRCLE.prompt, "extra_body": {"seed": 7, "steps": 16}}
    if operation == "image_edit":
        call = api.images.edit
        fields |= {"image": file_of(PICTURE), "prompt": STAR.prompt}
        fields["extra_body"] |= {"strength": 1.0}

    *previews, last = call(
        stream=True, partial_images=3, output_format="jpeg", quality="low", **fields
    )

    assert last.type == f"{operation}.completed"
    assert {one.type for one in previews} == {f"{operation}.partial_image"}
    indices = [one.partial_image_index for one in previews]
    assert indices == sorted(set(indices))
    assert indices[-1] == 2
    assert previews[-1].model_dump().keys() == {
        *("type", "b64_json", "partial_image_index", "created_at"),
        *("size", "quality", "background", "output_format"),
    }
    described = (last.size, last.quality, last.background, last.output_format)
    for one in previews:
        assert (one.size, one.quality, one.background, one.output_format) == described
        assert opened(one.b64_json).format == "JPEG"
        assert one.created_at <= last.created_at
    scene = STAR if operation == "image_edit" else CIRCLE
    assert look_at(opened(previews[-1].b64_json)).shows(scene)


def test_no_partial_images_no_previews(api: openai.OpenAI) -> None:
    events = api.images.generate(prompt="a star", stream=True, partial_images=0)

    assert [one.type for one in events] == ["image_generation.completed"]


def test_an_error_in_a_stream_has_the_form_of_openai() -> None:
    started = asyncio.Event()

    async def answer() -> Any:
        await started.wait()
        raise GenerationFailedError("the picture broke")

    async def events() -> list[bytes]:
        enter_request(RequestContext("id", error_form=error_form("/v1/images/edits")))
        form = ImagesForm("image_edit", ImageOptions("medium", True, None))
        progress = Progress([], is_watched=True, as_event=form.progress_event)
        found = await stream(answer(), progress)
        started.set()
        return [one async for one in found]

    *_, last = asyncio.run(events())

    event, data = last.decode().strip().split("\n")
    assert event == "event: error"
    document = json.loads(data.removeprefix("data: "))
    assert document.pop("error") == {
        "message": "the picture broke",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert document == {}, "the additions of `:predict` are not OpenAI's"


def test_what_open_webui_sends_is_served(client: httpx.Client) -> None:
    """Open WebUI 0.6: JSON with these fields, and edits as a form with `image[]`, no mask."""
    size = {"model": MODEL_NAME, "prompt": "a red star", "n": 1, "size": "64x64"}

    made = client.post("/openai/v1/images/generations", json=size | {"response_format": "b64_json"})
    edited = client.post(
        "/openai/v1/images/edits",
        data={name: str(value) for name, value in size.items()},
        files={"image[]": ("image.png", file_of(PICTURE), "image/png")},
    )

    for answer in (made, edited):
        assert opened(answer.json()["data"][0]["b64_json"]).format == "PNG"


def test_what_librechat_sends_is_served(client: httpx.Client) -> None:
    """LibreChat 0.8, OpenAI Image Tools: a value for each field, and edits with `image[]`.

    It sends `model` from `IMAGE_GEN_OAI_MODEL`.
    """
    both = {"model": MODEL_NAME, "prompt": "a red star", "quality": "auto", "size": "auto"}
    of_generations = {"n": 1, "background": "auto", "output_format": "png"}

    made = client.post("/v1/images/generations", json=both | of_generations)
    edited = client.post(
        "/v1/images/edits", data=both, files={"image[]": ("a.png", file_of(PICTURE), "image/png")}
    )

    for answer in (made, edited):
        assert opened(answer.json()["data"][0]["b64_json"]).format == "PNG"


def test_what_litellm_sends_is_served(api: openai.OpenAI) -> None:
    """LiteLLM 1 as a gateway: OpenAI's client, with the fields that its caller sets."""
    answer = api.images.generate(
        model=MODEL_NAME,
        prompt="a red star",
        n=1,
        quality="standard",
        response_format="b64_json",
        size="64x64",
        style="natural",
        user="someone",
    )

    assert only(answer).size == (64, 64)


@pytest.mark.parametrize("fields", [ImageGenerateParamsStreaming, ImageEditParamsStreaming])
def test_every_field_of_openais_client_is_known(fields: Any) -> None:
    known = {*CANONICAL, *ImageFields.model_fields, *REFUSED, "mask"}

    assert {"prompt", "stream", "safety_identifier"} <= fields.__annotations__.keys()
    assert fields.__annotations__.keys() - known == set()


def test_the_client_repeats_a_429_after_the_seconds_that_the_server_names() -> None:
    refused = response_to(OverloadedError("the queue is full", retry_after_seconds=1))
    arrivals: list[float] = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        arrivals.append(time.monotonic())
        if len(arrivals) > 1:
            return httpx2.Response(200, json={"created": 1, "data": []})
        return httpx2.Response(429, headers=dict(refused.headers), content=refused.body)

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    with openai.OpenAI(
        base_url="http://server/v1", api_key="unused", max_retries=1, http_client=transport
    ) as client:
        client.images.generate(prompt="a star")

    first, second = arrivals
    # The client's own wait is half a second.
    assert second - first >= 1


def test_progress_is_a_comment_in_a_stream(client: httpx.Client) -> None:
    body = {"prompt": "a star", "stream": True, "steps": 3}

    with client.stream("POST", "/v1/images/generations", json=body) as response:
        text = response.read().decode()

    assert response.headers["content-type"] == "text/event-stream"
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert comments
    assert all(re.fullmatch(r": step \d of 3", line) for line in comments)
    assert text.count("event: ") == 1


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"size": "63x63"}, "size", "63 is not between 64 and 2048"),
        ({"size": "2048x2048"}, "size", "4194304 pixels, at most"),
        ({"n": 99}, "n", "at most 16"),
        ({"quality": "best"}, "quality", "must be one of low, medium"),
        ({"background": "transparent"}, "background", "opaque pictures"),
        ({"response_format": "url"}, "response_format", "send `b64_json`"),
        ({"output_format": "gif"}, "output_format", "must be one of png, jpeg, webp"),
        ({"output_compression": 50}, "output_compression", "PNG is lossless"),
        ({"partial_images": 4}, "partial_images", "4 is not between 0 and 3"),
        ({"extra_body": {"guidence_scale": 2}}, "guidence_scale", "did you mean 'guidance_scale'"),
        ({"extra_body": {"steps": 0}}, "steps", "0 is not between 1"),
        ({"extra_body": {"svg": {"model": "x"}}}, "svg", "vector graphics"),
        ({"prompt": ""}, "prompt", "is empty"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_a_bad_request_with_its_name(
    api: openai.OpenAI, fields: dict[str, Any], param: str, text: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        api.images.generate(**{"prompt": "a red star"} | fields)

    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert text in refused.value.message


def test_fields_without_a_meaning_here_are_accepted(api: openai.OpenAI) -> None:
    answer = api.images.generate(
        prompt="a red star",
        moderation="low",
        style="vivid",
        user="someone",
        background="opaque",
        response_format="b64_json",
        size="auto",
        extra_body={"steps": 1, "safety_identifier": "x", "complexity": "low"},
    )

    assert answer.size == "64x64"


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"mask": mask_of((0, 0, 0, 0))}, "mask", "is entirely opaque"),
        ({"mask": b"not a picture"}, "mask", "is not a picture"),
        ({"image": [b"one", b"two"]}, "image", "2 pictures; the server edits one"),
        ({"extra_body": {"mask_image": "x"}}, "mask_image", "send `mask`"),
        ({"extra_body": {"seed": "x"}}, "seed", "must be an integer"),
    ],
    ids=lambda value: "",
)
def test_a_wrong_field_of_an_edit_is_a_bad_request_with_its_name(
    api: openai.OpenAI, fields: dict[str, Any], param: str, text: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        api.images.edit(**{"prompt": "a star", "image": file_of(PICTURE)} | fields)

    assert refused.value.param == param
    assert text in refused.value.message


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{}", "application/json"),
        (b"--x\r\n", "multipart/form-data"),
        (b"nonsense", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1',
            "multipart/form-data; boundary=x",
        ),
        (b"", "multipart/form-data; boundary=x"),
    ],
)
def test_what_is_not_a_form_is_a_bad_request(
    client: httpx.Client, content: bytes, content_type: str
) -> None:
    answer = client.post(
        "/v1/images/edits", content=content, headers={"content-type": content_type}
    )

    assert answer.status_code == 400
    assert list(answer.json()["error"]) == ["message", "type", "param", "code"]


def test_a_body_beyond_the_limit_is_refused_in_the_form_of_openai(client: httpx.Client) -> None:
    answer = client.post("/v1/images/edits", content=bytes(16_777_217))

    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(api: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        api.images.generate(model="dall-e-3", prompt="a star")

    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert MODEL_NAME in refused.value.message


def test_an_unknown_route_is_not_found_in_the_form_of_openai(api: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        api.chat.completions.create(model=MODEL_NAME, messages=[])

    assert refused.value.type == "invalid_request_error"
    assert refused.value.code is None


def test_the_models_are_listed(both: openai.OpenAI, server: Server, demo_model: Any) -> None:
    (model,) = both.models.list().data

    assert (model.id, model.object, model.owned_by) == (MODEL_NAME, "model", "kserve")
    published = Marker.read(demo_model).completed_at
    one = httpx.get(f"{server.url}/openai/v1/models/{MODEL_NAME}").json()
    assert one.items() <= model.model_dump().items()
    assert 0 <= model.created - _seconds(published) < 1


def _seconds(text: str) -> float:
    return int(datetime.fromisoformat(text).timestamp())


def test_both_lists_of_models_are_in_one_answer(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()

    assert answer["models"] == [MODEL_NAME]
    assert (answer["object"], answer["data"][0]["id"]) == ("list", MODEL_NAME)


def test_calls_count_in_the_metrics_of_the_model(api: openai.OpenAI, client: httpx.Client) -> None:
    def count(code: str) -> float:
        found = samples(client.get("/metrics").text, "diffusion_requests_total")
        labels = {"model_name": MODEL_NAME, "code": code}
        return sum(one.value for one in found if one.labels == labels)

    before = [count(code) for code in ("200", "400")]
    api.images.generate(prompt="a star", extra_body={"steps": 1})
    with pytest.raises(openai.BadRequestError):
        api.images.generate(prompt="")

    assert [count(code) for code in ("200", "400")] == [one + 1 for one in before]
