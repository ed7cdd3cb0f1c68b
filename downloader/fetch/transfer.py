"""From planned files to files in a folder: those that the volume has are taken, others fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from downloader.fetch.file import FileFetch
from downloader.fetch.pool import run_all
from downloader.fetch.progress import Meter, shown
from downloader.fetch.reuse import OnVolume, partial_bytes
from downloader.logs import shows_bar
from downloader.plan import PlannedFile
from downloader.settings import Settings
from downloader.sources.retry import Retries
from downloader.volume.space import check_space
from downloader.workers import Stop
from modelstore import ModelStore


@dataclass(frozen=True)
class Transfer:
    """Fills ``staging`` for the model ``name``."""

    store: ModelStore
    name: str
    staging: Path
    settings: Settings
    stop: Stop

    def run(self, files: Sequence[PlannedFile]) -> dict[str, str]:
        """The SHA-256 of each file by its path; all are in ``staging`` then, and on the disk.

        Raises:
            NoSpaceError: the volume cannot hold what is missing; nothing was fetched.
            SourceError: a source fails.
            CorruptFileError: a file came wrong again and again.
        """
        volume = OnVolume(self.store, self.name, but_not=self.staging)
        takes = [partial(volume.take, file, self.staging, self.stop) for file in files]
        found = run_all(takes, self.settings.max_workers, self.stop)
        digests = {file.path: taken for file, taken in zip(files, found, strict=True) if taken}
        # The largest first: the last one to end decides how long it takes.
        missing = [file for file in files if file.path not in digests]
        missing.sort(key=lambda file: file.remote.size, reverse=True)
        return digests | self._fetch(missing, sum(file.remote.size for file in files))

    def _fetch(self, missing: Sequence[PlannedFile], total: int) -> dict[str, str]:
        there = partial_bytes(missing, self.staging)
        needed = sum(file.remote.size for file in missing) - there
        check_space(self.store, self.name, needed)
        meter = Meter(total, total - needed)
        calls = [self._file_fetch(file, meter).run for file in missing]
        with shown(meter, self.name, as_bar=shows_bar(self.settings)):
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
