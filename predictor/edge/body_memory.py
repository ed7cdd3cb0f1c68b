"""One bound on the memory of all request bodies, however slowly they arrive."""

from __future__ import annotations

from starlette.types import Message, Receive

from predictor.errors import BodyMemoryError, BodyTooLargeError

_MAX_BYTES = 512 * 2**20
# Not counted in a body, so that requests without pictures are served when the memory is used up.
_FREE_BYTES = 65_536


class BodyMemory:
    """The memory that all bodies may take together, in bytes; for the event loop only."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._left = max_bytes

    def take(self, size: int) -> None:
        """Reserve ``size`` bytes.

        Raises:
            BodyMemoryError: fewer are left.
        """
        if size > self._left:
            raise BodyMemoryError(
                "the request bodies in the server take all the memory for them; try again later"
            )
        self._left -= size

    def give_back(self, size: int) -> None:
        """Release reserved bytes."""
        self._left += size


class BoundedBody:
    """Counts the bytes of one body as the application reads them."""

    def __init__(self, receive: Receive, max_bytes: int, memory: BodyMemory) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._memory = memory
        self._received = self._reserved = 0

    async def receive(self) -> Message:
        """The next message.

        Raises:
            BodyTooLargeError: the body is longer than ``max_bytes``.
            BodyMemoryError: all bodies together take too much memory.
        """
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            raise too_large(self._max_bytes)
        more = max(0, self._received - _FREE_BYTES) - self._reserved
        self._memory.take(more)
        self._reserved += more
        return message

    def release(self) -> None:
        """Give the memory back: the request has ended."""
        self._memory.give_back(self._reserved)
        self._reserved = 0


def too_large(max_bytes: int) -> BodyTooLargeError:
    """The error for a body of more than ``max_bytes``."""
    return BodyTooLargeError(f"the request body is longer than {max_bytes} bytes")
