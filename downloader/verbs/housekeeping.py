"""``verify``: whether what is served is still what was published."""

from __future__ import annotations

import logging

from downloader.errors import CorruptFileError, NotFoundError, StorageError
from downloader.settings import Settings
from downloader.verbs.output import tell
from downloader.volume.integrity import inspect
from downloader.volume.revisions import Revision, chosen_names, open_store, revisions
from downloader.workers import Stop

logger = logging.getLogger("downloader")


def verify(settings: Settings) -> str:
    """Hash the served revision of each model, or of the one that is named; writes nothing.

    Raises:
        CorruptFileError: something differs, is missing, or is there beside what was published.
        NotFoundError: nothing is published.
    """
    store = open_store(settings)
    served = {
        name: revision
        for name in chosen_names(settings, store)
        for revision in revisions(store, name)
        if revision.is_active
    }
    if not served:
        raise NotFoundError(f"{store.root} has no published model")
    damaged = [name for name, revision in served.items() if not _is_whole(name, revision, settings)]
    if damaged:
        raise CorruptFileError(f"damaged: {', '.join(damaged)}; fetch mends what differs")
    return f"{', '.join(served)}: whole"


def _is_whole(name: str, revision: Revision, settings: Settings) -> bool:
    if revision.marker is None:
        tell(settings, f"{name}: it has no marker that can be read", _document(name, {}, (), False))
        return False
    try:
        findings = inspect(
            revision.folder,
            revision.marker,
            rehash=True,
            max_workers=settings.max_workers,
            stop=Stop(),
        )
    except OSError as error:
        raise StorageError.from_os(error) from error
    told = str(findings) or f"{len(revision.marker.files)} files are what was published"
    reasons = {entry.path: reason for entry, reason in findings.damaged.items()}
    document = _document(name, reasons, findings.extra, findings.is_whole)
    tell(settings, f"{name}: {told}", document)
    return findings.is_whole


def _document(
    name: str, damaged: dict[str, str], extra: tuple[str, ...], is_whole: bool
) -> dict[str, object]:
    return {
        "event": "verified" if is_whole else "damaged",
        "model": name,
        "damaged": damaged,
        "extra": list(extra),
    }
