"""The OpenAPI document against the server: it is valid, and its examples work as documented."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from predictor.edge.error_responses import STATUS
from predictor.edge.openapi_parts import ERRORS
from predictor.protocol.json_schema import FieldSchemas, schema_of
from predictor.settings import Settings
from predictor.wire_formats import A1111, PREDICT, ROUTED, WIRE_FORMATS
from tests.serving import MODEL_NAME, ROOT

JSON = "application/json"
# The files of the page, and a route that needs several models.
NOT_TRIED = {("get", "/ui/{file}"), ("post", "/v2/repository/models/{model_name}/unload")}


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(server.url + "/openapi.json").raise_for_status().json()
    return found


class Operation(NamedTuple):
    """One operation of the document, with the whole document for references."""

    method: str
    path: str
    content: dict[str, Any]
    document: dict[str, Any]

    @property
    def bodies(self) -> list[tuple[str, Any]]:
        """The media type and the value of each example of the body."""
        body = self.content.get("requestBody", {}).get("content", {})
        return [
            (media_type, example["value"])
            for media_type, described in body.items()
            for example in described.get("examples", {}).values()
        ]

    @property
    def query(self) -> dict[str, Any]:
        """The examples of the query."""
        query = (one for one in self.content["parameters"] if one["in"] == "query")
        return {one["name"]: one["example"] for one in query if "example" in one}

    def check(self, response: httpx.Response) -> None:
        """The response has a documented status, media type and schema."""
        documented = self.content["responses"].get(str(response.status_code))
        assert documented is not None, (self.method, self.path, response.status_code)
        resolved = self.resolved(documented)
        media_type = response.headers.get("content-type", "").partition(";")[0]
        # A stream begins before its pictures are known.
        of_pictures = set() if media_type == "text/event-stream" else {"x-seed", "etag"}
        for name in resolved["headers"].keys() & {"x-request-id", "retry-after", *of_pictures}:
            assert name in response.headers, (self.path, name)
        if response.status_code == 304:
            return
        content = resolved["content"]
        assert media_type in content or "*/*" in content, (self.path, media_type)
        if media_type == JSON:
            self.validate(response.json(), content[JSON]["schema"])

    def resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        found: Any = self.document
        if "$ref" not in part:
            return part
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return dict(found)

    def validate(self, value: Any, schema: dict[str, Any]) -> None:
        whole = schema | {"components": self.document["components"]}
        Draft202012Validator(whole).validate(value)


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, content in methods.items():
            yield Operation(method, path, content, document)


def send(client: httpx.Client, one: Operation, body: Any, media_type: str = "") -> httpx.Response:
    path = one.path.replace("{model_name}", MODEL_NAME)
    form = media_type.startswith("multipart/")
    return client.request(
        one.method,
        path,
        json=None if form else body,
        files={name: (None, str(value)) for name, value in body.items()} if form else None,
        params=one.query,
    )


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert document["info"]["version"] == project["version"]
    validate(document)


def test_every_operation_works_as_documented(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    sent = []
    for one in operations(document):
        if (one.method, one.path) in NOT_TRIED:
            continue
        # The routes of the repository also work without a body.
        for media_type, body in one.bodies or [("", None)]:
            response = send(client, one, body, media_type)
            assert response.status_code == 200, (one.path, body, response.text[:200])
            one.check(response)
            sent.append((one.method, one.path))

    assert sent.count(("post", "/v1/models/{model_name}:predict")) == 2
    assert len({*sent}) >= 20


def test_the_examples_have_their_own_schema(document: dict[str, Any]) -> None:
    for one in operations(document):
        for media_type, body in one.bodies:
            schema = one.content["requestBody"]["content"][media_type]["schema"]
            if media_type == JSON:
                one.validate(body, schema)
            else:
                assert {*schema["required"]} <= body.keys() <= schema["properties"].keys()


def test_every_wire_format_describes_itself(document: dict[str, Any]) -> None:
    served = {path: one for one in WIRE_FORMATS.values() for path in one.paths}
    described = served.keys() & document["paths"].keys()

    assert {path for one in (PREDICT, *ROUTED, *A1111) for path in one.paths} <= described
    for path in described:
        wire_format = served[path]
        operation = document["paths"][path][wire_format.method.lower()]
        assert operation["summary"] == wire_format.summary
        assert wire_format.examples(), wire_format.name
        assert "requestBody" in operation or wire_format.method == "GET"
        assert {"200", "400", "429", "503", "504"} <= operation["responses"].keys()


def test_a_known_picture_is_documented(client: httpx.Client, document: dict[str, Any]) -> None:
    found = {(one.method, one.path): one for one in operations(document)}
    link = found["get", "/v1/models/{model_name}/picture"]
    path = link.path.replace("{model_name}", MODEL_NAME)
    tag = client.head(path, params=link.query).headers["etag"]

    answer = client.get(path, params=link.query, headers={"if-none-match": tag})

    assert answer.status_code == 304
    link.check(answer)


@pytest.mark.parametrize(
    "body", [{"prompt": "a star", "width": 63}, {"prompt": "a star", "colour": 1}, {}]
)
def test_errors_have_the_documented_form(
    client: httpx.Client, document: dict[str, Any], body: Any
) -> None:
    calls = [one for one in operations(document) if "504" in one.content["responses"]]
    assert len(calls) >= 10
    for one in calls:
        if one.path.startswith("/sdapi/") and "colour" in body:
            continue  # A1111 ignores unknown fields
        path = one.path.replace("{model_name}", MODEL_NAME)
        # As a body or as a query; an edit is not JSON anyway.
        response = client.request(one.method, path, json=body, params=body)
        assert response.status_code == 400, one.path
        one.check(response)


@pytest.mark.parametrize(
    ("status", "path", "request_of"),
    [
        (413, "/v2/repository/index", {"content": bytes(70_000)}),
        (414, "/openai/v1/images/edits", {"params": {"x": "y" * 9_000}}),
        (415, "/v2/repository/index", {"headers": {"content-encoding": "gzip"}}),
        (415, "/v1/images/generations", {"headers": {"content-encoding": "gzip"}}),
        (431, "/v1/images/generations", {"headers": {"x": "y" * 70_000}}),
        (501, "/v2/repository/models/{model_name}/unload", {}),
    ],
)
def test_rejections_have_the_documented_form(
    client: httpx.Client, document: dict[str, Any], status: int, path: str, request_of: Any
) -> None:
    one = Operation("post", path, document["paths"][path]["post"], document)

    response = client.post(path.replace("{model_name}", MODEL_NAME), **request_of)

    assert response.status_code == status
    one.check(response)


def test_unknown_models_have_the_documented_form(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    named = [one for one in operations(document) if "{model_name}" in one.path]
    assert len(named) >= 9
    for one in named:
        path = one.path.replace("{model_name}", "other")
        body = one.bodies[0][1] if one.bodies else None
        response = client.request(one.method, path, json=body, params=one.query)
        assert response.status_code == 404, path
        one.check(response)


def test_the_examples_of_errors_have_their_own_schema(document: dict[str, Any]) -> None:
    one = next(operations(document))
    responses = document["components"]["responses"]
    assert "openai_errors_400" in responses
    for response in responses.values():
        content = response["content"][JSON]
        one.validate(content["example"], content["schema"])


def test_every_status_of_an_error_is_described() -> None:
    of_router_and_connection = {405, 408, 414, 431}

    assert {int(status) for status in STATUS.values()} | of_router_and_connection == {*ERRORS}


def test_an_operation_has_no_status_that_cannot_occur(document: dict[str, Any]) -> None:
    for one in operations(document):
        # FastAPI's form of an invalid request; and this server has no keys. A proxy may hide the
        # caller of these two.
        hidden = {"403"} if one.path.endswith(("/options", "/interrupt")) else set()
        assert not ({"401", "403", "422"} - hidden) & one.content["responses"].keys(), one.path
        has_body = "requestBody" in one.content
        assert ("413" in one.content["responses"]) == has_body, one.path
    assert "securitySchemes" not in document["components"]


def test_fields_have_the_bounds_and_defaults_of_this_server(document: dict[str, Any]) -> None:
    def field(name: str) -> dict[str, Any]:
        found = document["components"]["schemas"]["Instance"]["properties"][name]
        return dict(found["anyOf"][0] | {"default": found.get("default")})

    width = field("width")
    assert (width["minimum"], width["maximum"], width["multipleOf"]) == (64, 2048, 8)
    assert width["default"] == 64
    assert (field("steps")["maximum"], field("steps")["default"]) == (150, 20)
    assert (field("seed")["minimum"], field("seed")["maximum"]) == (-1, 2**53 - 1)
    assert field("timeout")["exclusiveMinimum"] == 0
    assert field("negative_prompt")["maxLength"] == 4096
    assert {"euler_a", "DPM++ 2M Karras"} <= {*field("scheduler")["enum"]}
    assert field("clip_skip")["maximum"] == 1
    schemas = document["components"]["schemas"]
    assert schemas["InstancesBody"]["properties"]["instances"]["maxItems"] == 16
    assert schemas["AdapterField"]["properties"]["scale"]["maximum"] == 5
    query = document["paths"]["/imagine"]["get"]["parameters"]
    side = next(one["schema"] for one in query if one["name"] == "img_size")
    assert (side["type"], side["minimum"], side["maximum"]) == ("integer", 64, 2048)


def test_without_a_loaded_model_the_bounds_are_those_of_the_settings() -> None:
    settings = Settings(max_side=512, max_num_inference_steps=30)
    schema = {"properties": {name: {"type": "integer"} for name in ("width", "n", "clip_skip")}}
    schema["properties"]["scheduler"] = {"type": "string"}

    found = FieldSchemas(settings, None).bounded(schema)["properties"]

    assert found["width"] == {"type": "integer", "minimum": 64, "maximum": 512}
    assert found["n"] == {"type": "integer", "minimum": 1, "maximum": 16, "default": 1}
    assert found["scheduler"] == {"type": "string"}
    assert found["clip_skip"]["maximum"] > 10


def test_schemas_are_derived_from_examples() -> None:
    found = schema_of({"a": [{"b": 1, "c": "x"}, {"b": 2.5}], "d": None}, {"a": [], "e": True})

    assert found == {
        "type": "object",
        "properties": {
            "a": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "b": {"type": ["integer", "number"]},
                        "c": {"type": "string"},
                    },
                    "required": ["b"],
                },
            },
            "d": {},
            "e": {"type": "boolean"},
        },
        "required": ["a"],
    }
    assert json.dumps(schema_of()) == "{}"
