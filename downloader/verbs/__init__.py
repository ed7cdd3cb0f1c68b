"""What the program can be asked to do, a module for each verb."""

from __future__ import annotations

from collections.abc import Callable

from downloader.settings import Settings


def find_verb(name: str) -> Callable[[Settings], str]:
    """The verb's function, which does it and returns one line of summary.

    Loads no other verb's libraries. The functions raise ``DownloadError`` or ``ModelStoreError``.
    """
    if name == "fetch":
        from downloader.verbs.fetching import fetch as verb
    elif name == "plan":
        from downloader.verbs.plan import plan as verb
    elif name == "verify":
        from downloader.verbs.housekeeping import verify as verb
    elif name == "list":
        from downloader.verbs.list import list_models as verb
    elif name == "prune":
        from downloader.verbs.prune import prune as verb
    else:
        from downloader.verbs.rollback import rollback as verb
    return verb
