"""From a verified staging folder to a published model: whole on disk first, then one rename."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from modelstore import Marker, ModelStore


def recover(store: ModelStore, name: str) -> None:
    """Finish what a run that was killed inside ``publish`` left behind."""
    replaced = store.replaced(name)
    if not replaced.exists():
        return
    if _holds_anything(store.model(name)):
        shutil.rmtree(replaced)
    else:
        replaced.rename(store.model(name))


def publish(store: ModelStore, marker: Marker) -> None:
    """Write ``marker`` into the staging folder and give the folder its name.

    An older model of that name is deleted once the new one is in place. A reader that opens the
    folder between the two renames finds none; it never finds a mixture.
    """
    staging, model = store.staging(marker.name), store.model(marker.name)
    _delete_unlisted(staging, {entry.path for entry in marker.files})
    marker.write(staging)
    _flush_tree(staging)
    replaced = store.replaced(marker.name)
    if _holds_anything(model):
        model.rename(replaced)
    staging.rename(model)
    _flush(store.root)
    if replaced.exists():
        shutil.rmtree(replaced)


def _holds_anything(folder: Path) -> bool:
    """Not so for the empty folder that a kubelet makes for a pod which mounts the model too early.

    That one may belong to another user; a rename replaces it all the same (POSIX, ``rename``).
    """
    return folder.is_dir() and any(folder.iterdir())


def _delete_unlisted(folder: Path, listed: set[str]) -> None:
    # In reverse order a folder comes after what it holds.
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in listed:
            path.unlink()


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
