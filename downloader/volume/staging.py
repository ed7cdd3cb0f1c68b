"""The temporary folders of a volume: downloads in progress, and what is being deleted.

The staging folder ``<revision>.<owner>`` is named after the owner of the lease. A run that
continues the folder of a dead run renames it first: if the other run was only suspended, it no
longer finds its folder and cannot publish it.

A deletion starts with a rename into the trash, so that no reader sees a half-deleted folder. The
next run deletes what a killed run left in the trash; this needs no lease.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from downloader.errors import StorageError
from modelstore import ModelStore

_REMAINS = r"lease\.[0-9a-f]{16}|link|probe|lock|replaced"


def check_writable(store: ModelStore, name: str) -> None:
    """Check that the volume is writable, by writing a file.

    Raises:
        OSError: it is not.
    """
    probe = store.scratch(name, "probe")
    probe.write_bytes(b"\n")
    probe.unlink()


def claim(store: ModelStore, name: str, revision: str, owner: str) -> Path:
    """The owner's folder for ``revision``: that of a dead run with its files, or a new one."""
    folder = store.staging(name) / f"{revision}.{owner}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    existing = [path for path in folder.parent.iterdir() if path.name.startswith(f"{revision}.")]
    if existing:
        max(existing, key=_bytes).rename(folder)
    else:
        folder.mkdir()
    return folder


def delete_all(store: ModelStore, name: str) -> None:
    """Delete every staging folder of ``name``; requires the lease."""
    folder = store.staging(name)
    if folder.is_dir():
        for path in folder.iterdir():
            discard(store, path)
        folder.rmdir()
    for path in remains(store, name):
        with suppress(FileNotFoundError):  # a process that waits for the lease removed it
            discard(store, path)


def remains(store: ModelStore, name: str) -> list[Path]:
    """The files of ``name`` next to the staging folders, which a kill may leave."""
    folder = store.staging(name).parent
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if _is_remains(path.name, name)]


def discard(store: ModelStore, path: Path) -> None:
    """Remove a file or folder by one rename, and then delete it."""
    store.trash.mkdir(exist_ok=True)
    trashed = store.trash / f"{path.name}.{secrets.token_hex(8)}"
    path.rename(trashed)
    _delete(trashed)


def empty_trash(store: ModelStore) -> None:
    """Delete what killed runs left in the trash; other runs may do so at the same time."""
    if store.trash.is_dir():
        for path in store.trash.iterdir():
            _delete(path)


def check_folder(root: Path) -> None:
    """Check that the volume is mounted and readable.

    Raises:
        StorageError: the path does not exist, is not a folder, or this process may not read it.
    """
    if not root.exists():
        raise StorageError(f"{root}: No such file or directory: is the volume mounted?")
    if not root.is_dir():
        raise StorageError(f"{root}: Not a directory")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise StorageError.from_os(error) from error


def _is_remains(file_name: str, name: str) -> bool:
    """Whether a killed run or an older version left this file."""
    # Compare whole names: one model's name may start with another's, as in "sd" and "sd.v2".
    rest = file_name.removeprefix(f".{name}.")
    return rest != file_name and re.fullmatch(_REMAINS, rest) is not None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
