"""A session in which only this process changes one model on the volume."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from downloader.errors import StorageError
from downloader.volume.lease import Lease, held
from downloader.volume.staging import (
    check_folder,
    check_writable,
    delete_all,
    empty_trash,
    remains,
)
from downloader.workers import Stop
from modelstore import ModelStore

logger = logging.getLogger("downloader")

_WAITING_SECONDS = 10.0


@contextmanager
def changing(store: ModelStore, name: str, lease_seconds: float, stop: Stop) -> Iterator[Lease]:
    """Hold the lease of ``name``; after a block without errors, remove the remains of killed runs.

    Raises:
        StorageError: the volume is not mounted or not writable.
        LeaseLostError: another process assumed this one was dead.
    """
    check_folder(store.root)
    try:
        store.lease(name).parent.mkdir(exist_ok=True)
        with held(store.lease(name), lease_seconds, stop, _Waiting(name)) as lease:
            check_writable(store, name)
            try:
                yield lease
            finally:
                # A process that lost the lease misses files: report the cause instead.
                lease.check()
            delete_all(store, name)
            empty_trash(store)
    except OSError as error:
        raise StorageError.from_os(error) from error


def is_tidy(store: ModelStore, name: str) -> bool:
    """Whether no run is in progress and none has left anything."""
    has_trash = store.trash.is_dir() and any(store.trash.iterdir())
    has_more = store.staging(name).exists() or store.lease(name).exists()
    return not (has_trash or has_more or any(remains(store, name)))


class _Waiting:
    """Logs regularly that another process holds the lease."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged = -_WAITING_SECONDS

    def __call__(self, holder: str) -> None:
        if time.monotonic() - self._logged < _WAITING_SECONDS:
            return
        self._logged = time.monotonic()
        logger.info(
            "%s: waiting for the download on %s",
            self._name,
            holder,
            extra={"event": "waiting", "fields": {"model": self._name, "holder": holder}},
        )
