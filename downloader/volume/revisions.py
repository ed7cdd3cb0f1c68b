"""The revisions of the published models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from downloader.errors import NotFoundError
from downloader.settings import VolumeSettings
from downloader.volume.staging import check_folder
from modelstore import IncompleteModelError, Marker, ModelStore


@dataclass(frozen=True)
class Revision:
    """A revision's name and folder, its marker if readable, and whether it is served."""

    name: str
    folder: Path
    marker: Marker | None
    is_active: bool


def open_store(settings: VolumeSettings) -> ModelStore:
    """The volume of the settings.

    Raises:
        StorageError: the volume is not mounted.
    """
    check_folder(settings.target)
    return ModelStore(settings.target)


def chosen_names(settings: VolumeSettings, store: ModelStore) -> tuple[str, ...]:
    """The name in the settings, or all names on the volume.

    Raises:
        NotFoundError: the volume has no model of that name.
    """
    if not settings.name:
        return store.names()
    if settings.name not in store.names():
        raise NotFoundError(f"{store.root} has no model {settings.name!r}")
    return (settings.name,)


def revisions(store: ModelStore, name: str) -> tuple[Revision, ...]:
    """All revisions of a model: the served one, the previous one, then from new to old."""
    active, folder = store.active(name), store.revisions(name)
    previous = _previous_revision(store, name)
    paths = [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
    found = [Revision(path.name, path, _marker(path), path.name == active) for path in paths]
    place = store.model(name)
    if place.is_dir() and not place.is_symlink():
        found.append(Revision("", place, _marker(place), is_active=True))
    found.sort(key=lambda one: (one.name == previous, _completed(one.marker)), reverse=True)
    return tuple(sorted(found, key=lambda one: not one.is_active))


def _previous_revision(store: ModelStore, name: str) -> str | None:
    """The revision that was served before the present one, if it still exists."""
    link = store.previous(name)
    if not link.is_symlink() or not link.is_dir():
        return None
    return link.readlink().name


def _marker(folder: Path) -> Marker | None:
    try:
        return Marker.read(folder)
    except IncompleteModelError:
        return None


def _completed(marker: Marker | None) -> float:
    return datetime.fromisoformat(marker.completed_at).timestamp() if marker else 0.0
