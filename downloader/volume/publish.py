"""Publishes a verified folder: flushes it to the disk, then switches a link by one rename."""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from downloader.errors import StorageError
from downloader.volume.staging import discard
from modelstore import IncompleteModelError, Marker, ModelStore

logger = logging.getLogger("downloader")


def store_revision(store: ModelStore, staging: Path, marker: Marker, revision: str) -> None:
    """Turn the staging folder into a revision, which is not served yet."""
    _delete_unlisted(staging, {entry.path for entry in marker.files})
    marker.write(staging)
    _flush_tree(staging)
    folder = store.revision(marker.name, revision)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        discard(store, folder)  # it has no readable marker
    staging.rename(folder)
    flush(folder.parent)


def switch(store: ModelStore, name: str, revision: str) -> None:
    """Serve ``revision``: a reader that opens the name finds either the old or the new one."""
    active = store.active(name)
    if active == revision:
        return
    if active is not None:
        _link(store, name, Path(active), store.previous(name))
    _make_way(store, name)
    _link(store, name, store.link_target(name, revision), store.model(name))


def _delete_unlisted(folder: Path, listed: set[str]) -> None:
    """Delete the files that are not listed, and then the empty folders."""
    # In reverse order a folder comes after its contents.
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in listed:
            path.unlink()


def flush(path: Path) -> None:
    """Flush the bytes of a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(store: ModelStore, name: str, target: Path, link: Path) -> None:
    new = store.scratch(name, "link")
    new.unlink(missing_ok=True)
    try:
        new.symlink_to(target)
    except OSError as error:
        raise StorageError(
            f"{store.root}: the volume refuses symbolic links ({error.strerror}); an SMB share "
            "supports them with the mount option mfsymlinks"
        ) from error
    new.replace(link)
    flush(link.parent)


def _make_way(store: ModelStore, name: str) -> None:
    """Move away a folder in the link's place, because a rename cannot replace it."""
    place = store.model(name)
    if place.is_symlink() or not place.exists():
        return
    if place.is_dir() and not any(place.iterdir()):
        # The kubelet creates one for a pod that mounts the model too early.
        place.rmdir()
        return
    adopted = _adopted_name(place)
    logger.info("%s: keeping the existing folder as revision %s", name, adopted)
    place.rename(store.revision(name, adopted))
    _link(store, name, Path(adopted), store.previous(name))


def _adopted_name(folder: Path) -> str:
    suffix = secrets.token_hex(4)
    try:
        commit = Marker.read(folder).revision.removeprefix("sha256:")[:12]
    except IncompleteModelError:
        return f"unknown-{suffix}"
    return f"{commit}-{suffix}"


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)
