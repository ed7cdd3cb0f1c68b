"""The repair of a damaged revision: fetches only the damaged files and replaces them in place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from downloader.errors import CorruptFileError
from downloader.fetch.transfer import Transfer
from downloader.plan import PlannedFile, ResolvedModel, list_part, path_in_model
from downloader.sources.access import Access
from downloader.sources.remote import Digest
from downloader.volume.integrity import Findings
from downloader.volume.publish import flush
from downloader.volume.staging import discard
from modelstore import FileEntry

logger = logging.getLogger("downloader")


def repair(
    folder: Path, findings: Findings, model: ResolvedModel, access: Access, transfer: Transfer
) -> None:
    """Make ``folder`` match its marker; readers see either the old or the new file.

    Files that the marker does not list are deleted: the folder belongs to the downloader, and the
    predictor could load another configuration or weights file in it.

    Raises:
        CorruptFileError: the source no longer has the file.
        DownloadError: as for a download.
    """
    logger.warning("%s: repairing: %s", model.name, findings, extra={"event": "repairing"})
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
    missing: dict[str, FileEntry] = {entry.path: entry for entry in findings.damaged}
    for part in model.parts:
        if not any(path.startswith(part.spec.folder) for path in missing):
            continue
        for remote in list_part(part, access, transfer.stop):
            entry = missing.get(path_in_model(part.spec, remote))
            if entry is None or remote.size != entry.size:
                continue
            # The marker's digest decides, whatever the source lists.
            digest = Digest("sha256", entry.sha256)
            if (
                remote.digest is None
                or remote.digest.algorithm != "sha256"
                or remote.digest == digest
            ):
                yield PlannedFile(part, replace(remote, digest=digest), entry.path)
                del missing[entry.path]
    if missing:
        raise CorruptFileError(f"{min(missing)} is damaged, and the source no longer has it")
