"""Brings planned files into the staging folder: reuses what the volume has and fetches the rest."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from downloader.errors import NoSpaceError
from downloader.fetch.file import FileFetch
from downloader.fetch.progress import Meter, shown
from downloader.fetch.reuse import OnVolume, partial_bytes
from downloader.plan import PlannedFile
from downloader.settings import Fetch
from downloader.sources.retry import Retries
from downloader.workers import Stop, run_all
from modelstore import ModelStore

logger = logging.getLogger("downloader")


@dataclass(frozen=True)
class Transfer:
    """Fills the folder ``staging`` for the model ``name``."""

    store: ModelStore
    name: str
    staging: Path
    settings: Fetch
    stop: Stop

    def run(self, files: Sequence[PlannedFile]) -> dict[str, str]:
        """Put every file into ``staging``, flushed to the disk; returns the SHA-256 by path.

        Raises:
            NoSpaceError: the volume cannot hold the missing files; nothing was fetched.
            SourceError: a source fails.
            CorruptFileError: the contents of a file were wrong three times.
        """
        volume = OnVolume(self.store, self.name, excluded=self.staging)
        takes = [partial(volume.take, file, self.staging, self.stop) for file in files]
        found = run_all(takes, self.settings.max_workers, self.stop)
        digests = {file.path: sha256 for file, sha256 in zip(files, found, strict=True) if sha256}
        # The largest first, so that no large file is left alone at the end.
        missing = [file for file in files if file.path not in digests]
        missing.sort(key=lambda file: file.remote.size, reverse=True)
        return digests | self._fetch(missing, sum(file.remote.size for file in files))

    def _fetch(self, missing: Sequence[PlannedFile], total: int) -> dict[str, str]:
        partial_size = partial_bytes(missing, self.staging)
        needed = sum(file.remote.size for file in missing) - partial_size
        check_space(self.store, self.name, needed)
        meter = Meter(total, total - needed)
        calls = [self._file_fetch(file, meter).run for file in missing]
        as_bar = self.settings.log_format == "auto" and sys.stderr.isatty()
        with shown(meter, self.name, as_bar=as_bar):
            fetched = run_all(calls, self.settings.max_workers, self.stop)
        return {file.path: digest for file, digest in zip(missing, fetched, strict=True)}

    def _file_fetch(self, file: PlannedFile, meter: Meter) -> FileFetch:
        return FileFetch(
            source=file.part.source,
            revision=file.part.revision,
            file=file.remote,
            path=self.staging / file.path,
            retries=Retries(self.settings.max_retries, self.stop),
            meter=meter,
            stop=self.stop,
        )


def check_space(store: ModelStore, name: str, needed: int) -> None:
    """Check that ``needed`` bytes are free.

    The served revision stays until it is pruned, so its bytes do not count as free.

    Raises:
        NoSpaceError: gives the needed and free bytes, and what a prune would free.
    """
    free = shutil.disk_usage(store.root).free
    if needed <= free:
        event = {"event": "space"}
        logger.info("needed %s bytes, free %s bytes", f"{needed:,}", f"{free:,}", extra=event)
        return
    message = f"the target needs {needed:,} bytes more and has {free:,} bytes free"
    unserved = _unserved_bytes(store, name)
    if unserved:
        message += f"; unserved revisions of {name!r} hold {unserved:,} bytes (see `prune`)"
    raise NoSpaceError(message)


def _unserved_bytes(store: ModelStore, name: str) -> int:
    """Bytes that deleting every revision except the served one would free."""
    folder, active = store.revisions(name), store.active(name)
    if not folder.is_dir():
        return 0
    others = [path for path in folder.iterdir() if path.name != active and path.name[0] != "."]
    stats = [path.stat() for other in others for path in other.rglob("*") if path.is_file()]
    # A hard link that another revision shares frees nothing.
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)
