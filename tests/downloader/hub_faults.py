"""Faults between a hub and its client that a test can switch on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Fault:
    """The fault of one response with contents.

    ``reset``: the connection breaks after ``after`` bytes. ``truncate``: it closes cleanly there.
    ``short``: in addition, the length header is ``after``. ``stall``: silence after ``after``
    bytes. ``status``: a status, ``headers`` and, for an API call, ``body``. ``wrong_range``: a
    range that was not requested. With ``ignores_range`` the whole file is sent instead of a range.
    """

    kind: Literal["none", "reset", "truncate", "short", "stall", "status", "wrong_range"]
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
    request. ``pace`` limits the speed: a number of bytes, then a pause in seconds.
    """

    once: dict[str, list[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    status: int | None = None
    pace: tuple[int, float] | None = None
    stalled: threading.Event = field(default_factory=threading.Event)

    def next(self, path: str) -> Fault | None:
        """The fault of the current response."""
        waiting = self.once.get(path)
        return waiting.pop(0) if waiting else self.always.get(path)

    def clear(self) -> None:
        """Switch all faults off."""
        self.once.clear()
        self.always.clear()
        self.corrupt.clear()
        self.status = self.pace = None
