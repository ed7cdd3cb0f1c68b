"""``list``: what the volume holds."""

from __future__ import annotations

from downloader.settings import Settings
from downloader.verbs.output import tell
from downloader.volume.revisions import Revision, chosen_names, open_store, revisions


def list_models(settings: Settings) -> str:
    """Print every revision of every model, the served one of each marked with a star."""
    store = open_store(settings)
    count = 0
    for name in chosen_names(settings, store):
        for revision in revisions(store, name):
            tell(settings, _text(name, revision), _document(name, revision))
            count += 1
    return f"{count} revisions"


def _text(name: str, revision: Revision) -> str:
    star = "*" if revision.is_active else " "
    told = f"{star} {name}  {revision.name or '(plain folder)'}"
    marker = revision.marker
    if marker is None:
        return f"{told}  incomplete"
    source = f"{marker.source} at {marker.revision}"
    return f"{told}  {marker.size:,} bytes  {marker.completed_at}  {source}"


def _document(name: str, revision: Revision) -> dict[str, object]:
    marker = revision.marker
    told: dict[str, object] = {
        "model": name,
        "revision_folder": revision.name,
        "active": revision.is_active,
        "complete": marker is not None,
    }
    if marker is None:
        return told
    return told | {
        "bytes": marker.size,
        "completed_at": marker.completed_at,
        "source": marker.source,
        "revision": marker.revision,
    }
