"""The story of a download: resolve, already there?, plan, fetch, verify, publish.

Killed anywhere, it leaves either no model of that name, or the older one, or the new one whole; the
next run goes on from what was fetched.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from downloader.errors import StorageError
from downloader.lock import exclusive
from downloader.plan import Plan, check_space, make_plan
from downloader.publish import publish, recover
from downloader.settings import Settings
from downloader.sources import Source
from downloader.verify import verify
from modelstore import FileEntry, IncompleteModelError, Marker, ModelStore

logger = logging.getLogger("downloader")


@dataclass(frozen=True)
class Report:
    """What is published now, and whether it was there before."""

    marker: Marker
    was_there: bool
    seconds: float

    def __str__(self) -> str:
        model = (
            f"{self.marker.name}: {self.marker.source} at {self.marker.revision}, "
            f"{len(self.marker.files)} files, {self.marker.size:,} bytes"
        )
        return f"{model}, already there" if self.was_there else f"{model}, {self.seconds:.1f} s"


def download_model(source: Source, settings: Settings) -> Report:
    """Publish the model of ``source`` under its name, or find that it is published.

    Raises:
        DownloadError: see ``downloader.errors``; nothing was published.
        InvalidNameError: the name is no plain folder name.
    """
    started = time.monotonic()
    store = ModelStore(settings.target)
    store.model(settings.name)
    revision = source.resolve()
    logger.info("resolved %s to %s", source.uri, revision)
    try:
        with exclusive(store, settings.name):
            recover(store, settings.name)
            marker = _published(store, source, revision, settings)
            if marker:
                return Report(marker, was_there=True, seconds=time.monotonic() - started)
            marker = _download(store, source, revision, settings)
    except OSError as error:
        raise StorageError.from_os(error) from error
    return Report(marker, was_there=False, seconds=time.monotonic() - started)


def _published(
    store: ModelStore, source: Source, revision: str, settings: Settings
) -> Marker | None:
    """The marker of the model that is published, if it is just what was asked for."""
    folder = store.model(settings.name)
    try:
        marker = Marker.read(folder)
        marker.check_sizes(folder)
    except IncompleteModelError:
        return None
    found = (marker.source, marker.revision, marker.asked_variant)
    return marker if found == (source.uri, revision, settings.variant or None) else None


def _download(store: ModelStore, source: Source, revision: str, settings: Settings) -> Marker:
    staging = store.staging(settings.name)
    staging.mkdir(exist_ok=True)

    plan = make_plan(source, revision, settings.variant or None, staging)
    variant = plan.variant or "none"
    logger.info(
        "planned %d files, %s bytes, variant %s", len(plan.files), f"{plan.size:,}", variant
    )

    check_space(plan, staging)
    source.fetch(revision, plan.paths, staging)
    logger.info("fetched %d files", len(plan.files))

    files = verify(staging, plan.files)
    logger.info("verified %d files", len(files))

    marker = _marker(source, plan, files, settings)
    publish(store, marker)
    logger.info("published %s", store.model(settings.name))
    return marker


def _marker(source: Source, plan: Plan, files: tuple[FileEntry, ...], settings: Settings) -> Marker:
    return Marker(
        name=settings.name,
        source=source.uri,
        revision=plan.revision,
        variant=plan.variant,
        completed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=files,
        asked_variant=settings.variant or None,
    )
