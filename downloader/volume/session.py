"""The volume while one process may change what it holds of one model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from downloader.errors import StorageError
from downloader.settings import Settings
from downloader.volume.lease import Lease, held
from downloader.volume.staging import check_folder, check_writable, drop_all
from downloader.volume.trash import empty_trash
from downloader.workers import Stop
from modelstore import ModelStore

logger = logging.getLogger("downloader")

_WAITING_SECONDS = 10.0


@contextmanager
def changing(store: ModelStore, name: str, settings: Settings, stop: Stop) -> Iterator[Lease]:
    """Hold the lease of ``name``; when the block ends well, nothing of any dead run is left.

    Raises:
        StorageError: the volume is not there or cannot be written.
        LeaseLostError: another process took this one for dead.
    """
    check_folder(store.root)
    try:
        store.lease(name).parent.mkdir(exist_ok=True)
        with held(store.lease(name), settings.lease_seconds, stop, _Waiting(name)) as lease:
            check_writable(store, name)
            try:
                yield lease
            finally:
                # Who lost the lease misses files: that is the reason to tell.
                lease.check()
            drop_all(store, name)
            empty_trash(store)
    except OSError as error:
        raise StorageError.from_os(error) from error


def is_tidy(store: ModelStore, name: str) -> bool:
    """Whether no run has left anything, nor is one under way."""
    has_trash = store.trash.is_dir() and any(store.trash.iterdir())
    return not (has_trash or store.staging(name).exists() or store.lease(name).exists())


class _Waiting:
    """Says now and then that another one works."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told = -_WAITING_SECONDS

    def __call__(self, holder: str) -> None:
        if time.monotonic() - self._told < _WAITING_SECONDS:
            return
        self._told = time.monotonic()
        logger.info(
            "%s: waiting for the download of %s",
            self._name,
            holder,
            extra={"event": "waiting", "fields": {"model": self._name, "holder": holder}},
        )
