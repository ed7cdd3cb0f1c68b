"""One download of a name at a time: two would delete each other's files."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from downloader.errors import InUseError
from modelstore import ModelStore


@contextmanager
def exclusive(store: ModelStore, name: str) -> Iterator[None]:
    """Hold the name's lock; the kernel gives it back when the process ends, however it ends.

    Raises:
        InUseError: another process holds it.
        OSError: the volume cannot be written.
    """
    path = store.lock(name)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"another download of {name!r} is under way") from None
        yield
