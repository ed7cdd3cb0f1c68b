"""The connections that can be closed to let a new one in: no response is due on them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol


class Connection(Protocol):
    """A connection as asyncio's protocol class."""

    transport: asyncio.Transport


class SilentConnections:
    """Connections without a complete request, in the order in which they are closed.

    Those that have never sent a request come first: a proxy keeps the others to use them again.
    Of each kind, the one that has been silent for the longest time comes first.
    """

    def __init__(self) -> None:
        self._new: OrderedDict[Connection, None] = OrderedDict()
        self._kept: OrderedDict[Connection, None] = OrderedDict()

    def add(self, connection: Connection, *, is_new: bool) -> None:
        """The server waits for a request, the first one of the connection if ``is_new``."""
        (self._new if is_new else self._kept).setdefault(connection)

    def discard(self, connection: Connection) -> None:
        """The connection has sent a request, or is closed."""
        self._new.pop(connection, None)
        self._kept.pop(connection, None)

    def close_oldest(self) -> bool:
        """Close the first connection; False if there is none."""
        for waiting in (self._new, self._kept):
            if waiting:
                connection, _ = waiting.popitem(last=False)
                connection.transport.abort()
                return True
        return False


SILENT = SilentConnections()
"""Those of this process, which has one server."""
