"""Keys over HTTP: which routes are closed, to whom, and what callers see."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from playwright.sync_api import Browser, expect

from tests.browser import Visit, browser, needs_chromium
from tests.predictor.key_lines import ADMIN, OTHER, USER, bearer, key_line
from tests.predictor.metric_samples import samples
from tests.predictor.rpc import refusal, typed
from tests.serving import MODEL_NAME, PREDICT, ROOT, Server, picture_of
from tests.waiting import wait_until

__all__ = ["browser"]

# The key with a limit, which the page uses.
CAROL = "sk-carol-0123456789"
SHORT = {"prompt": "a red star", "num_inference_steps": 1}
OPEN = {
    ("GET", "/"),
    ("GET", "/metrics"),
    # The page, which asks for a key.
    ("GET", "/ui"),
    ("GET", "/ui/"),
    ("GET", "/ui/{file}"),
    ("GET", "/v1/models/{model_name}"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/{model_name}/ready"),
}
ADMIN_ONLY = {
    ("POST", "/v2/repository/models/{model_name}/load"),
    ("POST", "/v2/repository/models/{model_name}/unload"),
}
LIST_ROUTES = """
import json, sys
from fastapi.routing import iter_route_contexts
from pathlib import Path
from kserve.model_server import app
from kserve.protocol.rest.server import RESTServer
from predictor.edge.server import DiffusionServer
from predictor.settings import Settings

settings = Settings(model_dir=Path(sys.argv[1]))
kserve = {"timeout_keep_alive": 5, "ssl_certfile": None, "ssl_keyfile": None}
server = DiffusionServer("any", settings, http_port=0, **kserve)
RESTServer("", server.dataplane, server.model_repository_extension, 0).create_application()
contexts = list(iter_route_contexts(app.routes))
print(json.dumps([[method, one.path] for one in contexts for method in one.methods]))
"""


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    lines = key_line("alice", USER) + key_line("ops", ADMIN, "admin")
    file.write_text(lines + key_line("carol", CAROL, own_limits="pictures=10"), "utf-8")
    return file


@pytest.fixture(scope="module")
def closed(
    demo_model: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that requires keys; its probes work without one."""
    log = tmp_path_factory.mktemp("closed") / "log"
    with Server.started(demo_model, log, api_keys_file=key_file, enable_grpc=True) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def routes(demo_model: Path) -> set[tuple[str, str]]:
    """Every route of the application, from the application itself."""
    done = subprocess.run(
        [sys.executable, "-c", LIST_ROUTES, str(demo_model)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return {(method, path) for method, path in json.loads(done.stdout.splitlines()[-1])}


def send(server: Server, route: tuple[str, str], key: str | None = None) -> httpx.Response:
    method, template = route
    path = template.replace("{model_name}", MODEL_NAME).replace("{name}", MODEL_NAME)
    headers = bearer(key) if key else {}
    return httpx.request(method, server.url + re.sub(r"{\w+}", "1", path), headers=headers)


def basic(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def error_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


def test_every_route_is_closed_unless_it_is_a_probe(
    closed: Server, routes: set[tuple[str, str]]
) -> None:
    statuses = {route: send(closed, route).status_code for route in routes}

    assert ("POST", "/v1/models/{model_name}:predict") in statuses
    assert {route for route, status in statuses.items() if status != 401} == OPEN


def test_the_openapi_document_says_which_routes_require_which_key(closed: Server) -> None:
    document = httpx.get(f"{closed.url}/openapi.json", headers=bearer(USER)).json()
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }

    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    is_open = {route for route, one in operations.items() if one["security"] == []}
    assert is_open == OPEN - {("GET", "/ui/")}
    for route, operation in operations.items():
        assert ("401" in operation["responses"]) == (route not in OPEN), route
        assert ("429" in operation["responses"]) == (route not in OPEN), route
        assert ("403" in operation["responses"]) == (route in ADMIN_ONLY), route


@pytest.mark.parametrize(
    "route",
    [
        ("GET", "/no/such/route"),
        ("POST", "/"),
        ("POST", "/ui"),
        ("GET", "/ui/static/main.js"),
        ("GET", "//metrics"),
        ("GET", "/metrics/"),
        ("GET", f"/v1/models/{MODEL_NAME}:predict"),
        ("GET", f"/v1/models/{MODEL_NAME}%2F..%2F..%2Fdocs"),
        ("DELETE", f"/v1/models/{MODEL_NAME}"),
        ("POST", f"/v1//models/{MODEL_NAME}:predict"),
    ],
)
def test_paths_like_those_of_open_routes_are_closed(closed: Server, route: tuple[str, str]) -> None:
    assert send(closed, route).status_code == 401


def test_only_an_admin_may_load_and_unload(closed: Server, routes: set[tuple[str, str]]) -> None:
    tried = {route for route in routes if "repository" in route[1] and "index" not in route[1]}

    assert tried == ADMIN_ONLY
    for route in ADMIN_ONLY:
        assert "admin" in error_of(send(closed, route, USER), 403)
        assert send(closed, route, ADMIN).status_code in (200, 501)
    assert send(closed, ("POST", "/v2/repository/index"), USER).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": USER},
        {"Authorization": f"Basic {USER}"},
        basic(":"),
        basic("any:wrong"),
        basic(f"{USER}:wrong"),
        {"X-Api-Key": USER},
        bearer(OTHER),
        bearer(USER + "x"),
        {"Authorization": b"Bearer \xe9\xff"},
    ],
)
def test_a_request_without_a_valid_key_is_rejected(closed: Server, headers: Any) -> None:
    response = httpx.post(closed.url + PREDICT, json=SHORT, headers=headers)

    assert "key" in error_of(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_valid_key_gets_a_picture(closed: Server, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {USER}"}

    picture_of(httpx.post(closed.url + PREDICT, json=SHORT, headers=headers, timeout=60))


@pytest.mark.parametrize("credentials", [f"any:{USER}", f":{USER}", f"{USER}:", USER])
def test_a_key_is_the_password_of_basic_authentication(closed: Server, credentials: str) -> None:
    """What SillyTavern and Open WebUI send as clients of A1111."""
    headers = basic(credentials)

    picture_of(httpx.post(closed.url + PREDICT, json=SHORT, headers=headers, timeout=60))


@pytest.mark.parametrize("headers", [{}, basic("any:wrong"), bearer(OTHER)])
def test_clients_of_a1111_are_rejected_in_their_form(closed: Server, headers: Any) -> None:
    response = httpx.post(closed.url + "/sdapi/v1/txt2img", json=SHORT, headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.json()
    assert list(error) == ["error", "detail", "body", "errors"]
    assert error["error"] == "Unauthorized"
    assert error["detail"] == error["errors"]
    assert "key" in error["detail"]


def test_the_api_of_a1111_is_off_by_default(closed: Server) -> None:
    body = {"prompt": "a red star"}

    answers = [
        httpx.post(closed.url + "/sdapi/v1/txt2img", json=body, headers=bearer(USER)),
        httpx.get(closed.url + "/sdapi/v1/options", headers=bearer(USER)),
    ]

    assert [one.status_code for one in answers] == [404, 404]


def test_curl_gets_a_picture_with_a_key(closed: Server, tmp_path: Path) -> None:
    output = tmp_path / "picture.png"
    command = ["curl", "--silent", "--fail", closed.url + PREDICT, "--output", str(output)]
    command += ["--header", f"Authorization: Bearer {USER}", "--data", json.dumps(SHORT)]

    subprocess.run(command, check=True)

    assert output.read_bytes().startswith(b"\x89PNG")


def test_rpcs_require_the_same_keys(closed: Server) -> None:
    load = pb.RepositoryModelLoadRequest(model_name=MODEL_NAME)
    picture = typed(**SHORT)

    def metadata(key: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {key}")]

    with grpc.insecure_channel(f"127.0.0.1:{closed.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        probes = [
            stub.ServerLive(pb.ServerLiveRequest()).live,
            stub.ServerReady(pb.ServerReadyRequest()).ready,
            stub.ModelReady(pb.ModelReadyRequest(name=MODEL_NAME)).ready,
        ]
        without = [
            refusal(lambda: stub.ModelInfer(picture)),
            refusal(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL_NAME))),
            refusal(lambda: stub.ServerMetadata(pb.ServerMetadataRequest())),
            refusal(lambda: stub.RepositoryModelLoad(load)),
        ]
        wrong = refusal(lambda: stub.ModelInfer(picture, metadata=metadata(OTHER)))
        user = refusal(lambda: stub.RepositoryModelLoad(load, metadata=metadata(USER)))
        made = stub.ModelInfer(picture, metadata=metadata(USER))
        loaded = stub.RepositoryModelLoad(load, metadata=metadata(ADMIN))

    assert probes == [True] * 3
    assert {one[0] for one in without} == {grpc.StatusCode.UNAUTHENTICATED}
    assert without[0][1] == "a key is required: send `Authorization: Bearer <key>`"
    assert wrong[:2] == (grpc.StatusCode.UNAUTHENTICATED, "the key is not valid")
    assert wrong[2]["www-authenticate"] == "Bearer"
    assert user[:2] == (
        grpc.StatusCode.PERMISSION_DENIED,
        "this route requires the key of an admin",
    )
    assert made.outputs
    assert loaded.isLoaded


def test_openais_client_sends_its_key(closed: Server) -> None:
    def ask(key: str) -> Any:
        url = f"{closed.url}/openai/v1"
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            return client.images.generate(prompt="a red star", extra_body={"steps": 1})

    with pytest.raises(openai.AuthenticationError) as refused:
        ask("wrong")

    assert refused.value.code == "invalid_api_key"
    assert refused.value.type == "invalid_request_error"
    assert ask(USER).data


def test_a_body_without_a_key_is_not_read(closed: Server) -> None:
    host, port = closed.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: any\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode())

        assert b" 401 " in connection.recv(1000).splitlines()[0]


@needs_chromium
def test_the_page_asks_for_a_key_and_explains_a_limit(browser: Browser, closed: Server) -> None:
    with Visit.started(browser, closed.url, {"prompt": SHORT["prompt"]}) as visit:
        dialog = visit.page.get_by_role("dialog")
        expect(dialog).to_contain_text("a key is required")
        visit.button("Not now").click()
        expect(dialog).to_be_hidden()
        visit.button("Draw").click()
        expect(dialog).to_contain_text("a key is required")
        visit.control("API key").fill(OTHER)
        visit.button("Use the key").click()
        expect(dialog).to_contain_text("the key is not valid")
        visit.control("API key").fill(CAROL)
        visit.button("Use the key").click()
        visit.wait_until_described()
        expect(dialog).to_be_hidden()
        # Eight more do not fit for half a minute, even if a minute of the clock ends here.
        visit.control("Steps").fill("1")
        visit.control("Pictures").fill("8")
        visit.draw(8)
        visit.button("Draw").click()

        alert = visit.page.get_by_role("alert")
        expect(alert).to_contain_text("the limit of 10 pictures a minute of this key is reached")
        expect(alert).to_contain_text(re.compile(r"Try again in \d+ seconds?\."))
        # The key is in no address, and neither in cookies nor in localStorage.
        assert [one for one in visit.requested if CAROL in one] == []
        assert CAROL not in str(visit.page.context.storage_state())


def test_keys_are_counted_by_name_and_written_nowhere(closed: Server) -> None:
    httpx.post(closed.url + PREDICT, json=SHORT, headers=bearer(USER), timeout=60)
    httpx.get(closed.url + "/v1/models", headers=bearer(OTHER))
    httpx.post(closed.url + "/v2/repository/models/any/load", headers=bearer(USER))
    text = httpx.get(closed.url + "/metrics").text
    counted = {
        (one.labels["key"], one.labels["code"])
        for one in samples(text, "diffusion_key_requests_total")
    }

    assert {("alice", "200"), ("alice", "403"), ("", "401")} <= counted
    assert ("", "403") not in counted
    written = text + closed.log.read_text()
    assert [key for key in (USER, ADMIN, OTHER) if key in written] == []


def test_keys_are_rotated_without_a_restart(closed: Server, key_file: Path) -> None:
    def status(key: str) -> int:
        return httpx.get(closed.url + "/v1/models", headers=bearer(key)).status_code

    def is_logged() -> bool:
        # The file is read on use.
        status(USER)
        return "the last good list stays in force" in closed.log.read_text()

    lines = key_file.read_text("utf-8")
    try:
        key_file.write_text(lines + key_line("alice", OTHER), "utf-8")
        wait_until(lambda: status(OTHER) == 200)
        assert status(USER) == 200
        key_file.write_text("alice user not-a-hash\n", "utf-8")
        wait_until(is_logged)
        assert (status(USER), status(OTHER)) == (200, 200)
    finally:
        key_file.write_text(lines, "utf-8")
    wait_until(lambda: status(OTHER) == 401)
    assert status(USER) == 200


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"api_keys_file": "/no/such/file"}, "api_keys_file .*No such file"),
        ({"key_pictures_per_minute": 3}, "a limit per key requires keys: set api_keys_file"),
        ({"rate_limit_storage": "mongo://:secret@h"}, "rate_limit_storage: the URL must begin"),
    ],
)
def test_wrong_settings_stop_startup_with_one_sentence(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with Server.started(tmp_path, tmp_path / "log", **settings) as server:
        assert server.process.wait(60) == 1

    log = server.log.read_text()
    assert re.search(f"^predictor: {reason}", log, re.MULTILINE)
    assert "Traceback" not in log
    assert "secret" not in log
