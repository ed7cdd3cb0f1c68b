"""Deleting: a rename first, so that nothing is ever seen half-deleted, then the files.

What a killed run left in the trash is deleted by the next one; nobody needs to hold a lease for it.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from modelstore import ModelStore


def discard(store: ModelStore, path: Path) -> None:
    """Take a file or folder away at once, and then delete it."""
    store.trash.mkdir(exist_ok=True)
    gone = store.trash / f"{path.name}.{secrets.token_hex(8)}"
    path.rename(gone)
    _delete(gone)


def empty_trash(store: ModelStore) -> None:
    """Delete what dead runs left; another run may do the same at this moment."""
    if store.trash.is_dir():
        for path in store.trash.iterdir():
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
