"""The steps of a download: resolve, check what is published, plan, fetch, verify, publish.

A kill at any point leaves the served model as it was, and the next run continues from the fetched
bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from downloader.errors import CorruptFileError, StorageError
from downloader.fetch.transfer import Transfer
from downloader.plan import Plan, ResolvedModel, make_plan, resolve_model
from downloader.repair import repair
from downloader.settings import Fetch
from downloader.sources.access import Access
from downloader.sources.lfs import check_no_pointers
from downloader.spec import ModelSpec
from downloader.volume.integrity import Findings, inspect
from downloader.volume.lease import Lease
from downloader.volume.publish import store_revision, switch
from downloader.volume.session import changing, is_tidy
from downloader.volume.staging import claim
from downloader.weights import BadWeightsError, check_weights
from downloader.workers import Stop
from modelstore import FileEntry, IncompleteModelError, Marker, ModelStore, PartEntry

logger = logging.getLogger("downloader")


@dataclass(frozen=True)
class Report:
    """What is published now, and whether it was published before."""

    marker: Marker
    was_published: bool
    seconds: float

    def __str__(self) -> str:
        model = (
            f"{self.marker.name}: {self.marker.source} at {self.marker.revision}, "
            f"{len(self.marker.files)} files, {self.marker.size:,} bytes"
        )
        outcome = "already published" if self.was_published else f"{self.seconds:.1f} s"
        return f"{model}, {outcome}"


def download_model(spec: ModelSpec, settings: Fetch, access: Access) -> Report:
    """Publish the model under its name, unless it is already published.

    Raises:
        DownloadError: see ``downloader.errors``; the served model stays as it was.
        InvalidNameError: the name is not a valid folder name.
    """
    started = time.monotonic()
    stop = Stop()
    model = resolve_model(spec, access, stop)
    for part in model.parts:
        logger.info("resolved %s to %s", part.source.uri, part.revision)
    try:
        marker, was_published = _Download(model, settings, access, stop).run()
    except BaseException as error:
        stop.trip(error)  # after a signal the threads end too
        if isinstance(error, OSError):
            raise StorageError.from_os(error) from error
        raise
    return Report(marker, was_published, time.monotonic() - started)


@dataclass(frozen=True)
class _Download:
    model: ResolvedModel
    settings: Fetch
    access: Access
    stop: Stop

    def run(self) -> tuple[Marker, bool]:
        """The marker of the served model, and whether it was served before."""
        name, store = self.model.name, self._store
        served = self._served(self.settings.rehash) if is_tidy(store, name) else None
        if served is None:
            with changing(store, name, self.settings.lease_seconds, self.stop) as lease:
                # A run that waited relies on the other process, which read every byte.
                served = self._served(self.settings.rehash and not lease.has_waited)
                if served is None:
                    return self._publish(lease), False
        fields = {"model": name, "revision": served.revision}
        logger.info("%s: already published", name, extra={"event": "unchanged", "fields": fields})
        return served, True

    @property
    def _store(self) -> ModelStore:
        return ModelStore(self.settings.target)

    @property
    def _folder(self) -> Path:
        return self._store.revision(self.model.name, self.model.revision)

    def _served(self, rehash: bool) -> Marker | None:
        """The marker of the served model, if it is intact and is what was requested."""
        name = self.model.name
        place = self._store.model(name)
        marker = _read_marker(place)
        if marker is None:
            return None
        is_requested = self._store.active(name) == self.model.revision
        if not is_requested and (place.is_symlink() or not self._matches(marker)):
            return None
        return marker if self._inspect(place, marker, rehash).is_intact else None

    def _matches(self, marker: Marker) -> bool:
        """Whether a plain folder, which an older version published, is what was requested."""
        main = self.model.parts[0]
        spec = main.spec
        has_more = len(self.model.parts) > 1 or spec.skip_components
        has_more = has_more or spec.allow_patterns or spec.deny_patterns
        found = (marker.source, marker.revision, marker.asked_variant)
        return not has_more and found == (main.source.uri, main.revision, main.spec.variant)

    def _inspect(self, folder: Path, marker: Marker, rehash: bool) -> Findings:
        workers = self.settings.max_workers
        return inspect(folder, marker, rehash=rehash, max_workers=workers, stop=self.stop)

    def _publish(self, lease: Lease) -> Marker:
        store, name, revision = self._store, self.model.name, self.model.revision
        staging = claim(store, name, revision, lease.owner)
        transfer = Transfer(store, name, staging, self.settings, self.stop)
        marker = _read_marker(self._folder)
        if marker is None:
            marker = self._fetch(transfer)
            lease.check()
            store_revision(store, staging, marker, revision)
        else:
            findings = self._inspect(self._folder, marker, self.settings.rehash)
            if not findings.is_intact:
                repair(self._folder, findings, self.model, self.access, transfer)
        lease.check()
        switch(store, name, revision)
        fields = {"model": name, "revision": marker.revision, "path": str(store.model(name))}
        logger.info(
            "published %s", store.model(name), extra={"event": "published", "fields": fields}
        )
        return marker

    def _fetch(self, transfer: Transfer) -> Marker:
        plan = make_plan(self.model, self.access, self.stop)
        _log_plan(plan)
        digests = transfer.run(plan.files)
        logger.info("fetched %d files", len(plan.files), extra={"event": "fetched"})
        _check_weights(transfer.staging, plan)
        fields = {"model": self.model.name, "files": len(plan.files)}
        logger.info(
            "verified %d files", len(plan.files), extra={"event": "verified", "fields": fields}
        )
        return _marker(plan, digests)


def _log_plan(plan: Plan) -> None:
    model = plan.model
    fields = {
        "model": model.name,
        "files": len(plan.files),
        "total_bytes": plan.size,
        "revision": model.parts[0].revision,
    }
    logger.info(
        "planned %d files, %s bytes, %s",
        len(plan.files),
        f"{plan.size:,}",
        plan.variant_summary,
        extra={"event": "plan", "fields": fields},
    )
    for component in plan.missing:
        logger.warning(
            "%s: the source has no safetensors of the optional component %s, which is left out",
            model.name,
            component,
            extra={"event": "missing", "fields": {"model": model.name, "component": component}},
        )


def _read_marker(folder: Path) -> Marker | None:
    try:
        return Marker.read(folder)
    except IncompleteModelError:
        return None


def _check_weights(staging: Path, plan: Plan) -> None:
    by_path = {file.path: file for file in plan.files}
    check_no_pointers(staging, by_path)
    try:
        check_weights(staging, by_path)
    except BadWeightsError as error:
        if by_path[error.path].remote.digest is not None:
            raise  # the file is the same at the source
        (staging / error.path).unlink()
        raise CorruptFileError(str(error)) from None


def _marker(plan: Plan, digests: Mapping[str, str]) -> Marker:
    main, *others = plan.model.parts
    entries = (
        FileEntry(file.path, file.remote.size, digests[file.path])
        for file in sorted(plan.files, key=lambda file: file.path)
    )
    return Marker(
        name=plan.model.name,
        source=main.source.uri,
        revision=main.revision,
        variant=plan.variants[""],
        completed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=tuple(entries),
        asked_variant=main.spec.variant,
        parts=tuple(
            PartEntry(
                part.spec.folder, part.source.uri, part.revision, plan.variants[part.spec.folder]
            )
            for part in others
        ),
        left_out=plan.left_out,
    )
