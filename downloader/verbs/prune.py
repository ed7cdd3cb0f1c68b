"""``prune``: delete what nobody serves any more."""

from __future__ import annotations

from downloader.settings import Settings
from downloader.verbs.output import tell
from downloader.volume.revisions import chosen_names, open_store, revisions
from downloader.volume.session import changing
from downloader.volume.trash import discard
from downloader.workers import Stop
from modelstore import ModelStore


def prune(settings: Settings) -> str:
    """Leave ``keep`` revisions of each model, the served one always, and nothing of dead runs.

    Raises:
        StorageError: the volume refuses.
    """
    store = open_store(settings)
    count = 0
    for name in chosen_names(settings, store):
        # It waits for a download of the name to end.
        with changing(store, name, settings, Stop()):
            count += _prune(store, name, settings)
    return f"{count} revisions deleted"


def _prune(store: ModelStore, name: str, settings: Settings) -> int:
    kept, count = 0, 0
    for revision in revisions(store, name):
        if revision.is_active or kept < settings.keep:
            kept += 1
            continue
        discard(store, revision.folder)
        told = {"event": "pruned", "model": name, "revision_folder": revision.name}
        tell(settings, f"deleted {name} {revision.name}", told)
        count += 1
    return count
