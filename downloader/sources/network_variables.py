"""The environment variables for certificates, proxies, endpoints and timeouts, checked early.

The libraries that read them do not name the variable in their errors. No message contains a URL,
which may hold a password.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
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


def check_hub_variables() -> None:
    """Check what ``huggingface_hub`` reads in addition.

    Raises:
        InvalidSettingError: names the variable and the reason.
    """
    _check_endpoint("HF_ENDPOINT")
    for variable in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        _check_seconds(variable)


def check_bucket_variables() -> None:
    """Check what ``botocore`` reads in addition; it supports no SOCKS proxy.

    Raises:
        InvalidSettingError: names the variable and the reason.
    """
    for variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        _check_certificates(variable)
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        _check_endpoint(variable)
    _check_proxies(_HTTP, _HTTP)


def variables_with(value: str) -> list[str]:
    """The variables that have this value."""
    return [name for name, own in os.environ.items() if own == value]


def proxy_variable(scheme: str, host: str) -> str | None:
    """The variable that names the proxy for requests to ``host``, if there is one."""
    if urllib.request.proxy_bypass(host):
        return None
    return _proxy_variable_of(scheme) or _proxy_variable_of("all")


def _proxy_variable_of(kind: str) -> str | None:
    # As in ``urllib.request.getproxies``, the lower case takes precedence.
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), None)


def _check_seconds(variable: str) -> None:
    value = os.environ.get(variable)
    try:
        is_valid = not value or int(value) > 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidSettingError(f"{variable}: {value!r} is not a whole number of seconds above 0")


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


def _check_endpoint(variable: str) -> None:
    value = os.environ.get(variable)
    if not value:
        return
    try:
        url = httpx2.URL(value)
        is_valid = url.scheme in _HTTP and _has_host(url)
    except httpx2.InvalidURL:
        is_valid = False
    if not is_valid:
        raise InvalidSettingError(
            f"{variable}: the URL is not valid; it must have the form https://host or "
            "http://host:port"
        )


def _has_host(url: httpx2.URL) -> bool:
    return bool(url.host) and (url.port or 0) <= _LARGEST_PORT


def _check_proxies(kinds: Iterable[str], supported: tuple[str, ...]) -> None:
    if "*" in os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(","):
        return
    for kind in kinds:
        if variable := _proxy_variable_of(kind):
            _check_proxy(variable, os.environ[variable], supported)


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
    if not _has_host(url):
        raise InvalidSettingError(f"{variable}: the proxy's URL has no valid host and port")
