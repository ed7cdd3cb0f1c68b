"""What can go wrong between a hub and its reader, switched on by a test."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Fault:
    """What becomes of one answer with contents.

    ``reset``: the connection breaks after ``after`` bytes. ``truncate``: it ends there as if that
    were all. ``short``: the length is told as ``after`` too. ``stall``: silence after ``after``
    bytes. ``status``: no contents but that status and ``headers``. ``wrong_range``: another range
    than was asked for. With ``ignores_range`` the whole file comes in place of a range.
    """

    kind: Literal["none", "reset", "truncate", "short", "stall", "status", "wrong_range"]
    after: int = 0
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    ignores_range: bool = False


@dataclass
class Faults:
    """``once`` holds, for each path, what happens to its next answers, one after another.

    The path of an API call is ``revision`` or ``tree``. ``always`` is for every answer with the
    contents of a path, ``corrupt`` for paths whose first byte is wrong, ``status`` for everything.
    ``pace`` slows the sending down: so many bytes, then a pause of so many seconds.
    """

    once: dict[str, list[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    status: int | None = None
    pace: tuple[int, float] | None = None
    stalled: threading.Event = field(default_factory=threading.Event)

    def next(self, path: str) -> Fault | None:
        """What happens to the answer that is sent now."""
        waiting = self.once.get(path)
        return waiting.pop(0) if waiting else self.always.get(path)

    def clear(self) -> None:
        """Be a good hub again."""
        self.once.clear()
        self.always.clear()
        self.corrupt.clear()
        self.status = self.pace = None
