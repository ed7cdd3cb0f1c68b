"""Whether the volume can hold what is still to be fetched."""

from __future__ import annotations

import logging
import shutil

from downloader.errors import NoSpaceError
from modelstore import ModelStore

logger = logging.getLogger("downloader")

_EVENT = {"event": "space"}


def check_space(store: ModelStore, name: str, needed: int) -> None:
    """See that ``needed`` bytes are free.

    What is served stays until it is pruned, so its bytes do not count as free.

    Raises:
        NoSpaceError: tells needed and free bytes, and what a prune would bring.
    """
    free = shutil.disk_usage(store.root).free
    if needed <= free:
        logger.info("needed %s bytes, free %s bytes", f"{needed:,}", f"{free:,}", extra=_EVENT)
        return
    message = f"the target needs {needed:,} bytes more and has {free:,} bytes free"
    unserved = unserved_bytes(store, name)
    if unserved:
        message += f"; revisions of {name!r} that are not served hold {unserved:,} (see prune)"
    raise NoSpaceError(message)


def unserved_bytes(store: ModelStore, name: str) -> int:
    """Bytes that deleting every revision but the served one would free."""
    folder, active = store.revisions(name), store.active(name)
    if not folder.is_dir():
        return 0
    others = [path for path in folder.iterdir() if path.name != active and path.name[0] != "."]
    stats = [path.stat() for other in others for path in other.rglob("*") if path.is_file()]
    # A file that two revisions share by a hard link stays.
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)
