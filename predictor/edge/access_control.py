"""ASGI middleware: API keys, and rate limits per key and per address."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil, floor
from typing import Self

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.access.addresses import caller_address
from predictor.access.api_keys import ApiKey, ApiKeys
from predictor.access.rate_storage import RateStorage
from predictor.access.rates import Rates
from predictor.access.spending import Spending
from predictor.edge.error_responses import response_to
from predictor.errors import (
    ModelLoadError,
    NotAuthenticatedError,
    NotAuthorizedError,
    PredictorError,
)
from predictor.metrics import KEY_REQUESTS
from predictor.request_context import current_request
from predictor.settings import Settings

# What the kubelet, Knative's queue-proxy, KServe and Prometheus call; they send no key. The files
# of the page are public: it asks for a key, and sends it with its calls.
_OPEN = re.compile(
    r"/|/metrics|/v2/health/(?:live|ready)|/v1/models/[^/:]+|/v2/models/[^/]+/ready"
    r"|/ui(?:/[^/]*)?",
    re.ASCII,
)
# The model repository: load and unload.
_ADMIN = re.compile(r"/v2/repository/models/.*", re.ASCII | re.DOTALL)
# A request with one of these statuses was not served, so it costs nothing.
_REJECTED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key and counts towards no limit; all other routes are closed."""
    return method in ("GET", "HEAD") and bool(_OPEN.fullmatch(path))


def is_admin_only(path: str) -> bool:
    """Whether a route requires the key of an admin, if the server has keys."""
    return bool(_ADMIN.fullmatch(path))


@dataclass(frozen=True)
class AccessRules:
    """The keys and limits of one server."""

    settings: Settings
    keys: ApiKeys | None
    storage: RateStorage
    key_rates: Rates
    address_rates: Rates

    @classmethod
    def read(cls, settings: Settings) -> Self:
        """Read the key file.

        Raises:
            ModelLoadError: the file or the storage's URL is not valid, or a limit has no effect.
        """
        key_rates = Rates(
            settings.key_requests_per_minute,
            settings.key_pictures_per_minute,
            settings.key_megapixels_per_minute,
        )
        address_rates = Rates(
            settings.address_requests_per_minute,
            settings.address_pictures_per_minute,
            settings.address_megapixels_per_minute,
        )
        if key_rates != Rates() and settings.api_keys_file is None:
            raise ModelLoadError("a limit per key requires keys: set api_keys_file")
        url = settings.rate_limit_storage
        return cls(
            settings,
            ApiKeys(settings.api_keys_file) if settings.api_keys_file else None,
            RateStorage(url.get_secret_value() if url else "", settings.rate_limit_timeout_seconds),
            key_rates,
            address_rates,
        )

    @property
    def are_off(self) -> bool:
        """Whether the server has neither keys nor limits."""
        return self.keys is None and self.address_rates == Rates()

    def key_of(self, headers: Headers) -> ApiKey | None:
        """The valid key of a request, if it has one."""
        token = _token(headers)
        return self.keys.find(token) if self.keys and token else None

    def check(self, key: ApiKey | None, path: str, headers: Headers) -> None:
        """Reject a request whose key does not permit it.

        Raises:
            NotAuthenticatedError: there is no valid key.
            NotAuthorizedError: the key is not that of an admin, and the route requires one.
        """
        if self.keys is None:
            return
        if not _token(headers):
            raise NotAuthenticatedError("a key is required: send `Authorization: Bearer <key>`")
        if key is None:
            raise NotAuthenticatedError("the key is not valid")
        if is_admin_only(path) and not key.is_admin:
            raise NotAuthorizedError("this route requires the key of an admin")

    def spending(self, key: ApiKey | None, peer: str, headers: Headers) -> Spending:
        """What a request can be charged for."""
        counters = key.rates(self.key_rates).counters("key", key.name) if key else ()
        if self.address_rates != Rates():
            forwarded_for = headers.getlist("x-forwarded-for")
            address = caller_address(peer, forwarded_for, self.settings.trusted_proxies)
            counters += self.address_rates.counters("address", address)
        return Spending(self.storage, counters, self.settings.rate_limit_failure)


class AccessMiddleware:
    """Reject requests without a valid key or beyond a limit, before their body is read."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 401, 403 or 429."""
        if scope["type"] == "lifespan" or is_open(scope.get("method", ""), scope["path"]):
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            # No route is a WebSocket yet; a new one is closed until it is decided here.
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        key = self._rules.key_of(headers)
        current_request().caller = key.name if key else ""
        peer = (scope.get("client") or ("",))[0]
        spending = self._rules.spending(key, peer, headers)
        noting_send = _noting(send, spending, key)
        try:
            # Before the check, so that the limit of the address also bounds guesses of keys.
            await spending.charge({"requests": 1})
            self._rules.check(key, scope["path"], headers)
        except PredictorError as error:
            return await response_to(error)(scope, receive, noting_send)
        spending.begin()
        return await self._app(scope, receive, noting_send)


def _token(headers: Headers) -> str:
    """The key of a request; "" without one."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        return _password(credentials.strip())
    return credentials.strip() if scheme.lower() == "bearer" else ""


def _password(credentials: str) -> str:
    """The password of Basic authentication, else the user (RFC 7617): what A1111's clients send."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return ""
    return password or user


def _noting(send: Send, spending: Spending, key: ApiKey | None) -> Send:
    """Add the headers of the limits, count the status, and refund a request that is rejected."""

    async def noting_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] in _REJECTED:
                await spending.refund()
            await _add_limit_headers(MutableHeaders(scope=message), spending)
            _count(key, message["status"])
        await send(message)

    return noting_send


async def _add_limit_headers(headers: MutableHeaders, spending: Spending) -> None:
    """The state of the tightest limit.

    https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07
    """
    state = await spending.tightest()
    if state is None:
        return
    counter, usage = state
    left = max(0, counter.item.amount - usage.used)
    headers["ratelimit-limit"] = f"{counter.rate:g}"
    headers["ratelimit-remaining"] = str(floor(counter.in_units(left)))
    headers["ratelimit-reset"] = str(ceil(usage.reset_seconds))
    policy = f'{counter.rate:g};w=60;comment="{counter.unit} per {counter.owner}"'
    headers["ratelimit-policy"] = policy


def _count(key: ApiKey | None, status: int) -> None:
    KEY_REQUESTS.labels(key.name if key else "", status).inc()
