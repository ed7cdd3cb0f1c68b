"""Bad requests: each gets a 400 that names field, value and bound, and leaks nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.serving import PREDICT

PROMPT = "a red circle on a blue background"

PARAMETERS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("unknown parameter", {"guidence_scale": 2}, ["guidence_scale", "'guidance_scale'"]),
    ("wrong type", {"num_inference_steps": "20"}, ["num_inference_steps", '"20"', "integer"]),
    ("a flag for a number", {"seed": True}, ["seed", "true", "integer"]),
    ("width no multiple", {"width": 100}, ["width", "100", "8", "96", "104"]),
    ("height no multiple", {"height": 65}, ["height", "65", "8", "64", "72"]),
    ("width over the limit", {"width": 4096}, ["width", "4096", "2048"]),
    ("height under the limit", {"height": 8}, ["height", "8", "64"]),
    ("too many pixels", {"width": 2048, "height": 2048}, ["width x height", "4194304", "1572864"]),
    ("no steps", {"num_inference_steps": 0}, ["num_inference_steps", "0", "1", "150"]),
    ("too many steps", {"num_inference_steps": 151}, ["num_inference_steps", "151", "150"]),
    ("negative guidance", {"guidance_scale": -0.5}, ["guidance_scale", "-0.5", "0"]),
    ("too much guidance", {"guidance_scale": 31}, ["guidance_scale", "31", "30"]),
    ("a word for guidance", {"guidance_scale": "NaN"}, ["guidance_scale", '"NaN"', "number"]),
    ("negative seed", {"seed": -2}, ["seed", "-2", "0"]),
    ("seed beyond a double", {"seed": 2**53}, ["seed", str(2**53), str(2**53 - 1)]),
    ("unknown scheduler", {"scheduler": "dpm"}, ["scheduler", '"dpm"', "dpmpp_2m", "unipc"]),
    ("unknown format", {"output_format": "gif"}, ["output_format", '"gif"', "webp"]),
    ("no picture", {"num_images_per_prompt": 0}, ["num_images_per_prompt", "0", "1"]),
    ("too many pictures", {"num_images_per_prompt": 17}, ["num_images_per_prompt", "17", "16"]),
    ("very many pictures", {"num_images_per_prompt": 10**12}, ["num_images_per_prompt", "16"]),
    ("long negative prompt", {"negative_prompt": "x" * 4097}, ["negative_prompt", "4097", "4096"]),
]

# The parser accepts 1,024 levels; code that walks the document may not.
DEEP = b"[" * 1000 + b"]" * 1000
BODIES: list[tuple[str, bytes, list[str]]] = [
    ("no JSON", b"prompt=red", ["not valid JSON"]),
    ("NaN", b'{"prompt": "x", "guidance_scale": NaN}', ["not valid JSON"]),
    ("infinity", b'{"prompt": "x", "guidance_scale": 1e999}', ["not valid JSON"]),
    ("empty", b"", ["not valid JSON"]),
    ("not UTF-8", b'{"prompt": "\xff"}', ["not valid JSON"]),
    ("a lone surrogate", b'{"prompt": "\\ud800"}', ["not valid JSON"]),
    (
        "an integer beyond a double",
        b'{"prompt": "x", "seed": 1%s}' % (b"0" * 400),
        ["not valid JSON"],
    ),
    ("an integer beyond 64 bits", b'{"prompt": "x", "seed": 1%s}' % (b"0" * 300), ["seed", "1000"]),
    ("a deep prompt", b'{"prompt": %s}' % DEEP, ["nested", "32"]),
    ("a deep parameter", b'{"prompt": "x", "parameters": {"seed": %s}}' % DEEP, ["nested", "32"]),
    ("a deep body", DEEP, ["nested", "32"]),
    ("too deep for the parser", b"[" * 100_000, ["not valid JSON"]),
    ("very many values", b'{"instances": [%s0]}' % (b"0," * 2_000), ["2000 values"]),
    ("a list", b'["a red circle"]', ["JSON object"]),
    ("no prompt", b"{}", ["prompt", "missing"]),
    ("empty prompt", b'{"prompt": "  "}', ["prompt", "empty"]),
    ("long prompt", b'{"prompt": "%s"}' % (b"x" * 4097), ["prompt", "4097", "4096"]),
    ("prompt of a wrong type", b'{"prompt": ["x"]}', ["prompt", '["x"]', "string"]),
    ("no instances", b'{"instances": []}', ["instances", "empty"]),
    ("instances no list", b'{"instances": {"prompt": "x"}}', ["instances", "list"]),
    ("parameters no object", b'{"prompt": "x", "parameters": 3}', ["parameters", "3"]),
    ("given twice", b'{"prompt": "x", "seed": 1, "parameters": {"seed": 2}}', ["seed", "twice"]),
    (
        "both forms",
        b'{"prompt": "x", "instances": [{"prompt": "x"}]}',
        ["prompt", "put it into an instance"],
    ),
    (
        "second instance",
        b'{"instances": [{"prompt": "x"}, {"prompt": "x", "width": 100}]}',
        ["instances[1].width", "100"],
    ),
    (
        "unknown in an instance",
        b'{"instances": [{"prompt": "x", "parameters": {"widht": 64}}]}',
        ["instances[0].parameters.widht", "'width'"],
    ),
    (
        "too many pictures in all",
        b'{"instances": [{"prompt": "x"}, {"prompt": "x"}], '
        b'"parameters": {"num_images_per_prompt": 9}}',
        ["18", "16"],
    ),
]


def refusal(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert isinstance(error, str)
    assert "Traceback" not in error
    assert "/" not in error, "the message leaks a path"
    return error


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [case[1:] for case in PARAMETERS],
    ids=[case[0] for case in PARAMETERS],
)
def test_a_wrong_parameter_is_named(
    client: httpx.Client, parameters: dict[str, Any], expected: list[str]
) -> None:
    nested = refusal(client.post(PREDICT, json={"prompt": PROMPT, "parameters": parameters}))
    flat = refusal(client.post(PREDICT, json={"prompt": PROMPT, **parameters}))

    assert [word for word in expected if word not in nested] == []
    assert [word for word in expected if word not in flat] == []


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
@pytest.mark.parametrize(
    ("body", "expected"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES]
)
def test_a_wrong_body_is_explained(
    client: httpx.Client, body: bytes, expected: list[str], content_type: str
) -> None:
    response = client.post(PREDICT, content=body, headers={"content-type": content_type})

    error = refusal(response)
    assert [word for word in expected if word not in error] == []


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_byte_order_mark_is_skipped(client: httpx.Client, content_type: str) -> None:
    body = b'\xef\xbb\xbf{"prompt": "a red star", "seed": 7, "steps": 2}'

    response = client.post(PREDICT, content=body, headers={"content-type": content_type})

    assert response.status_code == 200, response.text
    assert response.headers["x-seed"] == "7"


def test_the_last_value_of_a_repeated_name_counts(client: httpx.Client) -> None:
    body = b'{"prompt": "a red star", "steps": 2, "seed": 1, "seed": 2}'

    assert client.post(PREDICT, content=body).headers["x-seed"] == "2"


@pytest.mark.parametrize(
    ("body", "expected"),
    [(DEEP, "nested more than 32 levels"), (b"{", "not valid JSON"), (b'{"ready": 1}', "ready")],
)
def test_a_wrong_body_of_the_index_is_explained(
    client: httpx.Client, body: bytes, expected: str
) -> None:
    assert expected in refusal(client.post("/v2/repository/index", content=body))


def test_the_index_takes_a_byte_order_mark(client: httpx.Client) -> None:
    response = client.post("/v2/repository/index", content=b'\xef\xbb\xbf{"ready": true}')

    assert [entry["state"] for entry in response.json()] == ["READY"]


@pytest.mark.parametrize("extra", [{}, {"ce-contenttype": "application/json"}])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_deep_body_of_a_cloud_event_is_explained(
    client: httpx.Client, content_type: str, extra: dict[str, str]
) -> None:
    attributes = {"specversion": "1.0", "id": "1", "source": "x", "type": "y"}
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    headers |= {"content-type": content_type} | extra

    response = client.post(PREDICT, content=b'{"prompt": %s}' % DEEP, headers=headers)

    assert "nested more than 32 levels" in refusal(response)


def test_a_body_over_the_limit_is_refused_before_it_is_read(client: httpx.Client) -> None:
    error = refusal(client.post(PREDICT, content=b" " * (16_777_216 + 1)), status=413)

    assert "16777216" in error


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    error = refusal(client.post("/v1/models/unknown:predict", json={"prompt": "x"}), status=404)

    assert "unknown" in error


def test_the_server_works_after_a_refused_request(client: httpx.Client) -> None:
    client.post(PREDICT, json={"prompt": PROMPT, "scheduler": "nonsense"})

    assert client.post(PREDICT, json={"prompt": PROMPT}).status_code == 200
