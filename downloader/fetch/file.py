"""The fetch of one file: resumed after a kill, hashed while it is written, renamed once verified.

Bytes are written to ``<path>.<version>.partial`` as they arrive, so a kill costs at most the chunk
in transit. The version in the name separates the bytes of two versions. Only a file with the right
digest gets its final name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from downloader.errors import CorruptFileError, TransientError
from downloader.fetch.progress import Meter
from downloader.hashing import Hashes, hash_file
from downloader.sources.http import RangeRefusedError
from downloader.sources.remote import RemoteFile, Source
from downloader.sources.retry import Retries, with_correct_contents
from downloader.workers import Stop

PARTIAL_SUFFIX = ".partial"
# A connection that always breaks earlier than this runs out of retries.
_PROGRESS_BYTES = 64 * 1024


@dataclass
class FileFetch:
    """Fetches ``file`` of ``source`` to ``path``."""

    source: Source
    revision: str
    file: RemoteFile
    path: Path
    retries: Retries
    meter: Meter
    stop: Stop

    def run(self) -> str:
        """Fetch the file, with resumption and retries, and return its SHA-256.

        Raises:
            CorruptFileError: the contents were wrong three times.
            SourceError: the source failed.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return with_correct_contents(self._fetch_once)

    def _fetch_once(self) -> str:
        try:
            return self._fetch()
        except CorruptFileError:
            self.meter.advance(-_size(self._partial))
            self._partial.unlink(missing_ok=True)
            raise

    def _fetch(self) -> str:
        # Without O_TRUNC: the bytes of an earlier run stay.
        descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            hashes = self._receive_all(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        mismatch = hashes.mismatch()
        if mismatch:
            raise CorruptFileError(f"{self.file.path} {mismatch}")
        self._partial.rename(self.path)
        return hashes.sha256

    def _receive_all(self, descriptor: int) -> Hashes:
        existing = hash_file(self._partial, self.file, self.stop)
        size = os.fstat(descriptor).st_size
        received = _Received(size, existing, furthest=size)
        while received.count < self.file.size:
            try:
                self._receive(descriptor, received)
            except RangeRefusedError:
                self._restart(descriptor, received)
            except TransientError as error:
                self.retries.pause(error)
        if received.count > self.file.size:
            raise self._too_long()
        return received.hashes

    def _receive(self, descriptor: int, received: _Received) -> None:
        opened = self.source.open(self.revision, self.file, received.count, received.etag)
        with opened as stream:
            received.etag = stream.etag
            if stream.offset != received.count:
                self._restart(descriptor, received)
            for chunk in stream.chunks:
                self.stop.check()
                if received.count + len(chunk) > self.file.size:
                    raise self._too_long()
                # At its offset: a run that took this one for dead writes the same bytes there.
                _write(descriptor, chunk, received.count)
                self.meter.advance(len(chunk))
                if received.add(chunk):
                    self.retries.progressed()
        if received.count < self.file.size:
            raise TransientError(f"{self.file.path} ended after {received.count:,} bytes")

    def _restart(self, descriptor: int, received: _Received) -> None:
        os.ftruncate(descriptor, 0)
        self.meter.advance(-received.count)
        received.count, received.hashes = 0, Hashes(self.file)

    def _too_long(self) -> CorruptFileError:
        return CorruptFileError(f"{self.file.path} has more than {self.file.size:,} bytes")

    @property
    def _partial(self) -> Path:
        return partial_path(self.path, self.file)


@dataclass
class _Received:
    count: int
    hashes: Hashes
    etag: str | None = None
    furthest: int = 0

    def add(self, chunk: bytes) -> bool:
        """Whether this is progress: enough bytes beyond the furthest offset so far."""
        self.hashes.update(chunk)
        self.count += len(chunk)
        if self.count < self.furthest + _PROGRESS_BYTES:
            return False
        self.furthest = self.count
        return True


def partial_path(path: Path, file: RemoteFile) -> Path:
    """Where the bytes of ``file`` are stored until it is complete."""
    version = "".join(filter(str.isalnum, file.version))[:16]
    return path.with_name(f"{path.name}.{version}{PARTIAL_SUFFIX}")


def _write(descriptor: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
