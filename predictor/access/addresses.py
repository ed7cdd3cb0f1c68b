"""The address of a caller, from its connection or from trusted proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

# The smallest network that one customer gets (RFC 6177).
_IPV6_PREFIX = 64


def caller_address(peer: str, forwarded_for: Sequence[str], trusted_proxies: int) -> str:
    """The address to limit: an IPv4 address or an IPv6 network.

    ``peer`` is the other end of the connection. Each proxy appends the address that it saw to
    `X-Forwarded-For`, whose values are ``forwarded_for``; everything before the entries of the
    trusted proxies can be forged. If the proxies did not send that many entries, or if the entry is
    not an address, the result is the ``peer``.
    """
    entries = _entries(forwarded_for)
    if 0 < trusted_proxies <= len(entries):
        address = _parsed(entries[-trusted_proxies]) or _parsed(peer)
    else:
        address = _parsed(peer)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address or peer)


def exact_address(peer: str, forwarded_for: Sequence[str], trusted_proxies: int) -> str | None:
    """The address of one caller, unlike ``caller_address`` never that of a network or of a proxy.

    None if it is hidden: proxies forwarded the request, and they are not all trusted.
    """
    entries = _entries(forwarded_for)
    if not entries:
        return peer or None
    if not 0 < trusted_proxies <= len(entries):
        return None
    address = _parsed(entries[-trusted_proxies])
    return None if address is None else str(address)


def _entries(forwarded_for: Sequence[str]) -> list[str]:
    return [entry.strip() for value in forwarded_for for entry in value.split(",")]


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address, in any form that proxies write: with a port, or in brackets."""
    for candidate in (text, _without_port(text)):
        try:
            address = ip_address(candidate.partition("%")[0])
        except ValueError:
            continue
        return getattr(address, "ipv4_mapped", None) or address
    return None


def _without_port(text: str) -> str:
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return ""
