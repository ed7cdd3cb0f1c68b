"""A revision that is damaged: only what is wrong is fetched, and replaced in its place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from downloader.errors import CorruptFileError
from downloader.fetch.transfer import Transfer
from downloader.plan import PlannedFile, ResolvedModel, list_part, path_in_model
from downloader.sources import Access
from downloader.sources.remote import Digest
from downloader.volume.integrity import Findings
from downloader.volume.publish import flush
from downloader.volume.trash import discard
from modelstore import FileEntry

logger = logging.getLogger("downloader")


def mend(
    folder: Path, findings: Findings, model: ResolvedModel, access: Access, transfer: Transfer
) -> None:
    """Make ``folder`` what its marker lists; readers see each file old or new, never half.

    What is not listed goes too: the folder is the downloader's own, and another configuration or
    weights file in it could be loaded.

    Raises:
        CorruptFileError: the source has such a file no more.
        DownloadError: as for a download.
    """
    logger.warning("%s: mending %s", model.name, findings, extra={"event": "mending"})
    files = list(_sources(findings, model, access, transfer))
    transfer.run(files)
    for file in files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        (transfer.staging / file.path).replace(place)
        flush(place.parent)
    for path in findings.extra:
        discard(transfer.store, folder / path)


def _sources(
    findings: Findings, model: ResolvedModel, access: Access, transfer: Transfer
) -> Iterator[PlannedFile]:
    wanted: dict[str, FileEntry] = {entry.path: entry for entry in findings.damaged}
    for part in model.parts:
        if not any(path.startswith(part.spec.folder) for path in wanted):
            continue
        for remote in list_part(part, access, transfer.stop):
            entry = wanted.get(path_in_model(part.spec, remote))
            if entry is None or remote.size != entry.size:
                continue
            # The marker's digest is the one to meet, whatever the source knows.
            digest = Digest("sha256", entry.sha256)
            if (
                remote.digest is None
                or remote.digest.algorithm != "sha256"
                or remote.digest == digest
            ):
                yield PlannedFile(part, replace(remote, digest=digest), entry.path)
                del wanted[entry.path]
    if wanted:
        raise CorruptFileError(f"{min(wanted)} is damaged, and its source has it no more")
