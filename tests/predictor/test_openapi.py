"""``GET /openapi.json``: the body of ``:predict`` has the fields of the table."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from predictor.requests.fields import FIELDS


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/openapi.json").raise_for_status().json()
    return answer


def definition(document: dict[str, Any], reference: str) -> dict[str, Any]:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def forms(document: dict[str, Any]) -> list[dict[str, Any]]:
    body = document["paths"]["/v1/models/{model_name}:predict"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    return [definition(document, form["$ref"]) for form in schema["anyOf"]]


def descriptions(schema: dict[str, Any]) -> dict[str, str | None]:
    return {name: part.get("description") for name, part in schema["properties"].items()}


def test_the_flat_form_describes_every_field(document: dict[str, Any]) -> None:
    flat, _ = forms(document)

    assert {field.name: field.help for field in FIELDS}.items() <= descriptions(flat).items()
    assert "clip_skip" in flat["properties"]
    assert flat["required"] == ["prompt"]


def test_aliases_are_described(document: dict[str, Any]) -> None:
    flat, _ = forms(document)

    steps, name = flat["properties"]["steps"], flat["properties"]["num_inference_steps"]
    assert steps["description"] == "Alias of `num_inference_steps`."
    assert steps["anyOf"] == name["anyOf"]


def test_the_listed_form_has_instances_and_shared_parameters(document: dict[str, Any]) -> None:
    flat, listed = forms(document)

    instance = definition(document, listed["properties"]["instances"]["items"]["$ref"])
    shared = definition(document, listed["properties"]["parameters"]["$ref"])
    names = {field.name for field in FIELDS}
    assert instance == flat
    assert names & shared["properties"].keys() == names - {"prompt"}
    assert listed["required"] == ["instances"]


@pytest.mark.parametrize(
    ("path", "media_type", "required"),
    [
        ("/openai/v1/images/generations", "application/json", ["prompt"]),
        ("/v1/images/edits", "multipart/form-data", ["prompt", "image"]),
    ],
)
def test_bodies_of_openai_are_described(
    document: dict[str, Any], path: str, media_type: str, required: list[str]
) -> None:
    schema = document["paths"][path]["post"]["requestBody"]["content"][media_type]["schema"]
    schema = definition(document, schema["$ref"]) if "$ref" in schema else schema

    assert schema["required"] == required
    assert {"quality", "seed", "n"} <= schema["properties"].keys()


def test_queries_of_links_are_described(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/imagine"]["get"]["parameters"]

    found = {one["name"]: one["required"] for one in parameters if one["in"] == "query"}
    assert {"prompt": True, "seed": False, "img_size": False}.items() <= found.items()
