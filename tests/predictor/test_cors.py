"""CORS: off by default; with ``cors_origins``, browsers may call the server from those pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from predictor.edge.cors import EXPOSED
from predictor.protocol.encode import RESPONSE_HEADERS
from predictor.settings import Settings
from tests.predictor.metric_samples import metric
from tests.serving import PREDICT, Server

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = "https://app.example.com"
SHORT = {"prompt": "a red star", "num_inference_steps": 1}


@pytest.fixture(scope="module")
def open_server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that two pages may call."""
    log = tmp_path_factory.mktemp("cors") / "log"
    origins = f"{PAGE}, http://localhost:3000"
    with Server.started(demo_model, log, cors_origins=origins) as running:
        running.wait_until_ready()
        yield running


def preflight(server: Server, origin: str = PAGE, method: str = "POST") -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization, content-type",
    }
    return httpx.options(server.url + PREDICT, headers=headers)


def requests_of(server: Server) -> float:
    return metric(server.url, "diffusion_request_seconds_count")


def test_a_preflight_of_an_allowed_page_succeeds(open_server: Server) -> None:
    before = requests_of(open_server)

    response = preflight(open_server)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert "Origin" in response.headers["vary"]
    assert requests_of(open_server) == before


@pytest.mark.parametrize(
    ("origin", "method"), [("https://other.example.com", "POST"), (PAGE, "DELETE"), ("null", "GET")]
)
def test_another_preflight_is_refused_and_makes_no_picture(
    open_server: Server, origin: str, method: str
) -> None:
    before = requests_of(open_server)

    response = preflight(open_server, origin, method)

    assert response.status_code == 400
    assert "cors_origins does not allow this" in response.json()["error"]
    if origin != PAGE:
        assert "access-control-allow-origin" not in response.headers
    assert requests_of(open_server) == before


def test_pages_can_read_pictures_and_errors(open_server: Server) -> None:
    headers = {"origin": "http://localhost:3000"}
    answers = [
        httpx.post(open_server.url + PREDICT, json=SHORT, headers=headers, timeout=60),
        httpx.post(open_server.url + PREDICT, json={}, headers=headers),
        httpx.post(open_server.url + PREDICT, headers=headers | {"content-encoding": "gzip"}),
        httpx.get(open_server.url + "/nothing", headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [200, 400, 415, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == headers["origin"]
    exposed = answers[0].headers["access-control-expose-headers"].split(", ")
    added = {name for name in answers[0].headers if name.startswith("x-")}
    assert added <= set(exposed)
    assert "retry-after" in exposed


def test_other_pages_cannot_read_a_response(open_server: Server) -> None:
    response = httpx.get(open_server.url, headers={"origin": "https://other.example.com"})

    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


def test_without_the_setting_a_preflight_gets_405(server: Server) -> None:
    before = requests_of(server)

    response = preflight(server)

    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert requests_of(server) == before + 1


def test_the_document_names_the_headers_that_pages_can_read() -> None:
    api = (ROOT / "docs" / "api.md").read_text("utf-8")
    table = api.partition("### Response headers")[2].partition("\nFor a call")[0]

    documented = set(re.findall(r"`(x-[a-z-]+)`", table))

    assert documented == {*RESPONSE_HEADERS, "x-request-id"}
    assert documented <= set(EXPOSED)


@pytest.mark.parametrize("origins", ["app.example.com", "https://app.example.com/", f"{PAGE},*"])
def test_an_origin_has_a_scheme_and_no_path(origins: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        Settings(cors_origins=origins)
