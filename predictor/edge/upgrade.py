"""``Upgrade`` of HTTP/1.1 (RFC 9110, section 7.8), which the server ignores."""

from __future__ import annotations

from collections.abc import Iterable

from httptools import HttpRequestParser

_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


def head_without_upgrade(
    parser: HttpRequestParser, url: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """The head that ``parser`` has read, without the headers and connection options of ``Upgrade``.

    The names in ``headers`` are in lower case.
    """
    version = parser.get_http_version().encode()
    head = [b"%s %s HTTP/%s" % (parser.get_method(), url, version)]
    for name, value in headers:
        if name == b"connection":
            head += [b"connection: " + option for option in _options_to_keep(value)]
        elif name not in _UPGRADE_HEADERS:
            head.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*head, b"", b""])


def _options_to_keep(connection: bytes) -> list[bytes]:
    options = [option.strip() for option in connection.split(b",")]
    return [option for option in options if option.lower() not in _UPGRADE_HEADERS]
