"""Faults between a hub and its client, and lies of the hub, that a test can switch on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

Kind = Literal[
    "none",
    "reset",
    "truncate",
    "short",
    "stall",
    "status",
    "wrong_range",
    "flip",
    "long",
    "elsewhere",
    "changed",
    "gzip",
    "page",
    "drip",
    "loop",
]


@dataclass(frozen=True)
class Fault:
    """The fault of one response with contents.

    ``reset``: the connection breaks after ``after`` bytes. ``truncate``: it closes cleanly there.
    ``short``: in addition, the length header is ``after``. ``stall``: silence after ``after``
    bytes. ``status``: a status, ``headers`` and, for an API call, ``body``. ``wrong_range``: a
    range that was not requested, with ``ignores_range`` even if the request has no range. Otherwise
    ``ignores_range`` sends the whole file instead of a range.

    Lies: ``flip``: the byte at ``after`` is wrong. ``long``: the length header is too large by
    ``after``. ``elsewhere``: the bytes of another range under the requested ``Content-Range``.
    ``changed``: other contents with another ETag, even if ``If-Range`` names the old one. ``gzip``:
    compressed although the request forbids it. ``page``: an HTML page with status 200. ``drip``:
    after ``after`` bytes, one byte every 50 ms. ``loop``: a redirect to an address that redirects
    to itself.
    """

    kind: Kind
    after: int = 0
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    ignores_range: bool = False


@dataclass
class Faults:
    """``once`` maps each path to the faults of its next responses, in order.

    The path of an API call is ``revision`` or ``tree``. ``always`` applies to every response with
    the contents of a path, ``corrupt`` to paths whose first byte is wrong, ``status`` to every
    request. ``pace`` limits the speed: a number of bytes, then a pause in seconds. With
    ``address_uses`` the signed address of a large file answers that number of requests, then 403.
    """

    once: dict[str, list[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    status: int | None = None
    pace: tuple[int, float] | None = None
    address_uses: int | None = None
    uses: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=count)
    stalled: threading.Event = field(default_factory=threading.Event)

    def next(self, path: str) -> Fault | None:
        """The fault of the current response."""
        waiting = self.once.get(path)
        return waiting.pop(0) if waiting else self.always.get(path)

    def issue(self) -> str:
        """The query of a new signed address."""
        return f"Signature=secret-{next(self._numbers)}"

    def is_expired(self, signature: str) -> bool:
        """Count a use of a signed address."""
        self.uses[signature] += 1
        return self.address_uses is not None and self.uses[signature] > self.address_uses

    def clear(self) -> None:
        """Switch all faults off."""
        self.once.clear()
        self.always.clear()
        self.corrupt.clear()
        self.status = self.pace = self.address_uses = None
