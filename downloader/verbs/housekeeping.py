"""The verbs that need no source: ``list``, ``verify``, ``prune`` and ``rollback``."""

from __future__ import annotations

from downloader.errors import CorruptFileError, InvalidSettingError, NotFoundError, StorageError
from downloader.logs import print_result
from downloader.settings import ListModels, Prune, Rollback, Verify
from downloader.volume.integrity import inspect
from downloader.volume.publish import switch
from downloader.volume.revisions import Revision, chosen_names, open_store, revisions
from downloader.volume.session import changing
from downloader.volume.staging import discard
from downloader.workers import Stop
from modelstore import ModelStore


def list_models(verb: ListModels) -> str:
    """Print every revision of every model; a star marks the served one."""
    store = open_store(verb)
    count = 0
    for name in chosen_names(verb, store):
        for revision in revisions(store, name):
            print_result(verb.log_format, _text(name, revision), _listed(name, revision))
            count += 1
    return f"{count} revisions"


def verify(verb: Verify) -> str:
    """Hash the served revision of each model, or of the one that is named; writes nothing.

    Raises:
        CorruptFileError: a file differs, is missing, or was not published.
        NotFoundError: no model is published.
    """
    store = open_store(verb)
    served = {
        name: revision
        for name in chosen_names(verb, store)
        for revision in revisions(store, name)
        if revision.is_active
    }
    if not served:
        raise NotFoundError(f"{store.root} has no published model")
    damaged = [name for name, revision in served.items() if not _is_intact(name, revision, verb)]
    if damaged:
        raise CorruptFileError(f"damaged: {', '.join(damaged)}; run fetch to repair")
    return f"{', '.join(served)}: intact"


def prune(verb: Prune) -> str:
    """Delete all but ``keep`` revisions of each model, never the served one.

    Delete the remains of killed runs too.

    Raises:
        StorageError: the volume refuses an operation.
    """
    store = open_store(verb)
    count = 0
    for name in chosen_names(verb, store):
        # Waits for a download of the same name to end.
        with changing(store, name, verb.lease_seconds, Stop()):
            count += _prune(store, name, verb)
    return f"{count} revisions deleted"


def rollback(verb: Rollback) -> str:
    """Switch to the previous revision or to that of ``--revision``; a second call switches back.

    Raises:
        NotFoundError: the revision does not exist or is not complete.
    """
    if not verb.name:
        raise InvalidSettingError("--name (DOWNLOADER_NAME): rollback requires a model name")
    store = open_store(verb)
    (name,) = chosen_names(verb, store)
    with changing(store, name, verb.lease_seconds, Stop()) as lease:
        revision = _rollback_target(store, name, verb.revision)
        lease.check()
        switch(store, name, revision.name)
    summary = f"{name}: now serving {revision.name}"
    document = {"event": "rolled_back", "model": name, "revision_folder": revision.name}
    print_result(verb.log_format, summary, document)
    return summary


def _text(name: str, revision: Revision) -> str:
    star = "*" if revision.is_active else " "
    line = f"{star} {name}  {revision.name or '(plain folder)'}"
    marker = revision.marker
    if marker is None:
        return f"{line}  incomplete"
    source = f"{marker.source} at {marker.revision}"
    return f"{line}  {marker.size:,} bytes  {marker.completed_at}  {source}"


def _listed(name: str, revision: Revision) -> dict[str, object]:
    marker = revision.marker
    document: dict[str, object] = {
        "model": name,
        "revision_folder": revision.name,
        "active": revision.is_active,
        "complete": marker is not None,
    }
    if marker is None:
        return document
    return document | {
        "bytes": marker.size,
        "completed_at": marker.completed_at,
        "source": marker.source,
        "revision": marker.revision,
    }


def _is_intact(name: str, revision: Revision, verb: Verify) -> bool:
    marker, folder = revision.marker, revision.folder
    if marker is None:
        document = _verified(name, {}, (), is_intact=False)
        print_result(verb.log_format, f"{name}: it has no readable marker", document)
        return False
    try:
        findings = inspect(folder, marker, rehash=True, max_workers=verb.max_workers, stop=Stop())
    except OSError as error:
        raise StorageError.from_os(error) from error
    text = str(findings) or f"{len(marker.files)} files match the marker"
    reasons = {entry.path: reason for entry, reason in findings.damaged.items()}
    document = _verified(name, reasons, findings.extra, is_intact=findings.is_intact)
    print_result(verb.log_format, f"{name}: {text}", document)
    return findings.is_intact


def _verified(
    name: str, damaged: dict[str, str], extra: tuple[str, ...], *, is_intact: bool
) -> dict[str, object]:
    return {
        "event": "verified" if is_intact else "damaged",
        "model": name,
        "damaged": damaged,
        "extra": list(extra),
    }


def _prune(store: ModelStore, name: str, verb: Prune) -> int:
    kept, count = 0, 0
    for revision in revisions(store, name):
        if revision.is_active or kept < verb.keep:
            kept += 1
            continue
        discard(store, revision.folder)
        document = {"event": "pruned", "model": name, "revision_folder": revision.name}
        print_result(verb.log_format, f"deleted {name} {revision.name}", document)
        count += 1
    return count


def _rollback_target(store: ModelStore, name: str, requested: str) -> Revision:
    found = revisions(store, name)
    others = [one for one in found if not one.is_active and one.marker is not None]
    if not requested:
        if others:
            return others[0]
        raise NotFoundError(f"{name!r} has no complete revision other than the served one")
    for one in found:
        if one.name == requested and one.marker is not None:
            return one
    known = ", ".join(one.name for one in others) or "none"
    raise NotFoundError(f"{name!r} has no complete revision {requested!r}; others: {known}")
