"""Where webhooks may go: the check of a URL at submission, and of each address before a connection.

A name can resolve to another address at any time, so the URL alone proves nothing. The check of the
address is the one that counts (OWASP, Server-Side Request Forgery Prevention Cheat Sheet).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LONGEST_URL = 2048
# After IDNA; the zone of an IPv6 address is only for networks that are refused.
_HOST = re.compile(rb"[A-Za-z0-9._:-]*")
# The parser accepts larger numbers, to which no socket can connect.
_PORTS = (None, *range(1, 65_536))
# Public by number only: IETF protocols (Oracle's metadata), Azure's services for its machines, and
# tunnels to any IPv4 address.
_REFUSED = [
    ipaddress.ip_network(one)
    for one in ("192.0.0.0/24", "168.63.129.16/32", "2002::/16", "2001::/32")
]
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def read_networks(text: str) -> tuple[Network, ...]:
    """The networks in a list that is separated by commas; none for an empty text.

    Raises:
        ValueError: one is not valid.
    """
    return tuple(_network(one.strip()) for one in text.split(",") if one.strip())


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text, strict=False)
    if network.network_address != ipaddress.ip_address(text.partition("/")[0]):
        raise ValueError(f"{text} is an address in a network: write {network}")
    return network


def is_allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether a connection may go to an address: a public one, or one in ``networks``."""
    found = _embedded(ipaddress.ip_address(address.partition("%")[0]))
    if any(found in network for network in networks):
        return True
    if not found.is_global or found.is_multicast or found.is_reserved:
        return False
    if isinstance(found, IPv6Address) and found not in _GLOBAL_UNICAST:
        return False
    return not any(found in network for network in _REFUSED)


def checked_url(text: object, *, allows_http: bool, networks: Sequence[Network]) -> httpx.URL:
    """The URL of a webhook.

    Raises:
        ValueError: says why it is refused.
    """
    if not isinstance(text, str):
        raise ValueError("must be a string")
    if not 1 <= len(text) <= _LONGEST_URL:
        raise ValueError(f"must have 1 to {_LONGEST_URL} characters")
    try:
        url = httpx.URL(text)
        # Decodes the name, which fails if it is not valid.
        host, raw_host = url.host, url.raw_host
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("is not a valid URL") from None
    if not _HOST.fullmatch(raw_host) or url.port not in _PORTS:
        raise ValueError("is not a valid URL")
    schemes = ("https", "http") if allows_http else ("https",)
    if url.scheme not in schemes or not host:
        accepted = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"must begin with {accepted} and a host")
    if url.userinfo:
        raise ValueError("must not contain a user or a password; check the signature instead")
    if _is_refused_literal(host, networks):
        raise ValueError("the address is not public, nor in webhook_networks")
    return url


def _is_refused_literal(host: str, networks: Sequence[Network]) -> bool:
    try:
        return not is_allowed(host, networks)
    except ValueError:
        # A name; its addresses are checked before each connection.
        return False


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, else the address."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
