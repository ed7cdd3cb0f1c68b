"""``rollback``: serve another revision that is on the volume already."""

from __future__ import annotations

from downloader.errors import InvalidSettingError, NotFoundError
from downloader.settings import Settings
from downloader.verbs.output import tell
from downloader.volume.publish import switch
from downloader.volume.revisions import Revision, chosen_names, open_store, revisions
from downloader.volume.session import changing
from downloader.workers import Stop
from modelstore import ModelStore


def rollback(settings: Settings) -> str:
    """Switch to the revision served before, or to that of ``--revision``; twice is back again.

    Raises:
        NotFoundError: there is no such revision, or it is not complete.
    """
    if not settings.name:
        raise InvalidSettingError("--name (DOWNLOADER_NAME): rollback needs one model's name")
    store = open_store(settings)
    (name,) = chosen_names(settings, store)
    with changing(store, name, settings, Stop()) as lease:
        revision = _wanted(store, name, settings.revision)
        lease.check()
        switch(store, name, revision.name)
    summary = f"{name}: {revision.name} is served"
    told = {"event": "rolled_back", "model": name, "revision_folder": revision.name}
    tell(settings, summary, told)
    return summary


def _wanted(store: ModelStore, name: str, asked: str) -> Revision:
    others = [one for one in revisions(store, name) if not one.is_active and one.marker is not None]
    if not asked:
        if others:
            return others[0]
        raise NotFoundError(f"{name!r} has no complete revision beside the one that is served")
    for one in revisions(store, name):
        if one.name == asked and one.marker is not None:
            return one
    known = ", ".join(one.name for one in others) or "none"
    raise NotFoundError(f"{name!r} has no complete revision {asked!r}; others are: {known}")
