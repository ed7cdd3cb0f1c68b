"""Reuses files that are already on the volume, in the staging folder or in another revision.

A file is reused only after all its bytes have been hashed. It is hard-linked, which costs no space,
or copied if the volume does not support hard links.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from downloader.fetch.file import partial_path
from downloader.hashing import matches
from downloader.plan import PlannedFile
from downloader.sources.remote import RemoteFile
from downloader.workers import Stop
from modelstore import FileEntry, IncompleteModelError, Marker, ModelStore


class OnVolume:
    """The files in the other folders of one model."""

    def __init__(self, store: ModelStore, name: str, excluded: Path) -> None:
        folders = [folder for folder in _folders(store, name) if folder != excluded]
        listed = {folder: _entries(folder) for folder in folders}
        self._folders = folders
        self._unlisted = [folder for folder, entries in listed.items() if not entries]
        self._by_digest = {
            (entry.sha256, entry.size): folder / entry.path
            for folder, entries in listed.items()
            for entry in entries
        }

    def take(self, file: PlannedFile, staging: Path, stop: Stop) -> str | None:
        """Put the file into ``staging`` if the volume has it, and return its SHA-256, else None."""
        place = staging / file.path
        existing = matches(place, file.remote, stop)
        if existing is not None:
            return existing.sha256
        place.unlink(missing_ok=True)
        for candidate in self._candidates(file):
            found = matches(candidate, file.remote, stop)
            if found is not None:
                _link_or_copy(candidate, place)
                return found.sha256
        return None

    def _candidates(self, file: PlannedFile) -> Iterator[Path]:
        digest, folders = file.remote.digest, self._folders
        if digest is not None and digest.algorithm == "sha256":
            same = self._by_digest.get((digest.value, file.remote.size))
            if same is not None:
                yield same
            # A file that a marker lists with another digest differs; only unlisted ones are read.
            folders = self._unlisted
        yield from (folder / file.path for folder in folders)


def partial_bytes(files: Iterable[PlannedFile], staging: Path) -> int:
    """Bytes of unfinished files that a killed run left."""
    return sum(_size(partial_path(staging / file.path, file.remote), file.remote) for file in files)


def _folders(store: ModelStore, name: str) -> list[Path]:
    """The served folder first, because it most likely has the same files."""
    folders = [store.model(name).resolve()]
    for parent in (store.revisions(name), store.staging(name)):
        if parent.is_dir():
            folders += [path for path in parent.iterdir() if not path.name.startswith(".")]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _entries(folder: Path) -> Iterable[FileEntry]:
    try:
        return Marker.read(folder).files
    except IncompleteModelError:
        return ()


def _link_or_copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:
        partial = place.with_name(f"{place.name}.copy")
        shutil.copyfile(source, partial)
        partial.rename(place)


def _size(partial: Path, file: RemoteFile) -> int:
    return min(partial.stat().st_size, file.size) if partial.exists() else 0
