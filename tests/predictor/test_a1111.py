"""A1111's API over HTTP, as SillyTavern and Open WebUI use it: meaning, fields, errors, calls."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.judge import look_at
from demo.shapes import SIZE, Placement, Scene, draw
from tests.predictor.metric_samples import samples
from tests.serving import LONG, MODEL_NAME, PREDICT, Server, picture_of
from tests.waiting import wait_until

CIRCLE = Scene("red", "circle", "blue")
STAR = Scene("yellow", "star", "blue")
PICTURE = draw(CIRCLE, Placement(x=26, y=36, radius=18))
# The white part of the mask.
PAINTED = (8, 8, 56, 56)
TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
# What SillyTavern 1.13 sends with its default settings, and how it asks for an end.
SILLY_TAVERN: dict[str, Any] = {
    "url": "http://127.0.0.1:7860",
    "auth": "",
    "prompt": CIRCLE.prompt,
    "negative_prompt": "",
    "sampler_name": "Euler a",
    "scheduler": "automatic",
    "steps": 20,
    "cfg_scale": 3,
    "width": SIZE,
    "height": SIZE,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 1,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


def encoded(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def mask_of(box: tuple[int, int, int, int], *, inverted: bool = False) -> str:
    mask = Image.new("L", (SIZE, SIZE), 255 if inverted else 0)
    mask.paste(0 if inverted else 255, box)
    return encoded(mask)


def pictures_of(answer: httpx.Response) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text
    files = [base64.b64decode(one, validate=True) for one in answer.json()["images"]]
    return [Image.open(io.BytesIO(file)) for file in files]


def only(answer: httpx.Response) -> Image.Image:
    (picture,) = pictures_of(answer)
    return picture


def info_of(answer: httpx.Response) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(answer.json()["info"])
    return info


def difference(left: Image.Image, right: Image.Image) -> Any:
    """The largest difference of each pixel's channels."""
    pixels = [np.asarray(one.convert("RGB"), dtype=np.int16) for one in (left, right)]
    return np.abs(pixels[0] - pixels[1]).max(axis=-1)


def error_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error", "detail", "body", "errors"]
    assert body["detail"] == body["errors"]
    return str(body["detail"])


def test_sillytavern_connects_and_draws(client: httpx.Client) -> None:
    """SillyTavern 1.13: it reads the lists, sets the model, waits until no job runs, and draws."""
    lists = {
        path: client.get(f"/sdapi/v1/{path}").raise_for_status().json()
        for path in (
            *("samplers", "schedulers", "sd-models", "upscalers"),
            *("latent-upscale-modes", "sd-vae", "sd-modules"),
        )
    }
    options = client.get("/sdapi/v1/options").json()
    set_model = client.post(
        "/sdapi/v1/options", content=json.dumps({"sd_model_checkpoint": MODEL_NAME})
    )
    progress = client.get("/sdapi/v1/progress").json()
    answer = client.post(TXT2IMG, json=SILLY_TAVERN)
    interrupted = client.post("/sdapi/v1/interrupt")

    samplers = [one["name"] for one in lists["samplers"]]
    assert {"Euler a", "DPM++ 2M Karras", "DDIM"} <= {*samplers}
    assert [one["name"] for one in lists["schedulers"]] == [
        *("automatic", "karras", "normal", "uniform")
    ]
    assert [one["title"] for one in lists["sd-models"]] == [MODEL_NAME]
    assert [one["name"] for one in lists["upscalers"]] == ["None"]
    assert lists["latent-upscale-modes"] == lists["sd-vae"] == lists["sd-modules"] == []
    assert options["sd_model_checkpoint"] == MODEL_NAME
    assert "forge_preset" not in options
    assert (set_model.status_code, set_model.json()) == (200, None)
    assert (progress["progress"], progress["state"]["job_count"]) == (0.0, 0)
    assert look_at(only(answer)).shows(CIRCLE)
    assert (interrupted.status_code, interrupted.json()) == (200, {})


def test_open_webui_connects_and_draws(client: httpx.Client) -> None:
    """Open WebUI 0.6: it lists models, sends all options back with a model, and draws."""
    (listed,) = client.get("/sdapi/v1/sd-models").json()
    options = client.get("/sdapi/v1/options").json()
    set_model = client.post(
        "/sdapi/v1/options", json=options | {"sd_model_checkpoint": listed["title"]}
    )
    fields = {"prompt": CIRCLE.prompt, "batch_size": 2, "width": SIZE, "height": SIZE}
    answer = client.post(TXT2IMG, json=fields | {"steps": 20, "seed": 7}).raise_for_status()

    assert (listed["title"], listed["model_name"]) == (MODEL_NAME, MODEL_NAME)
    assert set_model.status_code == 200
    assert [look_at(one).shows(CIRCLE) for one in pictures_of(answer)] == [True, True]
    assert isinstance(answer.json()["info"], str)


@pytest.mark.parametrize(
    ("theirs", "scheduler"),
    [
        ({"sampler_name": "DPM++ 2M Karras"}, "dpmpp_2m_karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "dpmpp_2m_karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, "dpmpp_2m"),
        ({"sampler_index": "Euler"}, "euler"),
        ({}, None),
    ],
)
def test_the_same_request_by_predict_has_the_same_pixels(
    client: httpx.Client, theirs: dict[str, str], scheduler: str | None
) -> None:
    fields = {"prompt": CIRCLE.prompt, "negative_prompt": "a star", "seed": 3, "steps": 4}
    fields |= {"cfg_scale": 2.5, "width": 96, "height": 64}
    ours = client.post(PREDICT, json=fields | {"scheduler": scheduler})

    answer = client.post(TXT2IMG, json=fields | theirs)

    assert difference(only(answer), picture_of(ours)).max() <= 2


def test_prompts_have_weights(client: httpx.Client) -> None:
    fields = {"seed": 3, "steps": 4, "prompt": f"({CIRCLE.prompt}:1.4), [star]"}
    ours = client.post(PREDICT, json=fields | {"prompt_syntax": "weighted"})
    plain = client.post(PREDICT, json=fields)

    picture = only(client.post(TXT2IMG, json=fields))

    assert difference(picture, picture_of(ours)).max() <= 2
    assert difference(picture, picture_of(plain)).max() > 10


def test_the_info_describes_each_picture(client: httpx.Client) -> None:
    fields = {"prompt": "a red star", "negative_prompt": "a circle", "seed": 5, "steps": 1}
    fields |= {"sampler_name": "DPM++ 2M Karras", "cfg_scale": 2.5, "batch_size": 2, "n_iter": 2}

    answer = client.post(TXT2IMG, json=fields | {"width": 96, "height": 64, "auth": "a:b"})

    info = info_of(answer)
    pictures = pictures_of(answer)
    assert {one.size for one in pictures} == {(96, 64)}
    assert (info["seed"], info["all_seeds"]) == (5, [5, 6, 7, 8])
    assert (info["batch_size"], info["sd_model_name"]) == (2, MODEL_NAME)
    assert info["infotexts"][1] == (
        "a red star\nNegative prompt: a circle\nSteps: 1, Sampler: DPM++ 2M, Schedule type: Karras,"
        f" CFG scale: 2.5, Seed: 6, Size: 96x64, Model hash: {info['sd_model_hash']},"
        f" Model: {MODEL_NAME}"
    )
    assert answer.json()["parameters"] == fields | {"width": 96, "height": 64}
    assert [one.info["parameters"] for one in pictures] == info["infotexts"]
    assert [one.info["seed"] for one in pictures] == ["5", "6", "7", "8"]
    ours = json.loads(pictures[0].info["request_parameters"])
    assert (ours["scheduler"], ours["guidance_scale"]) == ("dpmpp_2m_karras", 2.5)


def test_seed_minus_1_draws_one(client: httpx.Client) -> None:
    fields = {"prompt": "a red star", "steps": 1, "seed": -1}

    first, second = (info_of(client.post(TXT2IMG, json=fields)) for _ in range(2))

    assert first["seed"] != second["seed"]
    assert first["all_seeds"] == [first["seed"]]


def test_clip_skip_counts_from_1(client: httpx.Client) -> None:
    fields = {"prompt": "a red star", "steps": 2, "seed": 1}
    ours = picture_of(client.post(PREDICT, json=fields | {"clip_skip": 1}))

    setting = client.post(
        TXT2IMG, json=fields | {"override_settings": {"CLIP_stop_at_last_layers": 2}}
    )
    field = client.post(TXT2IMG, json=fields | {"clip_skip": 2})

    assert difference(only(setting), ours).max() <= 2
    assert difference(only(field), ours).max() <= 2
    assert info_of(setting)["clip_skip"] == 2


def test_img2img_is_image_to_image(client: httpx.Client) -> None:
    fields = {"prompt": STAR.prompt, "seed": 1, "cfg_scale": 2}
    ours = client.post(PREDICT, json=fields | {"image": encoded(PICTURE), "strength": 0.75})

    bare = client.post(IMG2IMG, json=fields | {"init_images": [encoded(PICTURE)]})
    uri = client.post(
        IMG2IMG,
        json=fields
        | {
            "init_images": ["data:image/png;base64," + encoded(PICTURE)],
            "denoising_strength": 0.75,
        },
    )

    for answer in (bare, uri):
        assert difference(only(answer), picture_of(ours)).max() <= 2
    assert "Denoising strength: 0.75" in info_of(bare)["infotexts"][0]
    assert "init_images" not in uri.json()["parameters"]


@pytest.fixture(params=[False, True], ids=["white marks the area", "black marks the area"])
def painted(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    mask = mask_of(PAINTED, inverted=request.param)
    fields = {"prompt": STAR.prompt, "init_images": [encoded(PICTURE)], "mask": mask, "seed": 2}
    yield fields | {"denoising_strength": 1, "inpainting_mask_invert": int(request.param)}


def test_a_mask_limits_the_change(client: httpx.Client, painted: dict[str, Any]) -> None:
    answer = client.post(IMG2IMG, json=painted | {"inpainting_fill": 1, "inpaint_full_res": False})

    made = only(answer)
    outside = np.ones((SIZE, SIZE), dtype=bool)
    outside[PAINTED[1] : PAINTED[3], PAINTED[0] : PAINTED[2]] = False
    assert not difference(made, PICTURE)[outside].any()
    assert look_at(made).shows(STAR)


def test_a_blurred_mask_has_a_soft_edge(client: httpx.Client, painted: dict[str, Any]) -> None:
    made = only(client.post(IMG2IMG, json=painted | {"mask_blur": 1.5, "steps": 4}))

    changed = difference(made, PICTURE)
    # Two pixels outside of the box, and far from it.
    assert changed[6:8].any()
    assert not changed[:2].any()


def test_a_large_picture_is_read_in_another_process(client: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    large = Image.fromarray(noise)
    fields = {"prompt": STAR.prompt, "init_images": [encoded(large)], "mask": mask_of(PAINTED)}

    answer = client.post(IMG2IMG, json=fields | {"width": 64, "height": 64, "steps": 2})

    expected = large.resize((64, 64), Image.Resampling.LANCZOS)
    assert not difference(only(answer), expected)[:8].any()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"width": 63}, "width: 63 is not between 64 and 2048"),
        ({"steps": 0}, "steps: 0 is not between 1"),
        ({"steps": "x"}, 'steps: must be an integer, not "x"'),
        ({"cfg_scale": -1}, "cfg_scale: -1"),
        ({"batch_size": 4, "n_iter": 5}, "batch_size x n_iter: 20 pictures in one request"),
        ({"batch_size": -1, "n_iter": -1}, "batch_size: -1 is below 1"),
        ({"sampler_name": "DPM2"}, 'sampler_name: "DPM2" is not one of'),
        ({"sampler_name": "Euler", "scheduler": "Karras"}, "scheduler: Karras is available for"),
        ({"scheduler": "Beta"}, 'scheduler: "Beta" is not one of Automatic, Karras'),
        ({"prompt": "a star <lora:ghost:0.5>"}, '<lora:ghost:0.5>": "ghost" is not known'),
        ({"prompt": "a star <lora:a:1:2>"}, "prompt: "),
        ({"negative_promt": "x"}, "negative_promt: unknown parameter; did you mean 'negative_pro"),
        ({"enable_hr": True}, "enable_hr: the server has no second pass"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True]}}}, 'no script "ADetailer"'),
        ({"override_settings": {"sd_vae": "x"}}, 'override_settings: "sd_vae" cannot be set'),
        ({"override_settings": {"sd_model_checkpoint": 1}}, "sd_model_checkpoint: must be a str"),
        ({"override_settings": {"samples_format": "bmp"}}, "samples_format: must be one of"),
        ({"clip_skip": 99}, "clip_skip - 1: 98 is not between 0"),
        ({"prompt": None}, "prompt: "),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_refused_in_the_form_of_a1111(
    client: httpx.Client, fields: dict[str, Any], error: str
) -> None:
    answer = client.post(TXT2IMG, json={"prompt": "a red star", "steps": 1} | fields)

    assert error in error_of(answer, 400)
    assert answer.json()["error"] == "Bad Request"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"init_images": None}, "init_images: is missing"),
        ({"init_images": ["x", "y"]}, "init_images: 2 pictures; the server takes one"),
        ({"init_images": "x"}, "init_images: must be a list"),
        ({"init_images": [5]}, "init_images[0]: must be a string, not 5"),
        ({"init_images": ["bm8="]}, "init_images[0]: is not a picture"),
        ({"mask": "bm8="}, "mask: is not a picture"),
        ({"mask": mask_of((0, 0, 0, 0))}, "mask: is entirely black"),
        (
            {"mask": mask_of((0, 0, SIZE, SIZE)), "inpainting_mask_invert": 1},
            "mask: is entirely white",
        ),
        ({"mask_blur": 65}, "mask_blur: 65 is not between 0 and 64"),
        ({"mask_blur_y": -1}, "mask_blur_y: -1 is not between 0 and 64"),
        ({"denoising_strength": 0}, "denoising_strength: "),
        ({"inpainting_fill": 0}, "inpainting_fill: the server keeps what is under the mask"),
        ({"inpaint_full_res": True}, "inpaint_full_res: "),
        ({"resize_mode": 1}, "resize_mode: "),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_wrong_picture_is_refused_in_the_form_of_a1111(
    client: httpx.Client, fields: dict[str, Any], error: str
) -> None:
    body = {"prompt": "a star", "init_images": [encoded(PICTURE)], "steps": 2}

    assert error in error_of(client.post(IMG2IMG, json=body | fields), 400)


def test_other_fields_are_ignored_as_in_a1111(client: httpx.Client) -> None:
    fields = {"forge_couple": True, "model": 5, "image": "x", "eta": 0, "styles": []}
    fields |= {"alwayson_scripts": {"ControlNet": {"args": []}}, "subseed_strength": 0}

    answer = client.post(TXT2IMG, json={"prompt": "a red star", "steps": 1} | fields)

    assert len(pictures_of(answer)) == 1


@pytest.mark.parametrize("path", ["txt2img", "img2img", "options"])
@pytest.mark.parametrize("content", [b"[]", b"{", b'"x"'])
def test_what_is_not_an_object_is_a_bad_request(
    client: httpx.Client, path: str, content: bytes
) -> None:
    error_of(client.post(f"/sdapi/v1/{path}", content=content), 400)


@pytest.mark.parametrize(
    ("options", "status", "error"),
    [
        ({"sd_model_checkpoint": "ghost"}, 404, '"ghost" is not served'),
        ({"sd_model_checkpoint": 1}, 400, "must be a string, not 1"),
        ({"CLIP_stop_at_last_layers": 2}, 400, "cannot be set for later calls"),
        ({"unknown": "x"}, 400, "unknown: cannot be set for later calls"),
    ],
)
def test_an_option_that_cannot_be_set_is_refused(
    client: httpx.Client, options: dict[str, Any], status: int, error: str
) -> None:
    assert error in error_of(client.post("/sdapi/v1/options", json=options), status)


def test_an_unknown_route_has_the_form_of_a1111(client: httpx.Client) -> None:
    assert "does not exist" in error_of(client.get("/sdapi/v1/memory"), 404)
    assert "use POST" in error_of(client.get(TXT2IMG), 405)


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    fields = {"prompt": "a star", "override_settings": {"sd_model_checkpoint": "ghost"}}

    assert '"ghost" is not served' in error_of(client.post(TXT2IMG, json=fields), 404)


def test_a_caller_sees_and_interrupts_only_its_own_calls(
    client: httpx.Client, server: Server
) -> None:
    fields = {"prompt": "a red star", "width": 128, "height": 128, "steps": 150, "batch_size": 12}
    answers: list[httpx.Response] = []
    calling = threading.Thread(target=lambda: answers.append(client.post(TXT2IMG, json=fields)))
    elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=server.url, timeout=60) as own:
        calling.start()
        wait_until(lambda: state_of(own)["sampling_step"] > 0)
        running = own.get("/sdapi/v1/progress").json()
        with httpx.Client(base_url=server.url, timeout=60, transport=elsewhere) as other:
            seen_by_other = state_of(other)
            done_by_other = other.post("/sdapi/v1/interrupt").status_code
        forwarded = {"x-forwarded-for": "203.0.113.5"}
        hidden = own.post("/sdapi/v1/interrupt", headers=forwarded)
        before = state_of(own)
        own.post("/sdapi/v1/interrupt").raise_for_status()
        calling.join(60)
        after = state_of(own)

    assert 0 < running["progress"] < 1
    assert running["eta_relative"] > 0
    assert running["current_image"] is None
    assert running["state"]["sampling_steps"] == 12 * 150
    assert (seen_by_other["job_count"], done_by_other) == (0, 200)
    assert "a proxy hides who sent this request" in error_of(hidden, 403)
    assert before["job_count"] == 1
    assert error_of(answers[0], 409) == "the caller interrupted the call"
    assert (after["job_count"], after["sampling_step"]) == (0, 0)


def state_of(client: httpx.Client) -> dict[str, Any]:
    state: dict[str, Any] = client.get("/sdapi/v1/progress").raise_for_status().json()["state"]
    return state


def test_interrupt_leaves_the_calls_of_other_protocols(
    client: httpx.Client, server: Server
) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as own:
        events = {"accept": "text/event-stream"}
        with client.stream("POST", PREDICT, json=LONG, headers=events) as response:
            lines = response.iter_lines()
            next(lines)
            assert own.post("/sdapi/v1/interrupt").status_code == 200
            # Of later steps, and not an error.
            data = [next(line for line in lines if line.startswith("data: ")) for _ in range(3)]

    assert all('"step"' in line for line in data)


def test_calls_count_in_the_metrics_of_the_model(client: httpx.Client) -> None:
    def count(code: str) -> float:
        found = samples(client.get("/metrics").text, "diffusion_requests_total")
        labels = {"model_name": MODEL_NAME, "code": code}
        return sum(one.value for one in found if one.labels == labels)

    before = [count(code) for code in ("200", "400")]
    client.post(TXT2IMG, json={"prompt": "a star", "steps": 1})
    client.post(TXT2IMG, json={"prompt": ""})

    assert [count(code) for code in ("200", "400")] == [one + 1 for one in before]


def test_the_bodies_are_described(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    schema = paths[IMG2IMG]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["prompt", "init_images"]
    assert {"sampler_name", "n_iter", "mask_blur"} <= schema["properties"].keys()
    # Those that have another meaning in ``:predict``.
    assert "karras" in schema["properties"]["scheduler"]["enum"]
    assert schema["properties"]["clip_skip"]["minimum"] == 0
    assert "maximum" not in str(schema["properties"]["clip_skip"])
