"""Rate limits over HTTP: per address in one process, per key in two that share a Redis."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from contextvars import copy_context
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import grpc
import httpx
import openai
import pytest
import redis
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from demo.run import free_port
from predictor.access.rates import Usage
from predictor.edge.access_control import AccessMiddleware, AccessRules
from predictor.metrics import KEY_REQUESTS
from predictor.request_context import RequestContext, enter_request
from predictor.settings import Settings
from tests.predictor.key_lines import ADMIN, OTHER, USER, bearer, key_line
from tests.predictor.metric_samples import samples
from tests.predictor.rpc import refusal, typed
from tests.redis_server import RedisServer, needs_redis
from tests.serving import PREDICT, Server

SHORT = {"prompt": "a red star", "num_inference_steps": 1}


@pytest.fixture(scope="module")
def limited(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind one trusted proxy that limits addresses; each test uses its own address.

    A minute of the clock may end during a test. Requests therefore take more than what the next
    minute gives back at once.
    """
    log = tmp_path_factory.mktemp("limited") / "log"
    settings = {
        "trusted_proxies": 1,
        "enable_grpc": True,
        "a1111_api": True,
        "address_requests_per_minute": 8,
        "address_pictures_per_minute": 3,
        "address_megapixels_per_minute": 0.05,
    }
    with Server.started(demo_model, log, **settings) as running:
        running.wait_until_ready()
        yield running


def predict(
    server: Server, address: str, status: int = 200, key: str = "", **parameters: Any
) -> httpx.Response:
    headers = {"X-Forwarded-For": address} | (bearer(key) if key else {})
    response = httpx.post(
        server.url + PREDICT, json=SHORT | parameters, headers=headers, timeout=60
    )
    assert response.status_code == status, response.text
    return response


def test_pictures_are_limited(limited: Server) -> None:
    served = predict(limited, "198.51.100.1", num_images_per_prompt=3)
    rejected = [predict(limited, "198.51.100.1", 429, num_images_per_prompt=3) for _ in range(20)]

    assert served.headers["ratelimit-limit"] == "3"
    assert served.headers["ratelimit-remaining"] == "0"
    assert served.headers["ratelimit-policy"] == '3;w=60;comment="pictures per address"'
    # A request that is rejected uses nothing: 20 of them do not reach the limit of 8 requests.
    expected = {"error": "the limit of 3 pictures a minute of this address is reached"}
    assert [one.json() for one in rejected] == [expected] * 20
    for name in ("retry-after", "ratelimit-reset"):
        assert 1 <= int(rejected[0].headers[name]) <= 120
    assert rejected[0].headers["ratelimit-remaining"] == "0"


def test_megapixels_are_limited(limited: Server) -> None:
    predict(limited, "198.51.100.2", width=192, height=256)
    response = predict(limited, "198.51.100.2", 429, width=192, height=256)

    assert "0.05 megapixels a minute of this address" in response.json()["error"]
    assert response.headers["ratelimit-limit"] == "0.05"


def test_requests_of_every_kind_are_limited(limited: Server) -> None:
    headers = {"X-Forwarded-For": "198.51.100.3"}
    statuses = [
        httpx.get(limited.url + path, headers=headers).status_code
        for path in ["/v1/models", "/no/such/route"] * 5
    ]

    assert statuses[:8] == [200, 404] * 4
    assert statuses[-1] == 429


def test_openais_client_sees_when_to_retry(limited: Server) -> None:
    with openai.OpenAI(
        base_url=f"{limited.url}/openai/v1",
        api_key="unused",
        max_retries=0,
        default_headers={"X-Forwarded-For": "198.51.100.40"},
    ) as client:
        fields: dict[str, Any] = {"prompt": "a red star", "extra_body": {"steps": 1}}
        client.images.generate(n=3, **fields)
        with pytest.raises(openai.RateLimitError) as refused:
            client.images.generate(n=3, **fields)

    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert int(refused.value.response.headers["retry-after"]) > 0
    assert "the limit of 3 pictures a minute of this address" in refused.value.message


def test_clients_of_a1111_are_limited_in_their_form(limited: Server) -> None:
    def ask() -> httpx.Response:
        return httpx.post(
            limited.url + "/sdapi/v1/txt2img",
            json={"prompt": "a red star", "steps": 1, "batch_size": 3},
            headers={"X-Forwarded-For": "198.51.100.42"},
            timeout=60,
        )

    served, refused = ask(), ask()

    assert (served.status_code, refused.status_code) == (200, 429)
    assert refused.json() == {
        "error": "Too Many Requests",
        "detail": "the limit of 3 pictures a minute of this address is reached",
        "body": "",
        "errors": "the limit of 3 pictures a minute of this address is reached",
    }
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["ratelimit-limit"] == "3"


def test_an_rpc_is_limited_and_says_when_to_retry(limited: Server) -> None:
    request = typed(**SHORT)
    request.parameters["num_images_per_prompt"].int64_param = 3
    address = [("x-forwarded-for", "198.51.100.41")]

    with grpc.insecure_channel(f"127.0.0.1:{limited.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        _, served = stub.ModelInfer.with_call(request, metadata=address)
        code, sentence, metadata = refusal(lambda: stub.ModelInfer(request, metadata=address))

    assert dict(served.trailing_metadata())["ratelimit-remaining"] == "0"
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert sentence == "the limit of 3 pictures a minute of this address is reached"
    assert int(metadata["retry-after"]) > 0
    assert metadata["ratelimit-limit"] == "3"


def test_probes_are_not_limited(limited: Server) -> None:
    headers = {"X-Forwarded-For": "198.51.100.4"}

    assert {httpx.get(limited.url, headers=headers).status_code for _ in range(30)} == {200}


def test_a_request_beyond_a_whole_minute_is_a_bad_request(limited: Server) -> None:
    response = predict(limited, "198.51.100.5", 400, num_images_per_prompt=4)

    assert "more than 3 pictures a minute" in response.json()["error"]
    assert "retry-after" not in response.headers


def test_a_forged_address_does_not_help(limited: Server) -> None:
    predict(limited, "198.51.100.6", num_images_per_prompt=3)
    predict(limited, "203.0.113.9, 198.51.100.6", 429, num_images_per_prompt=3)
    predict(limited, "2001:db8::1", num_images_per_prompt=3)
    predict(limited, "2001:db8::2", 429, num_images_per_prompt=3)
    predict(limited, "198.51.100.7", num_images_per_prompt=3)


def call(rules: AccessRules, status: int, **scope: Any) -> list[dict[str, Any]]:
    """The messages that one request gets from an application that answers ``status``."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("answer", status)(scope, receive, send)

    return asyncio.run(_sent(AccessMiddleware(app, rules), scope))


async def _sent(middleware: ASGIApp, scope: dict[str, Any]) -> list[dict[str, Any]]:
    send = AsyncMock()
    whole = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []} | scope
    await middleware(whole, AsyncMock(), send)
    return [one.args[0] for one in send.call_args_list]


@pytest.mark.parametrize(("status", "most"), [(429, 5), (503, 5), (200, 1), (400, 1), (500, 1)])
def test_a_request_that_is_not_served_costs_nothing(
    status: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue (429) and a pod that drains (503) reject a request that was within limits."""
    monkeypatch.setattr("limits.aio.storage.memory.time.time", lambda: 1_800_000_000.0)
    rules = AccessRules.read(Settings(address_requests_per_minute=1))

    bodies = [call(rules, status, client=("192.0.2.1", 1))[-1]["body"] for _ in range(5)]

    assert bodies.count(b"answer") == most


@pytest.fixture
def keyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AccessRules:
    """Three requests a minute for each address, and four for the two keys of alice."""
    monkeypatch.setattr("limits.aio.storage.memory.time.time", lambda: 1_800_000_000.0)
    file = tmp_path / "keys"
    lines = key_line("alice", USER, "user", "requests=4") + key_line("alice", OTHER)
    file.write_text(lines + key_line("ops", ADMIN, "admin"), "utf-8")
    return AccessRules.read(Settings(api_keys_file=file, address_requests_per_minute=3))


def keyed_call(rules: AccessRules, key: str, host: int = 1, **scope: Any) -> dict[str, Any]:
    """The start of the response to a request with a key from 192.0.2.``host``."""
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    return call(rules, 200, headers=headers, client=(f"192.0.2.{host}", 1), **scope)[0]


def test_the_two_keys_of_a_rotation_share_one_limit(keyed: AccessRules) -> None:
    keys = [USER, OTHER, USER, OTHER, OTHER, USER]
    statuses = [keyed_call(keyed, key, host)["status"] for host, key in enumerate(keys)]

    assert statuses == [200] * 4 + [429] * 2


@pytest.mark.parametrize("guess", ["", "sk-guess"])
def test_guesses_of_keys_count_towards_the_limit_of_the_address(
    keyed: AccessRules, guess: str
) -> None:
    starts = [keyed_call(keyed, guess) for _ in range(5)]

    assert [one["status"] for one in starts] == [401] * 3 + [429] * 2
    assert b"retry-after" in dict(starts[-1]["headers"])
    # A correct guess looks like the others.
    assert keyed_call(keyed, ADMIN)["status"] == 429
    assert keyed_call(keyed, ADMIN, host=2)["status"] == 200


def test_a_request_without_permission_counts_for_the_name_of_its_key(keyed: AccessRules) -> None:
    request = RequestContext("1")
    counted = KEY_REQUESTS.labels("alice", 403)._value
    before = counted.get()
    path = "/v2/repository/models/any/load"

    def sent() -> list[int]:
        enter_request(request)
        return [
            keyed_call(keyed, USER, host, method="POST", path=path)["status"] for host in range(6)
        ]

    # Or the request would be that of later tests.
    statuses = copy_context().run(sent)

    assert statuses == [403] * 4 + [429] * 2
    assert counted.get() == before + 4
    assert request.caller == "alice"


def test_a_rejected_request_whose_pictures_were_read_costs_a_request(limited: Server) -> None:
    """Else a caller could make the server decode pictures without any limit."""
    image = BytesIO()
    Image.new("RGB", (64, 64)).save(image, "PNG")
    text = base64.b64encode(image.getvalue()).decode()
    body = {"image": text, "strength": 1.0, "num_images_per_prompt": 3}
    predict(limited, "198.51.100.8", num_images_per_prompt=3)

    errors = [predict(limited, "198.51.100.8", 429, **body).json()["error"] for _ in range(20)]

    assert errors[0] == "the limit of 3 pictures a minute of this address is reached"
    assert "the limit of 8 requests a minute of this address is reached" in errors


def test_limits_that_cannot_be_checked_reject_if_they_fail_closed() -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    settings = {"address_requests_per_minute": 1, "rate_limit_storage": url}
    is_served = {
        failure: call(AccessRules.read(Settings(rate_limit_failure=failure, **settings)), 200)[0]
        for failure in ("open", "closed")
    }

    assert is_served["open"]["status"] == 200
    assert is_served["closed"]["status"] == 503
    assert b"retry-after" in dict(is_served["closed"]["headers"])


def test_a_websocket_is_closed() -> None:
    rules = AccessRules.read(Settings(address_requests_per_minute=1))

    assert call(rules, 200, type="websocket") == [{"type": "websocket.close", "code": 1008}]


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def replicas(
    demo_model: Path, shared: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """Two servers with one key file and one Redis; Redis counts from a key's first request."""
    folder = tmp_path_factory.mktemp("replicas")
    names = ("alice", "bob", "carol", "dave")
    lines = [key_line(name, name * 5, "user", "pictures=3") for name in names]
    (folder / "keys").write_text("".join(lines), "utf-8")
    settings = {
        "api_keys_file": folder / "keys",
        "key_requests_per_minute": 5,
        "address_requests_per_minute": 1000,
        "rate_limit_storage": shared.url,
        # A busy machine is not a lost Redis.
        "rate_limit_timeout_seconds": 30,
    }
    with Server.started(demo_model, folder / "first", **settings) as first:
        first.wait_until_ready()
        with Server.started(demo_model, folder / "second", **settings) as second:
            second.wait_until_ready()
            yield first, second


@needs_redis
def test_replicas_share_the_limits_of_a_key(replicas: tuple[Server, Server]) -> None:
    first, second = replicas
    key = "alice" * 5

    predict(first, "any", key=key, num_images_per_prompt=2)
    predict(second, "any", key=key)
    rejected = [predict(server, "any", 429, key=key) for server in (*replicas, *replicas)]

    expected = {"error": "the limit of 3 pictures a minute of this key is reached"}
    assert [one.json() for one in rejected] == [expected] * 4


@needs_redis
def test_a_bad_request_counts_as_a_request_without_pictures(
    replicas: tuple[Server, Server],
) -> None:
    first, second = replicas
    key = "bob" * 5

    for server in (first, second, first):
        predict(server, "any", 400, key=key, num_inference_steps=0)
    predict(second, "any", key=key, num_images_per_prompt=2)
    predict(second, "any", key=key)
    response = predict(first, "any", 429, key=key, num_inference_steps=0)

    assert "5 requests a minute of this key" in response.json()["error"]


@needs_redis
def test_a_header_without_trusted_proxies_is_ignored(
    replicas: tuple[Server, Server], shared: RedisServer
) -> None:
    """The other end of the connection is on this host, as queue-proxy is."""
    predict(replicas[0], "198.51.100.9", 400, key="dave" * 5, num_inference_steps=0)

    with redis.Redis.from_url(shared.url) as connection:
        names = b" ".join(connection.keys())
    assert b"address/127.0.0.1/requests" in names
    assert b"198.51.100.9" not in names


@needs_redis
def test_requests_are_served_while_redis_is_gone(
    replicas: tuple[Server, Server], shared: RedisServer
) -> None:
    server, _ = replicas
    key = "carol" * 5
    predict(server, "any", key=key, num_images_per_prompt=3)
    predict(server, "any", 429, key=key)

    shared.kill()
    started = time.monotonic()
    for _ in range(8):
        predict(server, "any", key=key)
    assert time.monotonic() - started < 30
    failures = samples(
        httpx.get(server.url + "/metrics").text, "diffusion_rate_limit_storage_failures_total"
    )
    assert failures[0].value >= 1
    assert server.log.read_text().count("rate_limit_storage: does not answer") == 1

    shared.start()
    deadline = time.monotonic() + 60
    while predict_status(server, key) != 429:
        assert time.monotonic() < deadline
    assert "rate_limit_storage: answers again" in server.log.read_text()


def predict_status(server: Server, key: str) -> int:
    time.sleep(0.2)
    body = SHORT | {"num_images_per_prompt": 3}
    headers = bearer(key)
    return httpx.post(server.url + PREDICT, json=body, headers=headers, timeout=60).status_code


def test_the_state_of_a_limit_never_is_negative() -> None:
    assert Usage(previous=-3, previous_seconds=60, current=0, current_seconds=0).used == 0
