"""The environment variables that name certificates and proxies, checked before the first request.

``httpx2`` reads them when a client is created and ``botocore`` when it connects; neither names the
variable in its errors. No message contains the value, which may hold a proxy's password.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable

import httpx2

from downloader.errors import InvalidSettingError

_HTTP = ("http", "https")
_SOCKS = ("socks5", "socks5h")
_LARGEST_PORT = 65535


def check_network_variables() -> None:
    """Check what ``httpx2`` reads.

    Raises:
        InvalidSettingError: names the variable and the reason.
    """
    _check_certificates("SSL_CERT_FILE")
    _check_proxies(("http", "https", "all"), (*_HTTP, *_SOCKS))


def check_bucket_variables() -> None:
    """Check what ``botocore`` reads in addition; it supports no SOCKS proxy.

    Raises:
        InvalidSettingError: names the variable and the reason.
    """
    for variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        _check_certificates(variable)
    _check_proxies(_HTTP, _HTTP)


def _check_certificates(variable: str) -> None:
    path = os.environ.get(variable)
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise InvalidSettingError(f"{variable}: {path} has no valid PEM certificates") from None
    except OSError as error:
        raise InvalidSettingError(f"{variable}: {path}: {error.strerror}") from None


def _check_proxies(kinds: Iterable[str], supported: tuple[str, ...]) -> None:
    if "*" in os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(","):
        return
    for kind in kinds:
        # As in ``urllib.request.getproxies``, the lower case takes precedence.
        for variable in (f"{kind}_proxy", f"{kind}_proxy".upper()):
            if value := os.environ.get(variable):
                _check_proxy(variable, value, supported)
                break


def _check_proxy(variable: str, value: str, supported: tuple[str, ...]) -> None:
    try:
        url = httpx2.URL(value if "://" in value else f"http://{value}")
    except httpx2.InvalidURL:
        raise InvalidSettingError(f"{variable}: the proxy's URL is not valid") from None
    if url.scheme not in supported:
        raise InvalidSettingError(
            f"{variable}: a proxy with the scheme {url.scheme!r} is not supported here; "
            f"use {', '.join(supported[:-1])} or {supported[-1]}"
        )
    if not url.host or (url.port or 0) > _LARGEST_PORT:
        raise InvalidSettingError(f"{variable}: the proxy's URL has no valid host and port")
