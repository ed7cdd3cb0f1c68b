"""``Upgrade`` of HTTP/1.1 (RFC 9110, section 7.8), which the server ignores."""

from __future__ import annotations

from collections.abc import Iterable

_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


def head_without_upgrade(line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request without the headers and connection options of ``Upgrade``.

    The names in ``headers`` are in lower case.
    """
    head = [line]
    for name, value in headers:
        if name == b"connection":
            head += [b"connection: " + option for option in _options_to_keep(value)]
        elif name not in _UPGRADE_HEADERS:
            head.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*head, b"", b""])


def _options_to_keep(connection: bytes) -> list[bytes]:
    options = [option.strip() for option in connection.split(b",")]
    return [option for option in options if option.lower() not in _UPGRADE_HEADERS]
