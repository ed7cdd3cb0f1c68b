"""The address of a caller: from the connection, or from as many proxies as are trusted."""

from __future__ import annotations

import pytest

from predictor.access.addresses import caller_address

PROXY = "10.0.0.7"


@pytest.mark.parametrize(
    ("forwarded_for", "trusted", "address"),
    [
        ([], 0, PROXY),
        (["203.0.113.5"], 0, PROXY),
        (["203.0.113.5"], 1, "203.0.113.5"),
        (["203.0.113.5, 10.0.0.1"], 2, "203.0.113.5"),
        (["203.0.113.5", "10.0.0.1"], 2, "203.0.113.5"),
        # A caller can put anything in front of what the proxies append.
        (["192.0.2.1, 203.0.113.5, 10.0.0.1"], 2, "203.0.113.5"),
        (["192.0.2.1,203.0.113.5"], 1, "203.0.113.5"),
        # Fewer entries than proxies: this request did not pass them.
        (["192.0.2.1"], 2, PROXY),
        ([], 1, PROXY),
        (["unknown"], 1, PROXY),
        (["203.0.113.5:4711"], 1, "203.0.113.5"),
        (["2001:db8:1:2:3:4:5:6"], 1, "2001:db8:1:2::/64"),
        (["[2001:db8:1:2::9]:443"], 1, "2001:db8:1:2::/64"),
        (["::ffff:203.0.113.5"], 1, "203.0.113.5"),
        (["fe80::1%eth0"], 1, "fe80::/64"),
        (["[bad"], 1, PROXY),
    ],
)
def test_the_address_is_the_one_that_the_trusted_proxies_saw(
    forwarded_for: list[str], trusted: int, address: str
) -> None:
    assert caller_address(PROXY, forwarded_for, trusted) == address


def test_addresses_of_one_ipv6_network_are_one_caller() -> None:
    first, second, other = (
        caller_address(peer, [], 0) for peer in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    )

    assert first == second != other


def test_a_unix_socket_has_no_address() -> None:
    assert caller_address("", [], 0) == ""
