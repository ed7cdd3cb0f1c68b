"""Every route with wrong methods, names and bodies: an error in one form, and never a 500."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest

from tests.predictor.raw_http import exchange
from tests.serving import MODEL_NAME, PREDICT, Server

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
NAMES = (
    MODEL_NAME,
    *(
        "unknown",
        "%00",
        "%0A",
        "a%2Fb",
        "..",
        "%2E%2E",
        "a:b",
        "%F0%9F%90%88",
        "%FF",
        "%",
        "x" * 4000,
    ),
)
BODIES = (
    *(b"", b"{", b"null", b"[]", b"{}", b"3", b'"x"', b"\xff\xfe", b"\x89PNG\r\n"),
    *(b'{"inputs": []}', b'{"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES"}]}'),
    *(b'{"ready": 3}', b'{"specversion": "1.0"}', b'{"instances": [{}]}'),
)
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"content-type": "application/json"},
    {"content-type": "application/octet-stream"},
    {"content-type": "application/octet-stream", "inference-header-content-length": "x"},
    {"content-type": "application/json", "inference-header-content-length": "-1"},
    {"content-type": "application/cloudevents+json"},
    {"content-type": "application/cloudevents-batch+json"},
    {"content-type": "multipart/form-data; boundary=x"},
    {"content-type": "nonsense"},
    {"ce-id": "1", "ce-source": "x", "ce-type": "y", "ce-specversion": "9"},
    {"accept": "nonsense;q=x", "accept-encoding": "gzip"},
)
# KServe's routes for features that no model of this server has, and `unload` of the only model.
NOT_IMPLEMENTED = (":explain", "/unload", "/versions/")


@pytest.fixture(scope="module")
def routes(server: Server) -> dict[str, set[str]]:
    """The methods of each path, with HEAD where there is GET."""
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert "/v2/models/{model_name}/infer" in paths
    found = {path: {method.upper() for method in paths[path]} for path in paths}
    # They exist, but no model supports them, so the document leaves them out.
    found["/v1/models/{model_name}:explain"] = {"POST"}
    found["/v2/models/{model_name}/versions/1/infer"] = {"POST"}
    found["/v2/models/{model_name}/versions/1/ready"] = {"GET"}
    return {path: found[path] | ({"HEAD"} if "GET" in found[path] else set()) for path in found}


def filled(path: str, name: str = MODEL_NAME) -> str:
    for part in ("{model_name}", "{name}"):
        path = path.replace(part, name)
    return path


def message_of(response: httpx.Response) -> Any:
    """The text of an error, in the form of the route."""
    body = response.json()
    if response.url.path.startswith("/sdapi/v1/"):
        assert list(body) == ["error", "detail", "body", "errors"]
        return body["detail"]
    assert list(body) == ["error"]
    if response.url.path.startswith(("/openai/", "/v1/images/")):
        assert list(body["error"]) == ["message", "type", "param", "code"]
        return body["error"]["message"]
    return body["error"]


def check(response: httpx.Response, context: Any) -> None:
    """Any status but an unexpected 5xx, and one form of error."""
    if response.status_code == 501:
        assert any(part in response.url.path for part in NOT_IMPLEMENTED), context
    else:
        assert response.status_code < 500, (context, response.text)
    if response.status_code >= 400 and response.request.method != "HEAD":
        assert response.headers["content-type"] == "application/json", context
        error = message_of(response)
        assert isinstance(error, str), context
        assert error, context
        assert "Traceback" not in error, context


def test_other_methods_get_405_with_the_right_ones(
    client: httpx.Client, routes: dict[str, set[str]]
) -> None:
    for path, method in itertools.product(routes, METHODS):
        if method in routes[path]:
            continue
        response = client.request(method, filled(path))
        check(response, (method, path))
        assert response.status_code == 405, (method, path)
        allowed = set(response.headers["allow"].split(", "))
        assert allowed == routes[path], (method, path)
        if method != "HEAD":
            assert f"does not support {method}; use " in message_of(response)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_no_name_of_a_model_is_an_error_of_the_server(
    server: Server, routes: dict[str, set[str]], name: str
) -> None:
    for path in routes:
        for method in routes[path] & {"GET", "POST"}:
            target = filled(path, name)
            head = f"{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            (answer,) = exchange(server, f"{head}Content-Length: 0\r\n\r\n".encode())
            if answer.status == 501:
                assert any(part in target for part in NOT_IMPLEMENTED)
            else:
                assert answer.status < 500, (method, target, answer)
            if answer.status >= 400:
                assert answer.error


@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_no_body_is_an_error_of_the_server(
    client: httpx.Client, server: Server, routes: dict[str, set[str]], headers: dict[str, str]
) -> None:
    before = server.log.read_text()
    for path, body in itertools.product(routes, BODIES):
        for method in routes[path] - {"HEAD"}:
            response = client.request(method, filled(path), content=body, headers=headers)
            check(response, (method, path, body, headers))
            if path.endswith(":predict"):
                assert response.status_code in (400, 415), (body, headers)

    assert "Traceback" not in server.log.read_text().removeprefix(before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1",
        "/v1/models/a/b",
        f"{PREDICT}/more",
        f"/v1/models/{MODEL_NAME}:nothing",
        "/docs",
    ],
)
def test_an_unknown_route_names_the_routes(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path)

    assert response.status_code == 404
    if method != "HEAD":
        error = response.json()["error"]
        assert error.startswith(f"{path} does not exist; the server has ")
        assert "POST /v1/models/{model_name}:predict" in error
        assert ":explain" not in error


def test_head_is_get_without_the_body(client: httpx.Client, routes: dict[str, set[str]]) -> None:
    for path in routes:
        if "GET" in routes[path]:
            got, headed = client.get(filled(path)), client.head(filled(path))
            assert (headed.status_code, headed.content) == (got.status_code, b"")
            if path != "/metrics":
                assert headed.headers["content-length"] == got.headers["content-length"]


def test_explain_is_refused_with_a_sentence(client: httpx.Client) -> None:
    path = "/v1/models/{}:explain"
    refused = client.post(path.format(MODEL_NAME), json={"prompt": "a star"})
    unknown = client.post(path.format("other"), json={"prompt": "a star"})

    assert refused.status_code == 501
    assert refused.json() == {"error": "the server does not explain pictures: use `:predict`"}
    assert unknown.status_code == 404


def test_get_on_predict_does_not_say_that_the_model_is_missing(client: httpx.Client) -> None:
    response = client.get(PREDICT)

    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json() == {"error": f"{PREDICT} does not support GET; use POST"}
