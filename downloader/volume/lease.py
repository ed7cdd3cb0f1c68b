"""A lease that allows one download of a name at a time, on any volume and without synced clocks.

``.sdxl.lease/<owner>`` is the lease: a folder with one file, named after its owner. It needs only
two renames and a deletion, which are atomic on NFS, SMB and CephFS:

- acquire: a folder that contains the owner's file is renamed to the lease, which fails while the
  lease exists and is not empty;
- heartbeat: the owner regularly increments a counter in its file, and never creates the file;
- take over: a waiter that saw neither owner nor counter change for ``lease_seconds`` on its own
  monotonic clock renames ``<owner>`` to its own name, after which no other waiter can;
- release: the file and the folder are deleted.

An owner that was only suspended finds its file gone, at the latest before it publishes.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from downloader.errors import LeaseLostError
from downloader.workers import Stop

_BEATS_PER_LEASE = 15
_SHORTEST_POLL_SECONDS = 0.02
_LONGEST_POLL_SECONDS = 1.0
_RACE_SECONDS = 0.02
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENOENT)

OnWait = Callable[[str], None]


class Lease:
    """This process's claim on one folder; ``owner`` is random, so no two runs share it."""

    def __init__(self, folder: Path, seconds: float, stop: Stop) -> None:
        self.owner = secrets.token_hex(8)
        self.has_waited = False
        self._folder = folder
        self._file = folder / self.owner
        self._seconds = seconds
        self._stop = stop
        self._count = 0
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat_on, daemon=True)

    def acquire(self, on_wait: OnWait) -> None:
        """Wait until the lease is free or its owner is dead, then hold it and send heartbeats.

        Calls ``on_wait`` regularly with the holder's host name.
        """
        watch = _Watch(self._seconds)
        pause = _SHORTEST_POLL_SECONDS
        while not self._acquire_free():
            holder = _holder(self._folder)
            if holder is None:
                self._stop.wait(_RACE_SECONDS)
                continue
            self.has_waited = True
            if watch.is_dead(holder):
                if self._take_over(holder[0]):
                    break
                self._stop.wait(_RACE_SECONDS)
                continue
            on_wait((holder[1].split() or ["another process"])[-1])
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_POLL_SECONDS, self._seconds / 10)
        self._beat()
        self._heart.start()

    def check(self) -> None:
        """Check that this process still holds the lease.

        Raises:
            LeaseLostError: another process took it over.
        """
        try:
            # Not stat: NFS may answer it from a cache, but never an open.
            os.close(os.open(self._file, os.O_WRONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise LeaseLostError(
                f"another process took over the lease after {self._seconds:g} s without a heartbeat"
            ) from None

    def release(self) -> None:
        """Let the next process acquire the lease."""
        self._ended.set()
        if self._heart.is_alive():
            self._heart.join(1.0)
        with suppress(OSError):
            self._file.unlink()
            self._folder.rmdir()

    def _acquire_free(self) -> bool:
        if _holder(self._folder) is not None:
            return False
        with suppress(OSError):
            self._folder.rmdir()  # SMB cannot rename over a folder, even an empty one
        candidate = self._folder.with_name(f"{self._folder.name}.{self.owner}")
        candidate.mkdir(parents=True)
        try:
            (candidate / self.owner).write_bytes(self._record())
            candidate.rename(self._folder)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            return False
        else:
            return True
        finally:
            with suppress(OSError):
                (candidate / self.owner).unlink(missing_ok=True)
                candidate.rmdir()

    def _take_over(self, dead: str) -> bool:
        try:
            (self._folder / dead).rename(self._file)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            return False
        return True

    def _record(self) -> bytes:
        return f"{self._count:020d} {socket.gethostname()[:64]}\n".encode()

    def _beat(self) -> None:
        self._count += 1
        # Without O_CREAT: a lost lease must not come back. Closing makes NFS clients see it.
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            record = self._record()
            os.pwrite(descriptor, record, 0)
            os.ftruncate(descriptor, len(record))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _beat_on(self) -> None:
        alive = time.monotonic()
        while not self._ended.wait(self._seconds / _BEATS_PER_LEASE):
            try:
                self._beat()
                alive = time.monotonic()
            except FileNotFoundError:
                if not self._ended.is_set():
                    self._stop_as_lost()
                return
            except OSError:
                # A share may be unavailable for a moment; later, others take this process for dead.
                if time.monotonic() - alive > self._seconds:
                    self._stop_as_lost()
                    return

    def _stop_as_lost(self) -> None:
        try:
            self.check()
        except LeaseLostError as error:
            self._stop.trip(error)
        else:
            self._stop.trip(
                LeaseLostError("the volume does not accept the heartbeat of this process")
            )


class _Watch:
    """Decides by this machine's monotonic clock whether a holder has stopped its heartbeat."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: tuple[str, str] | None = None
        self._since = 0.0

    def is_dead(self, holder: tuple[str, str]) -> bool:
        now = time.monotonic()
        if holder != self._seen:
            self._seen, self._since = holder, now
        return now - self._since >= self._seconds


def _holder(folder: Path) -> tuple[str, str] | None:
    """The owner and the contents of its file; None if the lease is free."""
    try:
        # NFS keeps deleted files that are open, under hidden names.
        owners = [path for path in folder.iterdir() if not path.name.startswith(".")]
        return (owners[0].name, owners[0].read_text("utf-8", "replace")) if owners else None
    except FileNotFoundError:
        return None


@contextmanager
def held(folder: Path, seconds: float, stop: Stop, on_wait: OnWait) -> Iterator[Lease]:
    """Hold the lease while the block runs, and release it however the block ends."""
    lease = Lease(folder, seconds, stop)
    try:
        lease.acquire(on_wait)
        yield lease
    finally:
        lease.release()
